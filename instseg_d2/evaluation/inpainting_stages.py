"""Evaluation of a stage of video object inpainting, or of what needs no network in its place, on clips with truth."""

from typing import Any

import torch
from detectron2.evaluation import DatasetEvaluator

from instseg_d2.inpainting.baseline import telea_fill
from instseg_d2.inpainting.stages.stage import require

from .inpainting import InpaintingEvaluator
from .shape_baselines import convex_hulls, flow_aligned_union

Item = dict[str, Any]


def _visible(item: Item) -> Item:
    return {"complete": require(item, "visible")[0]}


def _hull(item: Item) -> Item:
    return {"complete": convex_hulls(*require(item, "visible"))}


def _union(item: Item) -> Item:
    names = ("visible", "eraser", "observed_forward_flow", "observed_backward_flow")
    return {"complete": flow_aligned_union(*(part[None] for part in require(item, *names)))[0]}


def _observed_flow(item: Item) -> Item:
    return {"flows": tuple(require(item, "observed_forward_flow", "observed_backward_flow"))}


def _harmonic_flow(item: Item) -> Item:
    return {"flows": tuple(require(item, "harmonic_forward_flow", "harmonic_backward_flow"))}


def _weight_free(item: Item) -> Item:
    names = ("propagated_frames", "propagated_visible", "complete")
    frames, visible, complete = (part[None] for part in require(item, *names))
    return {"frames": telea_fill(frames, visible, complete * (1 - visible))[0][0]}


BASELINES = {
    "visible": _visible,
    "convex hull": _hull,
    "flow-aligned union": _union,
    "observed flow": _observed_flow,
    "harmonic flow": _harmonic_flow,
    "weight-free": _weight_free,
}


class StageEvaluator(DatasetEvaluator):
    """Hands clips and a stage's predictions to `InpaintingEvaluator`.

    Args:
        evaluator: what computes the figures.
        instead: score one of `BASELINES` in place of the predictions, from what the clips hold: of the complete masks
            "visible", "convex hull" and "flow-aligned union" (inside the eraser's mask), of the flow "observed flow"
            and "harmonic flow", of the frames "weight-free": propagated pixels, and Telea's inpainting for the rest.

    Raises:
        ValueError: there is no such baseline.
    """

    def __init__(self, *, evaluator: InpaintingEvaluator, instead: str | None = None):
        if instead is not None and instead not in BASELINES:
            raise ValueError(f"instead='{instead}': one of {', '.join(BASELINES)}, or None")
        self.evaluator = evaluator
        self.instead = instead

    def reset(self) -> None:
        """Forget all clips."""
        self.evaluator.reset()

    def process(self, inputs: list[Item], outputs: list[Item]) -> None:
        """Score clips.

        Args:
            inputs: items of `InpaintingClips` with a `file_name`, as `ClipMapper` gives them.
            outputs: predictions of a `Stage`.
        """
        for item, output in zip(inputs, outputs, strict=True):
            output = output if self.instead is None else BASELINES[self.instead](item)
            flows = output.get("flows")
            true_flows = (item["forward_flow"], item["backward_flow"]) if "forward_flow" in item else None
            frames, propagated = output.get("frames"), None
            if frames is not None and "propagated_visible" in item:
                propagated = item["propagated_visible"] * (1 - item["visible"])
            self.evaluator.process(
                item["file_name"],
                clean=item["clean"],
                visible=item["complete"] * (1 - item["hole"]),
                complete=item["complete"],
                result=_on_cpu(frames),
                predicted=_on_cpu(output.get("complete")),
                flows=None if flows is None else tuple(map(_on_cpu, flows)),
                true_flows=true_flows,
                propagated=propagated,
            )

    def evaluate(self) -> dict[str, dict[str, float]]:
        """See `InpaintingEvaluator.evaluate`."""
        return self.evaluator.evaluate()


def _on_cpu(part: torch.Tensor | None) -> torch.Tensor | None:
    return None if part is None else part.cpu()
