"""The checkpointer of detection models: reads detectron2, Caffe2 and torch files, and never leaves half a file."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any
from urllib.parse import parse_qs, urlsplit

import torch
from fvcore.common.checkpoint import Checkpointer
from torch import nn

import detectron2.utils.comm as comm
from detectron2.utils.file_io import PathManager

from ._safe_load import load_pickle, load_torch
from .c2_model_loading import align_and_update_state_dicts

_CAFFE2 = "Caffe2"


class DetectionCheckpointer(Checkpointer):
    """Saves a model with whatever trains it, and loads what detectron2 and its relatives have published.

    Files: ``.pth`` of torch, detectron2's model zoo ``.pkl``, Caffe2 Detectron ``.pkl``, pycls ``.pyth``. None of them
    can run code: a file that asks for more than tensors, arrays, numbers, strings and containers is refused. A path
    that ends in ``?matching_heuristics=True`` is loaded with
    :func:`~detectron2.checkpoint.c2_model_loading.align_and_update_state_dicts`.

    A save is written next to its final name and moved there when it is complete, and only then does
    ``last_checkpoint`` name it: neither a full disk nor a kill costs the last good file. In a distributed job the main
    process saves, and every process loads for itself.

    Args:
        model: the model; a ``DistributedDataParallel`` is unwrapped.
        save_dir: folder of the checkpoints.
        save_to_disk: whether this process writes; by default the main process does.
        checkpointables: optimizer, scheduler, trainer and so on, by the name they are saved under: objects with
            ``state_dict()`` and ``load_state_dict()``.
    """

    def __init__(
        self,
        model: nn.Module,
        save_dir: str = "",
        *,
        save_to_disk: bool | None = None,
        **checkpointables: Any,
    ):
        if save_to_disk is None:
            save_to_disk = comm.is_main_process()
        super().__init__(model, save_dir, save_to_disk=save_to_disk, **checkpointables)
        self.path_manager = PathManager
        self._query: dict[str, list[str]] = {}

    def save(self, name: str, **kwargs: Any) -> None:
        """Write ``<save_dir>/<name>.pth`` and let ``last_checkpoint`` point to it.

        Args:
            name: file name without folder and ending.
            kwargs: further entries of the file, such as ``iteration``.
        """
        if not self.save_dir or not self.save_to_disk:
            return
        basename = f"{name}.pth"
        if os.path.basename(basename) != basename:
            raise ValueError(f"A checkpoint's name has no folder in it, got {name!r}")
        content = {"model": self.model.state_dict()}
        content.update({key: obj.state_dict() for key, obj in self.checkpointables.items()})
        content.update(kwargs)

        path = os.path.join(self.save_dir, basename)
        self.logger.info(f"Saving checkpoint to {path}")
        with self._write(path, "wb") as f:
            torch.save(content, f)
        self.tag_last_checkpoint(basename)

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        with self._write(os.path.join(self.save_dir, "last_checkpoint"), "w") as f:
            f.write(last_filename_basename)

    @contextmanager
    def _write(self, path: str, mode: str) -> Iterator[IO[Any]]:
        """Open a file that appears under its name once it is complete, and not at all if writing it fails."""
        if "://" in path:  # a remote store has its own way to publish a file
            with self.path_manager.open(path, mode) as f:
                yield f
            return
        partial = f"{path}.partial"
        try:
            with open(partial, mode) as f:
                yield f
                f.flush()
                os.fsync(f.fileno())  # else a power cut could leave the new name with no content
            os.replace(partial, path)
        except BaseException:
            if os.path.exists(partial):
                os.remove(partial)
            raise

    def load(self, path: str, checkpointables: list[str] | None = None) -> dict[str, Any]:
        """Load a file into the model and the checkpointables, and log every key that does not fit.

        Args:
            path: file, URL, or path of any registered handler; empty loads nothing.
            checkpointables: names of those to load; None loads all that the file has.

        Returns:
            What the file has beyond the model and the loaded checkpointables.

        Raises:
            pickle.UnpicklingError: the file asks for objects that could run code.
            RuntimeError: the file is damaged.
            ValueError: the path has a query other than ``matching_heuristics``.
        """
        if not path:
            return super().load(path, checkpointables)
        self.logger.info(f"[DetectionCheckpointer] Loading from {path} ...")
        url = urlsplit(path)
        self._query = parse_qs(url.query)
        try:
            local = self.path_manager.get_local_path(url._replace(query="").geturl())
            return super().load(local, checkpointables)
        finally:
            self._query = {}

    def _load_file(self, filename: str) -> dict[str, Any]:
        if filename.endswith(".pkl"):
            with self.path_manager.open(filename, "rb") as f:
                return self._from_pickle(load_pickle(f, filename))
        loaded = load_torch(filename)
        if filename.endswith(".pyth"):
            return self._from_pycls(loaded, filename)
        if "model" not in loaded:
            loaded = {"model": loaded}
        query = dict(self._query)
        if query.pop("matching_heuristics", ["False"]) == ["True"]:
            loaded["matching_heuristics"] = True
        if query:
            raise ValueError(f"Unsupported query in the path of checkpoint {filename}: {query}")
        return loaded

    def _from_pickle(self, data: dict[str, Any]) -> dict[str, Any]:
        if "model" in data and "__author__" in data:
            self.logger.info(f"Reading a file from '{data['__author__']}'")
            return data
        # Caffe2: a detector is in "blobs", an ImageNet model is not
        blobs = data.get("blobs", data)
        model = {name: value for name, value in blobs.items() if not name.endswith("_momentum")}
        return {"model": model, "__author__": _CAFFE2, "matching_heuristics": True}

    @staticmethod
    def _from_pycls(data: dict[str, Any], filename: str) -> dict[str, Any]:
        if "model_state" not in data:
            raise ValueError(f"{filename} is no pycls checkpoint: it has no 'model_state'")
        model = {k: v for k, v in data["model_state"].items() if not k.endswith("num_batches_tracked")}
        return {"model": model, "__author__": "pycls", "matching_heuristics": True}

    def _load_model(self, checkpoint: dict[str, Any]) -> Any:
        if checkpoint.get("matching_heuristics", False):
            self._convert_ndarray_to_tensor(checkpoint["model"])
            checkpoint["model"] = align_and_update_state_dicts(
                self.model.state_dict(),
                checkpoint["model"],
                c2_conversion=checkpoint.get("__author__") == _CAFFE2,
            )
        incompatible = super()._load_model(checkpoint)
        # a BatchNorm counter that is absent counts as loaded
        names = {k for k in self.model.state_dict() if not k.endswith("num_batches_tracked")}
        if names and names <= set(incompatible.missing_keys):
            self.logger.warning(f"The checkpoint has none of the model's {len(names)} tensors: is it of another model?")

        # pixel statistics come from the config, whether or not an old file has them
        own_buffers = dict(self.model.named_buffers(recurse=False))
        for name in {"pixel_mean", "pixel_std"} & own_buffers.keys() & set(incompatible.missing_keys):
            incompatible.missing_keys.remove(name)
        # old files carry the anchors, which are computed now
        incompatible.unexpected_keys[:] = [
            key for key in incompatible.unexpected_keys if "anchor_generator.cell_anchors" not in key
        ]
        return incompatible
