"""From a recipe of a stage of video object inpainting and its checkpoint to the network, and from three to one."""

import logging
from collections.abc import Sequence
from pathlib import Path

import torch
from detectron2.config import instantiate
from torch import nn

from instseg_d2.checkpoint import load_weights
from instseg_d2.checkpoint.checkpointer import replace_checkpoint
from instseg_d2.inpainting.flow.backends import FlowBackend
from instseg_d2.inpainting.stages.stage import Stage
from instseg_d2.model_zoo import get_config

from .overrides import SettingError, apply_overrides

_log = logging.getLogger(__name__)

# Where the parts of a stage's checkpoint are in that of the joint stage.
_PLACES = {
    "shape": {"network.": "painter.shape.network."},
    "flow": {"network.": "painter.flow.network."},
    "content": {"painter.": "painter.content.", "critics.": "critics."},
}


def load_stage(
    recipe: str, checkpoint: str, *, part: str | None = None, overrides: Sequence[str] = (), device: str = "cpu"
) -> nn.Module:
    """The trained network of a stage.

    Args:
        recipe: of the stage, by name, or as a file: the `config.yaml` of the training's folder, or a `.py`.
        checkpoint: what its training has written.
        part: "shape", "flow" or "content"; needed for a recipe that trains several.
        overrides: `key=value`, those that the recipe was trained with.
        device: where the network goes.

    Returns:
        a `ShapeCompletion`, `FlowCompletion` or `OcclusionAwareGenerator` in evaluation mode. Flow is completed as its
        `start` says, and it knows the mistakes of one backend alone, that of `dataloader.train.mapper.flow`.

    Raises:
        SettingError: the recipe trains something else.
        FileNotFoundError: no such recipe or checkpoint.
        CheckpointError: the checkpoint is damaged, or belongs to another model.
    """
    cfg = apply_overrides(get_config(recipe), overrides)
    stage = instantiate(cfg.model)
    if not isinstance(stage, Stage):
        raise SettingError(f"recipe '{recipe}' trains a {type(stage).__name__}, no stage of video object inpainting")
    networks = stage.networks
    if part is None and len(networks) == 1:
        part = next(iter(networks))
    if part not in networks:
        raise SettingError(f"recipe '{recipe}' trains {', '.join(networks)}, not '{part}'; say which part to load")
    load_weights(stage, checkpoint)
    return networks[part].requires_grad_(False).eval().to(device)


def warn_of_other_flow(recipe: str, backend: FlowBackend) -> None:
    """Warn if the flow completion of a recipe was trained on the flow of another backend than is used with it.

    Args:
        recipe: see `load_stage`.
        backend: whose flow it is to complete.
    """
    trained_on = get_config(recipe).dataloader.train.mapper.flow
    if trained_on is None:
        return
    name = type(instantiate(trained_on)).__name__
    if name != type(backend).__name__:
        _log.warning(
            "recipe '%s' has learned to complete the flow of %s and now gets that of %s, which errs in other ways",
            recipe,
            name,
            type(backend).__name__,
        )


def join_checkpoints(target: str, **checkpoints: str) -> None:
    """Make of checkpoints of stages one that the joint stage starts from (`train.init_checkpoint`).

    Args:
        target: file to write.
        checkpoints: `shape`, `flow`, `content`: files of the trainings; one that is left out starts from random
            weights.

    Raises:
        SettingError: a stage of another name, or a checkpoint that is not of that stage.
        OSError: a file cannot be read or written.
    """
    joined = {}
    for stage, path in checkpoints.items():
        if stage not in _PLACES:
            raise SettingError(f"no stage '{stage}'; there are {', '.join(_PLACES)}")
        weights = torch.load(path, map_location="cpu", weights_only=True)["model"]
        moved = {
            place + name.removeprefix(prefix): value
            for name, value in weights.items()
            for prefix, place in _PLACES[stage].items()
            if name.startswith(prefix)
        }
        if len(moved) < len(weights):
            raise SettingError(
                f"'{path}' is no checkpoint of the stage '{stage}'; its first entry is {next(iter(weights))}"
            )
        joined |= moved
    replace_checkpoint(Path(target), lambda path: torch.save({"model": joined}, path), "Choose another folder.")
