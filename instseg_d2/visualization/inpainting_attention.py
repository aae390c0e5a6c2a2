"""Where content completion lets colours through, and where its discriminator looks: gates and STAM's weights."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import cv2
import numpy as np
import torch
from torch import nn

from instseg_d2.inpainting.clips import as_images
from instseg_d2.inpainting.discriminators import SpatioTemporalAttention
from instseg_d2.inpainting.stages.stage import AdversarialStage, stack_items

from .inpainting_stages import FRAME_WIDTH
from .panels import Heat
from .sheet import of_width, side_by_side, tile

# A gate lets through nothing at 0 and all at 1.
_SHARE = Heat(0.0, 1.0)
# STAM adds features times a product of two weights, each in (0, 1).
_PRODUCT = Heat(0.0, None)


def draw_attention(stage: AdversarialStage, item: dict[str, Any], *, frames: int = 5) -> np.ndarray | None:
    """Draw a clip with the gates of the first, a middle and the last block (eq. 5.13), and STAM's weights (Fig. 5.9).

    Args:
        stage: `ContentStage` or `JointStage`; stays as it is, in its mode.
        item: of `InpaintingClips`, as `ClipMapper` gives it.
        frames: how many rows, at equal steps through the clip.

    Returns:
        (H, W, 3) uint8 BGR: the frame, the gates, each the mean over its channels, from 0 to 1, and what the class
        discriminator weighs the clean and the painted clip with, the weight of the frame above it. None where the
        stage has neither gates nor STAM.
    """
    gates, weights = _look(stage, item)
    if not gates and not weights:
        return None
    observed = as_images(item["frames"])
    chosen = sorted({0, len(gates) // 2, len(gates) - 1}) if gates else []
    style = _PRODUCT.fitted([maps.numpy() for maps, _ in weights.values()])
    rows = []
    for time in np.unique(np.linspace(0, len(observed) - 1, frames).round().astype(int)):
        panels = {"observed": of_width(observed[time], FRAME_WIDTH)}
        for index in chosen:
            panels[f"gate {index + 1} of {len(gates)}"] = _heat(_SHARE, panels["observed"], gates[index][time])
        for name, (maps, of_frames) in weights.items():
            caption = f"STAM {name}, frame {of_frames[time]:.2f}"
            panels[caption] = _heat(style, panels["observed"], maps[time])
        rows.append(side_by_side(list(panels.values()), list(panels)))
    return tile(rows, columns=1)


@torch.no_grad()
def _look(
    stage: AdversarialStage, item: dict[str, Any]
) -> tuple[list[torch.Tensor], dict[str, tuple[torch.Tensor, torch.Tensor]]]:
    """Gates (T, h, w) by block; and by clip the weights (T, h, w) of STAM, with those of the frames (T,) among them."""
    weights = {}
    critic = stage.critics.by_class
    with _keeping_aux(stage):
        _, evidence = stage.painter(stack_items([item], stage.device))
        gates = [gate[0].cpu() for gate in stage.networks["content"].aux["gates"]]
        attention = [x for x in critic.modules() if isinstance(x, SpatioTemporalAttention)] if critic else []
        for name, clip in (("clean", evidence.real), ("painted", evidence.fake)) if attention else ():
            critic(clip, evidence.complete)
            aux = {key: value[0].cpu() for key, value in attention[0].aux.items()}
            weights[name] = aux["spatial"] * aux["temporal"][:, None, None], aux["temporal"]
    return gates, weights


@contextmanager
def _keeping_aux(stage: nn.Module) -> Iterator[None]:
    """In evaluation mode, with modules that keep what they saw; both are put back."""
    training = stage.training
    kept = {module: module.keep_aux for module in stage.modules() if hasattr(module, "keep_aux")}
    stage.eval()
    for module in kept:
        module.keep_aux = True
    try:
        yield
    finally:
        stage.train(training)
        for module, before in kept.items():
            module.keep_aux, module.aux = before, {}


def _heat(style: Heat, frame: np.ndarray, values: torch.Tensor) -> np.ndarray:
    enlarged = cv2.resize(values.numpy(), frame.shape[1::-1], interpolation=cv2.INTER_NEAREST)
    return style.draw(frame, enlarged, np.zeros(3, np.uint8))
