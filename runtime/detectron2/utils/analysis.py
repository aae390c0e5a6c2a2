"""Counts of a model's operations, activations and parameters, and a search for parameters without gradient."""

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import fvcore.nn
import torch
from fvcore.nn import activation_count, parameter_count, parameter_count_table
from torch import nn

__all__ = [
    "activation_count_operators",
    "flop_count_operators",
    "find_unused_parameters",
    "parameter_count_table",
    "parameter_count",
    "FlopCountAnalysis",
]

# Elementwise work, reductions and bookkeeping: not counted, and not worth a warning either.
_IGNORED_OPS = {
    *(f"aten::{name}{suffix}" for name in ("add", "div", "mul", "sigmoid") for suffix in ("", "_")),
    *(f"aten::{name}" for name in ("exp", "log2", "neg", "reciprocal", "rsub", "softmax", "sqrt", "sub")),
    *(f"aten::{name}" for name in ("argmax", "argsort", "nonzero_numpy", "sort", "repeat_interleave")),
    *(f"aten::{name}" for name in ("batch_norm", "constant_pad_nd", "max_pool2d", "meshgrid")),
    "torchvision::nms",
}


class FlopCountAnalysis(fvcore.nn.FlopCountAnalysis):
    """fvcore's analysis, for models that take and give dicts, lists and Instances, as those here do."""

    def __init__(self, model: nn.Module, inputs: Any):
        """Args:
        model: the model; it is counted in its present mode, which should be eval.
        inputs: its argument, or a tuple of its arguments, e.g. ``[{"image": tensor}]``.
        """
        traceable = _TensorsOnly(model, inputs)
        super().__init__(traceable, traceable.tensors)
        self.set_op_handle(**dict.fromkeys(_IGNORED_OPS))


def flop_count_operators(model: nn.Module, inputs: list) -> defaultdict[str, float]:
    """Count the multiply-adds of a model in eval mode on one input.

    The cost of a detector depends on what it finds, so average over several images.

    Args:
        model: the model.
        inputs: ``list[dict]``, with an "image" each.

    Returns:
        Giga-operations by kind of operator ("conv", "linear", …); 0 for other kinds.
    """
    was_training = model.training
    model.eval()
    try:
        counts = FlopCountAnalysis(model, inputs).by_operator()
    finally:
        model.train(was_training)
    return defaultdict(float, {kind: count / 1e9 for kind, count in counts.items()})


def activation_count_operators(model: nn.Module, inputs: list, **kwargs: Any) -> defaultdict[str, float]:
    """Count the outputs of a model's convolutions and matrix products in eval mode on one image.

    Args:
        model: the model.
        inputs: ``list[dict]`` of one image; only "image" is used.
        kwargs: further arguments of ``fvcore.nn.activation_count``.

    Returns:
        Millions of activations by kind of operator.
    """
    assert len(inputs) == 1, f"activation_count_operators() takes a batch of 1, not {len(inputs)}."
    handles = {op: _count_nothing for op in _IGNORED_OPS}
    handles.update(kwargs.pop("supported_ops", {}))
    was_training = model.training
    if isinstance(model, (nn.parallel.DistributedDataParallel, nn.DataParallel)):
        model = model.module
    traceable = _TensorsOnly(model, [{"image": inputs[0]["image"]}]).eval()
    try:
        counts, _ = activation_count(traceable, traceable.tensors, supported_ops=handles, **kwargs)
    finally:
        model.train(was_training)
    return counts


def find_unused_parameters(model: nn.Module, inputs: Any) -> list[str]:
    """Name the parameters that the loss does not depend on. Gradients are cleared.

    Args:
        model: a model in training mode that returns a loss or a dict of losses.
        inputs: its argument, or a tuple of its arguments.
    """
    assert model.training, "find_unused_parameters() needs a model in training mode."
    model.zero_grad(set_to_none=True)
    losses = model(*inputs) if isinstance(inputs, tuple) else model(inputs)
    (sum(losses.values()) if isinstance(losses, dict) else losses).backward()
    unused = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    model.zero_grad(set_to_none=True)
    return unused


def _count_nothing(*args: Any, **kwargs: Any) -> dict:
    return {}


class _TensorsOnly(nn.Module):
    """Wraps a model so that tracing, which passes tensors only, can run it: everything else stays as it was given."""

    def __init__(self, model: nn.Module, inputs: Any):
        super().__init__()
        self.model = model
        self._inputs = inputs if isinstance(inputs, tuple) else (inputs,)
        self.tensors = tuple(_find_tensors(self._inputs))
        self.training = model.training

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(_find_tensors(self.model(*_replace_tensors(self._inputs, iter(tensors)))))


def _find_tensors(obj: Any) -> Iterator[torch.Tensor]:
    """The tensors in nested dicts, lists, tuples, Instances, and structures with a `tensor` such as Boxes."""
    if isinstance(obj, torch.Tensor):
        yield obj
    elif isinstance(obj, dict):
        for value in obj.values():
            yield from _find_tensors(value)
    elif isinstance(obj, (list, tuple)):
        for value in obj:
            yield from _find_tensors(value)
    elif hasattr(obj, "get_fields"):
        yield from _find_tensors(obj.get_fields())
    elif isinstance(getattr(obj, "tensor", None), torch.Tensor):
        yield obj.tensor


def _replace_tensors(obj: Any, tensors: Iterator[torch.Tensor]) -> Any:
    """A copy of nested inputs with the tensors, in the order of `_find_tensors`, taken from `tensors`."""
    if isinstance(obj, torch.Tensor):
        return next(tensors)
    if isinstance(obj, dict):
        return {key: _replace_tensors(value, tensors) for key, value in obj.items()}
    if isinstance(obj, (list, tuple)):
        return type(obj)(_replace_tensors(value, tensors) for value in obj)
    if any(True for _ in _find_tensors(obj)):
        raise TypeError(f"Cannot trace a model with an input of type {type(obj).__name__}.")
    return obj
