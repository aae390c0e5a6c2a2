"""What instseg_d2's loading says of a file that the runtime refuses to unpickle."""

import pickle
from pathlib import Path

import pytest
import torch

from instseg_d2.checkpoint import CheckpointError, load_weights
from instseg_d2.testing import tiny_mask_rcnn


class RunsCode:
    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self):
        return Path.touch, (self.trace,)


@pytest.mark.bundled_only
@pytest.mark.parametrize("ending", ["pkl", "pth"])
def test_checkpoint_that_would_run_code_is_refused(tmp_path, ending):
    evil, trace = tmp_path / f"evil.{ending}", tmp_path / "trace"
    content = {"model": {"weight": RunsCode(trace)}, "__author__": "somebody"}
    with evil.open("wb") as file:
        (pickle.dump if ending == "pkl" else torch.save)(content, file)
    with pytest.raises(CheckpointError, match=rf"evil\.{ending} was not loaded: .*could run code"):
        load_weights(tiny_mask_rcnn(), str(evil))
    assert not trace.exists()
