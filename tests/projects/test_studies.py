"""Every row of every study can be trained: its config has the keys that it overrides, and its model builds."""

import pytest
import torch
from detectron2.config import instantiate

from instseg_d2.engine.overrides import apply_overrides
from instseg_d2.reproduction import load_study
from instseg_d2.reproduction.study import studies


def _recipes():
    """One test for each set of overrides of a config."""
    seen = set()
    for folder in studies():
        for row in load_study(folder).rows.values():
            for budget in ("quick", "full"):
                found = row.recipe(budget)
                if found is None or not found.overrides or found in seen or "_swin_" in found.config:
                    continue
                seen.add(found)
                yield pytest.param(found, id=f"{folder.name}-{budget}-{row.name}")


@pytest.mark.parametrize("found", _recipes())
def test_row_builds(recipe, found):
    cfg = apply_overrides(recipe(found.config), found.overrides)
    assert instantiate(cfg.dataloader.train.mapper) is not None
    # Models of recipes as they are have their own test.
    if any(override.lstrip("+~").startswith("model.") for override in found.overrides):
        with torch.device("meta"):
            assert instantiate(cfg.model) is not None
