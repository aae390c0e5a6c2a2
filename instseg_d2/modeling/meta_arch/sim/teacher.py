"""A momentum teacher: slow copies of parts of a model, which no optimizer and no DDP ever sees."""

import copy
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import chain
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import get_ema_multi_avg_fn

from instseg_d2.checkpoint.checkpointer import CheckpointError

_log = logging.getLogger(__name__)


class MomentumTeacher(nn.Module):
    """Copies of modules, whose weights follow theirs as an exponential moving average.

    The copies are made in the first training step, when pre-trained weights are loaded, so that the teacher starts as
    its student. They are in `state_dict()`, but are no submodules: `parameters()`, `buffers()` and `modules()` of the
    model do not have them, and so neither the optimizer, nor DDP, nor an average of the model (`train.ema`). A state
    without them, or with copies of other shapes, leaves the teacher to start from the student once more.

    Copies run in evaluation mode, but for BatchNorm: in training it normalizes by the batch, as the student's does,
    because statistics of the student's weights do not fit an older average of them.

    Args:
        students: by name; parts of the model that this teacher is part of.
        momentum: share of the old average that stays in each step.
    """

    def __init__(self, *, students: Mapping[str, nn.Module], momentum: float = 0.9999):
        super().__init__()
        self.momentum = momentum
        # Inside of dicts, modules are not registered.
        self._students = dict(students)
        self._copies: dict[str, nn.Module] = {}

    @property
    def started(self) -> bool:
        """Whether there are copies."""
        return bool(self._copies)

    def __getitem__(self, name: str) -> nn.Module:
        """The copy of a student; `follow` first."""
        return self._copies[name]

    @torch.no_grad()
    def follow(self) -> None:
        """Bring the copies up to date; once in every training step, before they are asked for anything.

        The student's optimizer has made the step before by then. Waiting until here needs no hook of the training
        loop, and a resumed training goes on exactly as one that was not interrupted.
        """
        if not self.started:
            self._start()
            return
        pairs = [
            (mine, theirs)
            for name, student in self._students.items()
            for mine, theirs in zip(self._copies[name].parameters(), student.parameters(), strict=True)
        ]
        averaged, current = ([x.detach() for x in column] for column in zip(*pairs, strict=True))
        get_ema_multi_avg_fn(self.momentum)(averaged, current, 0)

    def _start(self) -> None:
        # Of all at once: what students share, their copies share.
        self._copies = copy.deepcopy(self._students)
        for module in self._copies.values():
            module.requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> "MomentumTeacher":
        """Switch BatchNorm to the mode of the model; everything else stays in evaluation mode."""
        super().train(mode)
        for module in self._copies.values():
            module.eval()
            for layer in _batch_norms(module):
                layer.train(mode)
        return self

    @contextmanager
    def in_place_of_students(self) -> Iterator[None]:
        """Within this context the students have the weights and statistics of their copies.

        Raises:
            CheckpointError: there are none.
        """
        if not self.started:
            raise CheckpointError(
                "test_with_teacher=True, but these weights have no teacher: load a checkpoint of the training itself "
                "(an average of the weights, such as model_ema.pth, has none), or set model.test_with_teacher=False"
            )
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def _swap(self) -> None:
        for name, student in self._students.items():
            mine = chain(self._copies[name].parameters(), self._copies[name].buffers())
            for a, b in zip(mine, chain(student.parameters(), student.buffers()), strict=True):
                a.data, b.data = b.data, a.data

    def _apply(self, fn: Callable, recurse: bool = True) -> "MomentumTeacher":
        for module in self._copies.values():
            module._apply(fn, recurse)
        return super()._apply(fn, recurse)

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        for name, module in self._copies.items():
            module.state_dict(destination=destination, prefix=f"{prefix}{name}.", keep_vars=keep_vars)

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *args: Any) -> None:
        own = {key[len(prefix) :]: value for key, value in state_dict.items() if key.startswith(prefix)}
        self._copies = {}
        if not own:
            return
        self._start()
        expected = {f"{name}.{key}": x for name, x in self._copies.items() for key, x in x.state_dict().items()}
        if {key: x.shape for key, x in expected.items()} != {key: x.shape for key, x in own.items()}:
            _log.warning("the teacher of the checkpoint has other weights than this model; it starts from the student")
            self._copies = {}
            return
        for name, module in self._copies.items():
            module.load_state_dict({key: own[f"{name}.{key}"] for key in module.state_dict()})


def has_batch_norm(module: nn.Module) -> bool:
    """Whether statistics of the module depend on what it is shown in training."""
    return any(True for _ in _batch_norms(module))


def _batch_norms(module: nn.Module) -> Iterator[nn.Module]:
    return (layer for layer in module.modules() if isinstance(layer, _BatchNorm))
