"""One training step for every model: autocast, gradient clipping, and a stop that explains a non-finite loss."""

import time
from collections.abc import Iterable

import torch
from detectron2.engine import SimpleTrainer
from detectron2.utils import comm
from torch import nn


class NonFiniteLossError(FloatingPointError):
    """A loss became NaN or infinite; the message holds what is needed to look for the cause."""


class Trainer(SimpleTrainer):
    """`SimpleTrainer` with mixed precision, gradient clipping and a diagnosis of non-finite losses.

    Args:
        model: in training mode; maps a batch to a dict of scalar losses.
        data_loader: endless batches, lists of dicts.
        optimizer: steps the model.
        amp_dtype: `torch.float16` (with loss scaling) or `torch.bfloat16` for autocast; None trains in fp32.
        clip_grad_norm: upper limit of the 2-norm over all gradients; None leaves them alone. The norm before
            clipping goes into the event storage as `grad_norm`.
    """

    def __init__(
        self,
        model: nn.Module,
        data_loader: Iterable,
        optimizer: torch.optim.Optimizer,
        *,
        amp_dtype: torch.dtype | None = None,
        clip_grad_norm: float | None = None,
    ) -> None:
        super().__init__(model, data_loader, optimizer)
        self._batches = None
        self.device_type = next(model.parameters()).device.type
        self.amp_dtype = amp_dtype
        self.clip_grad_norm = clip_grad_norm
        self.grad_scaler = torch.amp.GradScaler(self.device_type, enabled=amp_dtype == torch.float16)

    def run_step(self) -> None:
        """One iteration: load, forward, backward, update.

        Raises:
            NonFiniteLossError: before the weights are touched.
        """
        batch, data_time = self._load_batch()
        with self._autocast():
            try:
                losses = self.model(batch)
            except FloatingPointError as error:  # some models notice it themselves, such as an RPN in its proposals
                raise NonFiniteLossError(self._diagnosis(str(error).rstrip("."), batch)) from error
        self._descend(losses, batch, self.grad_scaler)
        SimpleTrainer.write_metrics({key: value.detach() for key, value in losses.items()}, data_time, self.iter)

    def _load_batch(self) -> tuple[list[dict], float]:
        """The next batch, and the seconds that it took."""
        start = time.perf_counter()
        if self._batches is None:
            self._batches = iter(self.data_loader)
        return next(self._batches), time.perf_counter() - start

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device_type, dtype=self.amp_dtype, enabled=self.amp_dtype is not None)

    def _descend(
        self, losses: dict[str, torch.Tensor], batch: list[dict], scaler: torch.amp.GradScaler, side: str = ""
    ) -> None:
        """One step down the sum of losses; parameters that they do not depend on stay as they are.

        Args:
            losses: with graphs.
            batch: that they are of, for the diagnosis.
            scaler: of these losses.
            side: goes before `grad_norm` in the event storage.
        """
        total = sum(losses.values())
        if not torch.isfinite(total):
            values = ", ".join(f"{name}={value.item():.4g}" for name, value in losses.items())
            raise NonFiniteLossError(self._diagnosis(values, batch))
        self.optimizer.zero_grad()
        scaler.scale(total).backward()
        self.after_backward()
        if self.clip_grad_norm is not None:
            scaler.unscale_(self.optimizer)
            norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.clip_grad_norm)
            self.storage.put_scalar(f"{side}grad_norm", float(norm))
        scaler.step(self.optimizer)
        scaler.update()

    def _diagnosis(self, finding: str, batch: list[dict]) -> str:
        images = ", ".join(str(item.get("image_id", item.get("file_name", "?"))) for item in batch)
        rates = sorted({group["lr"] for group in self.optimizer.param_groups})
        return (
            f"non-finite loss at iteration {self.iter} on rank {comm.get_rank()}: {finding}; image ids: {images}; "
            f"lr: {', '.join(f'{rate:.4g}' for rate in rates)}. The weights were not updated with it. Usual causes: "
            "a learning rate too high for the batch size, too short a warm-up, float16 overflow, broken annotations."
        )

    def state_dict(self) -> dict:
        return {**super().state_dict(), "grad_scaler": self.grad_scaler.state_dict()}

    def load_state_dict(self, state_dict: dict) -> None:
        super().load_state_dict(state_dict)
        # A checkpoint of a run in another precision has no scale to go on from.
        if state_dict.get("grad_scaler") and self.grad_scaler.is_enabled():
            self.grad_scaler.load_state_dict(state_dict["grad_scaler"])
