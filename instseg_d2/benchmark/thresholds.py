"""Score thresholds for models with random weights, whose scores are all alike and below those of the recipe."""

import torch
from torch import nn

from .models import inference


def lower_thresholds(model: nn.Module, inputs: list[dict], candidates: int = 300) -> bool:
    """Lower score thresholds until a model detects something, so that its mask head has work to do.

    The box predictors of RoI heads, one or a cascade, let through the best `candidates` pairs of box and class; a dense
    detector its best locations, as many as it takes before NMS.

    Args:
        model: with `test_score_thresh` in the detector or in its box predictors.
        inputs: of the model; one forward pass is made.
        candidates: before NMS, for all images together.

    Returns:
        Whether there was such a threshold.
    """
    holders = [module for module in model.modules() if hasattr(module, "test_score_thresh")]
    predictors = [module for module in holders if hasattr(module, "cls_score")]
    scores: list[torch.Tensor] = []
    handles = [module.register_forward_hook(lambda _, __, output: scores.append(output[0])) for module in predictors]
    try:
        if predictors:
            inference(model, inputs)()
    finally:
        for handle in handles:
            handle.remove()
    for module in holders:
        module.test_score_thresh = 0.0
    if scores:
        # A cascade averages the probabilities of its stages. The last column is the background.
        probabilities = torch.stack(scores).float().softmax(dim=-1).mean(dim=0)[:, :-1].flatten()
        threshold = probabilities.topk(min(candidates, len(probabilities))).values.min().item()
        for module in predictors:
            module.test_score_thresh = threshold
    return bool(holders)
