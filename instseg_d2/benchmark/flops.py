"""Multiply-adds of a model's parts."""

from detectron2.utils.analysis import FlopCountAnalysis
from torch import nn

from .stages import stage_modules


class _BeforePostprocess(nn.Module):
    """Predicts without pasting masks: that has no multiply-adds, and may leave the graph which is counted."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, batched_inputs: list[dict]) -> list:
        if hasattr(self.model, "inference"):
            return self.model.inference(batched_inputs, do_postprocess=False)
        return self.model(batched_inputs)


def count_flops(model: nn.Module, inputs: list[dict]) -> dict[str, float]:
    """Count the multiply-adds of a prediction (what papers call FLOPs), by part.

    Args:
        model: in evaluation mode; what its heads cost depends on how much it detects.
        inputs: of the model.

    Returns:
        by the names of `stage_modules`, each with the parts inside of it, and the whole model under "".
    """
    analysis = FlopCountAnalysis(_BeforePostprocess(model), inputs)
    counts = analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False).by_module()
    found = {"": counts[""]}
    # Two models are around it: the one above, and the adapter that makes it traceable.
    return found | {name: counts[f"model.model.{name}"] for name in stage_modules(model)}
