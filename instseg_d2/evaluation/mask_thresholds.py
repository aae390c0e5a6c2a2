"""One model's masks by several thresholds, fixed and learned ones, from one pass over the images for all of them."""

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from detectron2.evaluation import DatasetEvaluator, inference_context
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.structures import Instances
from torch import nn
from tqdm import tqdm

from instseg_d2.modeling.mask_heads.atmask import ATMaskHead

from .given_boxes import GivenBoxesEvaluation

Results = dict[str, dict[str, float]]


class UnsuitableModelError(TypeError):
    """The model gives no probabilities that a threshold could make masks of."""


@dataclass(frozen=True)
class MaskRule:
    """How a mask is made of what a mask head predicts: a map is pasted into the image and cut at a value.

    Attributes:
        name: of the rule.
        map_of: from instances with `pred_masks`, and of ATMask R-CNN `pred_probabilities` (P) and `pred_thresholds`
            (T), to the map (N, 1, M, M) that is pasted.
        cut: pixels of at least that value are the mask's: detectron2's `mask_threshold`.
        threshold: of a rule with one threshold for all pixels; else None.
    """

    name: str
    map_of: Callable[[Instances], torch.Tensor]
    cut: float = 0.5
    threshold: float | None = None

    def __call__(self, instances: Instances, height: int, width: int) -> Instances:
        """Instances of a (height, width) image with masks; see `detector_postprocess`. The given ones do not change."""
        result = Instances(
            instances.image_size,
            pred_boxes=instances.pred_boxes.clone(),  # rescaled in place
            pred_classes=instances.pred_classes,
            scores=instances.scores,
            pred_masks=self.map_of(instances),
        )
        return detector_postprocess(result, height, width, mask_threshold=self.cut)


def fixed_threshold(threshold: float) -> MaskRule:
    """One threshold for all pixels, as Mask R-CNN's 0.5; of ATMask R-CNN on its probability map P.

    Args:
        threshold: in (0, 1).

    Raises:
        ValueError: it is not.
    """
    if not 0 < threshold < 1:
        raise ValueError(f"a threshold of probabilities lies between 0 and 1, and is not {threshold:g}")
    return MaskRule(f"P >= {threshold:g}", probabilities, threshold, threshold)


def probabilities(instances: Instances) -> torch.Tensor:
    """The probability maps (N, 1, M, M): P of ATMask R-CNN, the masks themselves of other heads."""
    return instances.pred_probabilities if instances.has("pred_probabilities") else instances.pred_masks


def _binary(instances: Instances) -> torch.Tensor:
    return instances.pred_masks


def _difference(instances: Instances) -> torch.Tensor:
    # Interpolation is linear: this is at least 1/2 where the interpolated P is at least the interpolated T.
    return (1 + instances.pred_probabilities - instances.pred_thresholds) / 2


def learned_thresholds(model: nn.Module) -> list[MaskRule]:
    """The rules of a model that predicts thresholds, ATMask R-CNN; none of another model.

    The first is the method itself: B is pasted and cut at 1/2, which is P >= T in each cell of the map. The second
    compares P and T in each pixel of the image, after pasting.

    Args:
        model: its ATMask heads attach P, T and B from now on.
    """
    heads = [module for module in model.modules() if isinstance(module, ATMaskHead)]
    for head in heads:
        head.keep_aux, head.result = True, "binary"
    return [MaskRule("P >= T", _binary), MaskRule("P >= T, by pixel", _difference)] if heads else []


def raw_predictions(
    model: nn.Module, batch: list[dict[str, Any]], given: list[Instances] | None = None
) -> list[Instances]:
    """Predictions in pixels of the network's input, with `pred_masks` (N, 1, M, M), probabilities relative to the box.

    Args:
        model: in evaluation mode; see `GeneralizedRCNN.inference` of detectron2.
        batch: of the test loader.
        given: per image, with `pred_boxes`, `pred_classes` and `scores`: nothing is detected then.

    Raises:
        UnsuitableModelError: the model does not give such masks.
    """
    inference = getattr(model, "inference", None)
    name = type(model).__name__
    if inference is None or "do_postprocess" not in inspect.signature(inference).parameters:
        raise UnsuitableModelError(f"{name} has no inference(..., do_postprocess=False) to give masks before pasting")
    found = inference(batch, given, do_postprocess=False)
    for instances in found:
        masks = instances.pred_masks if instances.has("pred_masks") else None
        if masks is None or masks.ndim != 4 or not masks.is_floating_point():
            raise UnsuitableModelError(f"{name} gives no masks as probabilities in boxes: there is nothing to cut")
    return found


def _output(rule: MaskRule, instances: Instances, record: Mapping[str, Any]) -> dict[str, Instances]:
    height, width = (record.get(key, side) for key, side in zip(("height", "width"), instances.image_size, strict=True))
    return {"instances": rule(instances, height, width)}


def evaluate_detections(
    model: nn.Module,
    loader: Iterable[list[dict[str, Any]]],
    rules: Sequence[MaskRule],
    evaluators: Sequence[DatasetEvaluator],
) -> list[Results]:
    """Detect once, and evaluate the masks of each rule.

    Args:
        model: see `raw_predictions`.
        loader: detectron2's test loader.
        rules: how masks are made.
        evaluators: one for each rule.

    Returns:
        What each evaluator says; an empty dict without ground truth.
    """
    for evaluator in evaluators:
        evaluator.reset()
    with inference_context(model), torch.no_grad():
        for batch in tqdm(loader, "detections", unit="batch", disable=None):
            found = raw_predictions(model, batch)
            for rule, evaluator in zip(rules, evaluators, strict=True):
                outputs = [_output(rule, x, record) for x, record in zip(found, batch, strict=True)]
                evaluator.process(batch, outputs)
    return [evaluator.evaluate() or {} for evaluator in evaluators]


class _Replay:
    """A loader that is read once; from then on it gives the same batches again, with nothing in their images."""

    def __init__(self, loader: Iterable[list[dict[str, Any]]]):
        self._loader = loader
        self._batches: list[list[dict[str, Any]]] = []
        self._is_read = False

    def __iter__(self) -> Iterator[list[dict[str, Any]]]:
        if self._is_read:
            yield from self._batches
            return
        self._batches.clear()
        for batch in self._loader:
            self._batches.append([{**record, "image": _shape_of(record["image"])} for record in batch])
            yield batch
        self._is_read = True

    def __len__(self) -> int:
        return len(self._loader)


def _shape_of(image: torch.Tensor) -> torch.Tensor:
    """A tensor of the same shape without memory of its own."""
    return image.new_zeros(1).expand(image.shape)


class _Remembering(nn.Module):
    """Looks like the model, predicts each image once, and makes masks by `rule`, which may change in between."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model
        self.rule: MaskRule | None = None
        self._found: dict[Any, Instances] = {}

    def inference(self, batch: list[dict[str, Any]], detected_instances: list[Instances]) -> list[dict[str, Instances]]:
        if batch[0]["image_id"] not in self._found:
            found = raw_predictions(self.model, batch, detected_instances)
            self._found |= {record["image_id"]: x.to("cpu") for record, x in zip(batch, found, strict=True)}
        return [_output(self.rule, self._found[record["image_id"]], record) for record in batch]


def evaluate_given_boxes(
    model: nn.Module,
    loader: Iterable[list[dict[str, Any]]],
    rules: Sequence[MaskRule],
    make_evaluation: Callable[[Iterable[list[dict[str, Any]]]], GivenBoxesEvaluation],
) -> list[Results]:
    """Predict masks in the true boxes once, and measure those of each rule.

    The maps of all instances are kept in memory: 3 KB each, 0.1 GB on COCO val2017.

    Args:
        model: see `raw_predictions`.
        loader: detectron2's test loader.
        rules: how masks are made.
        make_evaluation: from a loader of the same batches to the evaluation.

    Returns:
        What the evaluation says of each rule.
    """
    evaluation = make_evaluation(_Replay(loader))
    remembering = _Remembering(model)
    results = []
    for rule in rules:
        remembering.rule = rule
        results.append(evaluation(remembering))
    return results
