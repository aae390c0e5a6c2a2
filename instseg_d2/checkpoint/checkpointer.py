"""A checkpointer that never leaves half a file behind, and loading that says when a file belongs to another model."""

import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from detectron2.checkpoint import DetectionCheckpointer
from torch import nn

from instseg_d2.files import replacing

from .torchvision_resnet import is_torchvision_resnet, rename_torchvision_resnet


class CheckpointError(RuntimeError):
    """A checkpoint cannot be loaded: it is damaged, would run code, or belongs to something else."""


class CheckpointMismatchError(CheckpointError):
    """A checkpoint does not hold the parameters of the model that it is loaded into."""


def replace_checkpoint(target: Path, write: Callable[[Path], Any], advice: str) -> None:
    """Write a checkpoint whole or not at all.

    Args:
        target: the file.
        write: writes to the path that it is given.
        advice: what the user may do when that fails.

    Raises:
        OSError: it cannot be written; an older file stays as it is.
    """
    try:
        with replacing(target) as partial:
            write(partial)
    except (OSError, RuntimeError) as error:  # torch.save reports a full disk as a RuntimeError
        free = shutil.disk_usage(target.parent).free / 2**20 if target.parent.is_dir() else 0
        raise OSError(f"cannot write {target} ({error}); {free:.0f} MiB are free there. {advice}") from error


class Checkpointer(DetectionCheckpointer):
    """`DetectionCheckpointer` with atomic writes and a report of what did not match.

    A checkpoint is written beside its target and renamed when it is whole, so that neither a full disk nor a kill
    destroys an earlier one, and `last_checkpoint` only ever names a complete file.

    Attributes:
        incompatible: missing keys, unexpected keys and mismatched shapes of the last load; None before it.
    """

    incompatible = None

    def save(self, name: str, **kwargs: Any) -> None:
        """Write `<save_dir>/<name>.pth` with the model, all checkpointables and `kwargs`.

        Raises:
            OSError: the file cannot be written; earlier checkpoints are untouched.
        """
        self.write(name, **kwargs)
        if self.save_dir and self.save_to_disk:
            self.tag_last_checkpoint(f"{name}.pth")

    def write(self, name: str, **kwargs: Any) -> None:
        """As `save`, but a later `--resume` does not start from this file (the best weights, exports)."""
        if not self.save_dir or not self.save_to_disk:
            return
        data = {"model": self.model.state_dict(), **kwargs}
        data.update({key: item.state_dict() for key, item in self.checkpointables.items()})
        target = Path(self.save_dir) / f"{name}.pth"
        self.logger.info(f"saving checkpoint {target}")
        self._replace(target, lambda path: torch.save(data, path))

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Make `last_checkpoint` name a file of the save folder."""
        self._replace(Path(self.save_dir) / "last_checkpoint", lambda path: path.write_text(last_filename_basename))

    @staticmethod
    def _replace(target: Path, write: Callable[[Path], Any]) -> None:
        advice = "Earlier checkpoints are untouched; make room or set train.output_dir, then continue with --resume."
        replace_checkpoint(target, write, advice)

    def load(self, path: str, checkpointables: list[str] | None = None) -> dict[str, Any]:
        """Load a file into the model and the checkpointables, as `DetectionCheckpointer.load`.

        Raises:
            FileNotFoundError: no such file.
            CheckpointError: the file is damaged, would run code, or does not fit the checkpointables.
        """
        if path and "://" not in path and not Path(path.partition("?")[0]).is_file():
            raise FileNotFoundError(f"no checkpoint at '{path}'")
        try:
            return super().load(path, checkpointables)
        except (pickle.UnpicklingError, OSError, RuntimeError, ValueError, EOFError, KeyError) as error:
            # The text of these errors alone says little of a damaged file.
            cause = (
                f"{type(error).__name__}: {error}" if isinstance(error, EOFError | KeyError | OSError) else str(error)
            )
            message = cause if path in cause else f"cannot load checkpoint '{path}': {cause}"
            raise CheckpointError(f"{message} (start from another file with train.init_checkpoint)") from error

    def require_parameters(self, path: str, *, partial: bool = False) -> None:
        """Make sure that the last load gave every parameter of the model a value.

        Args:
            path: what was loaded, for the message.
            partial: be content with a part of the parameters.

        Raises:
            CheckpointMismatchError: parameters are missing or of another shape; with `partial`, none fits.
        """
        found = self.incompatible
        parameters = [name for name, _ in self.model.named_parameters()]
        unusable = {*found.missing_keys, *(entry[0] for entry in found.incorrect_shapes)}
        absent = [name for name in parameters if name in unusable]
        if not absent or (partial and len(absent) < len(parameters)):
            return
        shown = ", ".join(absent[:3]) + (", ..." if len(absent) > 3 else "")
        shapes = "; ".join(f"{name}: file {tuple(a)}, model {tuple(b)}" for name, a, b in found.incorrect_shapes[:3])
        raise CheckpointMismatchError(
            f"'{path}' belongs to another model: {len(absent)} of {len(parameters)} parameters are not in it or have "
            f"another shape ({shown}{'; ' + shapes if shapes else ''}). Check --config-file and num_classes."
        )

    def _load_file(self, filename: str) -> dict[str, Any]:
        content = super()._load_file(filename)
        if is_torchvision_resnet(content["model"]):
            # By the heuristics a backbone's names match at any depth of the model.
            content = {**content, "model": rename_torchvision_resnet(content["model"]), "matching_heuristics": True}
        return content

    def _load_model(self, checkpoint: dict) -> Any:
        self.incompatible = super()._load_model(checkpoint)
        return self.incompatible


def load_weights(model: nn.Module, path: str, *, partial: bool = False) -> None:
    """Load a checkpoint's weights into a model.

    Args:
        model: any module; its buffers and parameters are overwritten in place.
        path: `.pth`, Caffe2/MSRA/model-zoo `.pkl`, local or a URL. A file that holds moving-average weights
            (`train.ema`) gives those; a ResNet of torchvision's is renamed to detectron2's.
        partial: accept a file that covers only a part of the model, such as a pre-trained backbone. False
            demands every parameter.

    Raises:
        FileNotFoundError: no such file.
        CheckpointError: the file is damaged or would run code.
        CheckpointMismatchError: parameters are missing or of another shape; with `partial`, none fits.
    """
    checkpointer = Checkpointer(model)
    checkpointer.load(path, checkpointables=[])
    checkpointer.require_parameters(path, partial=partial)
