"""Weights of another code base under this package's names: renamed, checked against a model, written whole."""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import torch
from torch import nn

from .checkpointer import CheckpointMismatchError, replace_checkpoint

# Counts the batches that a BatchNorm has seen. Nothing reads it, and old files lack it.
_COUNTER = "num_batches_tracked"


def group_names(names: Iterable[str]) -> list[str]:
    """Names of tensors, those of one module on one line: `head.conv.{bias, weight}`."""
    lines = []
    for module, group in groupby(sorted(names, key=_split), key=lambda name: _split(name)[0]):
        tails = [_split(name)[1] for name in group]
        tail = tails[0] if len(tails) == 1 else f"{{{', '.join(tails)}}}"
        lines.append(f"{module}.{tail}" if module else tail)
    return lines


def _split(name: str) -> tuple[str, str]:
    module, _, tail = name.rpartition(".")
    return module, tail


def rename(
    state: Mapping[str, torch.Tensor], new_name: Callable[[str], str | None], owner: str
) -> dict[str, torch.Tensor]:
    """Give every tensor a new name.

    Args:
        state: tensors by name.
        new_name: the new name for a name; None for one that `owner` does not have.
        owner: whose names these are, for the message.

    Raises:
        CheckpointMismatchError: names that `owner` does not have; the message lists them.
    """
    names = {name: new_name(name) for name in state}
    if unknown := [name for name, new in names.items() if new is None]:
        listed = "\n".join(f"  {line}" for line in group_names(unknown))
        raise CheckpointMismatchError(f"{len(unknown)} of {len(names)} tensors are no part of {owner}:\n{listed}")
    return {names[name]: value for name, value in state.items()}


@dataclass(frozen=True)
class Differences:
    """Where tensors and a model differ; false when they fit.

    Attributes:
        missing: names that the model alone has.
        unexpected: names that the tensors alone have.
        shapes: name -> shape of the tensor, and shape that the model asks for.
    """

    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    shapes: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]]

    def __len__(self) -> int:
        return len(self.missing) + len(self.unexpected) + len(self.shapes)

    def __str__(self) -> str:
        """All names, by kind and module."""
        shapes = [f"{name}: file {ours}, model {theirs}" for name, (ours, theirs) in sorted(self.shapes.items())]
        kinds = [
            ("missing in the file", len(self.missing), group_names(self.missing)),
            ("without a place in the model", len(self.unexpected), group_names(self.unexpected)),
            ("of another shape", len(self.shapes), shapes),
        ]
        return "\n".join(
            f"{kind} ({count}):\n" + "\n".join(f"  {line}" for line in lines) for kind, count, lines in kinds if count
        )


def compare(state: Mapping[str, torch.Tensor], model: nn.Module, counters: Collection[str] = ()) -> Differences:
    """Look for what keeps tensors from being the weights of a model.

    A tensor without a place counts as well: the weights of a ResNet-101 have all that a ResNet-50 asks for, in the
    same shapes.

    Args:
        state: tensors by name.
        model: what they are for.
        counters: names that may lack on either side, since only a training that goes on asks for them. The counters
            of BatchNorm are among them.
    """
    wanted = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    given = {name: tuple(value.shape) for name, value in state.items()}
    free = {*counters, *(name for name in wanted if name.endswith(_COUNTER))}
    return Differences(
        missing=tuple(name for name in wanted if name not in given and name not in free),
        unexpected=tuple(name for name in given if name not in wanted and name not in free),
        shapes={name: (given[name], wanted[name]) for name in wanted if name in given and given[name] != wanted[name]},
    )


def write_weights(path: Path, state: Mapping[str, torch.Tensor], source: Mapping[str, str]) -> None:
    """Write a checkpoint of weights alone, which `load_weights` and `train.init_checkpoint` take.

    Args:
        path: `.pth`; written whole or not at all.
        state: tensors by name.
        source: where they come from; the entry `converted_from` of the file.

    Raises:
        OSError: as of `replace_checkpoint`.
    """
    content = {"model": dict(state), "converted_from": dict(source)}
    replace_checkpoint(path, lambda partial: torch.save(content, partial), "Nothing was written.")
