"""Evaluation on a second data set, such as a hard part of the first one."""

from collections.abc import Iterable
from typing import Any

from detectron2.evaluation import DatasetEvaluator, inference_on_dataset
from torch import nn


class OtherDatasetEvaluation:
    """Runs the model over another test set; a callable for `dataloader.further_evaluations`.

    Args:
        loader: detectron2's test loader of the set.
        evaluator: of the same set.
        suffix: tells its tasks from those of the main evaluation: `segm_<suffix>`.
    """

    def __init__(self, *, loader: Iterable[list[dict[str, Any]]], evaluator: DatasetEvaluator, suffix: str):
        self._loader = loader
        self._evaluator = evaluator
        self._suffix = suffix

    def __call__(self, model: nn.Module) -> dict[str, dict[str, float]]:
        """Evaluate a model, on every process; results as the evaluator gives them, on the main process."""
        results = inference_on_dataset(model, self._loader, self._evaluator) or {}
        return {f"{task}_{self._suffix}": metrics for task, metrics in results.items()}
