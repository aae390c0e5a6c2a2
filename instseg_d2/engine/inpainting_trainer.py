"""Training of a painter against discriminators: each iteration is a step of the one and then a step of the other."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from detectron2.engine import SimpleTrainer
from torch import nn

from instseg_d2.inpainting.stages.stage import AdversarialStage, stack_items

from .trainer import Trainer

_CRITICS = "critics_"


class AdversarialTrainer(Trainer):
    """Trains an `AdversarialStage`: first its critics on what its painter makes, then its painter against them.

    STTN's order and ratio (arXiv:2007.10247), one step each. One optimizer serves both sides: a step leaves alone what
    has no gradient, and a checkpoint holds the state of both. Each side has its own loss scale in float16, and its own
    gradients are clipped. Losses of the critics are summed up as `critics_total_loss`, apart from the painter's
    `total_loss`. Without critics it trains as `Trainer` does.

    Args:
        stage: in training mode.
        data_loader: endless batches, lists of dicts.
        optimizer: of the parameters of both sides; it must skip parameters without a gradient, as torch's do.
        distributed: wraps one side for training in several processes; each side is one of its own, since it has a
            backward pass of its own. None for one process.
        amp_dtype: see `Trainer`; for both sides.
        clip_grad_norm: see `Trainer`; of each side. The critics' norm is `critics_grad_norm`.
    """

    def __init__(
        self,
        stage: AdversarialStage,
        data_loader: Iterable,
        optimizer: torch.optim.Optimizer,
        *,
        distributed: Callable[[nn.Module], nn.Module] | None = None,
        amp_dtype: torch.dtype | None = None,
        clip_grad_norm: float | None = None,
    ) -> None:
        super().__init__(stage, data_loader, optimizer, amp_dtype=amp_dtype, clip_grad_norm=clip_grad_norm)
        self.has_critics = any(parameter.requires_grad for parameter in stage.critics.parameters())
        wrap = distributed or (lambda side: side)
        self.painter = wrap(stage.painter)
        self.critics = wrap(stage.critics) if self.has_critics else stage.critics
        # Parts of the critics may be frozen for good.
        self._learning = [parameter for parameter in stage.critics.parameters() if parameter.requires_grad]
        self.critics_scaler = torch.amp.GradScaler(self.device_type, enabled=amp_dtype == torch.float16)

    def run_step(self) -> None:
        """One iteration: load, paint, update the critics, update the painter.

        Raises:
            NonFiniteLossError: before the weights of that side are touched.
        """
        batch, data_time = self._load_batch()
        clips = stack_items(batch, self.model.device)
        # A context each: autocast keeps the critics' weights in half precision for as long as one lasts.
        with self._autocast():
            losses, evidence = self.painter(clips)
        if self.has_critics:
            with self._autocast():
                found = self.critics(evidence.detached())
            self._descend(found, batch, self.critics_scaler, side=_CRITICS)
            SimpleTrainer.write_metrics(_detached(found), data_time, self.iter, prefix=_CRITICS)
        with _resting(self._learning):
            with self._autocast():
                losses = losses | self.model.critics.judge(evidence)
            self._descend(losses, batch, self.grad_scaler)
        SimpleTrainer.write_metrics(_detached(losses), data_time, self.iter)

    def state_dict(self) -> dict:
        return {**super().state_dict(), "critics_scaler": self.critics_scaler.state_dict()}

    def load_state_dict(self, state_dict: dict) -> None:
        super().load_state_dict(state_dict)
        if state_dict.get("critics_scaler") and self.critics_scaler.is_enabled():
            self.critics_scaler.load_state_dict(state_dict["critics_scaler"])


@contextmanager
def _resting(parameters: list[nn.Parameter]) -> Iterator[None]:
    """Within this context nothing computes gradients of the parameters, though gradients pass through."""
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)


def _detached(losses: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: value.detach() for name, value in losses.items()}
