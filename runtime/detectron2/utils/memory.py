"""Going on after the GPU has run out of memory."""

import functools
import logging
from collections.abc import Callable
from typing import Any, TypeVar

import torch

__all__ = ["retry_if_cuda_oom"]

_T = TypeVar("_T")


def retry_if_cuda_oom(func: Callable[..., _T]) -> Callable[..., _T]:
    """Let a function that runs out of GPU memory try again: with an emptied cache, then on the CPU.

    For the CPU, arguments that are CUDA objects with ``.to`` are moved, those nested in others are not; the result
    may be on the CPU then. `func` must not change its arguments or keep state, as it can run three times.
    """

    @functools.wraps(func)
    def try_three_times(*args: Any, **kwargs: Any) -> _T:
        # Tried outside of `except`, whose traceback would keep the tensors of the failed call alive.
        for prepare in (None, torch.cuda.empty_cache):
            if prepare is not None:
                prepare()
            try:
                return func(*args, **kwargs)
            except RuntimeError as e:
                if not _is_cuda_oom(e):
                    raise
        logging.getLogger(__name__).info(f"CUDA is out of memory: {func} runs on the CPU.")
        return func(*map(_to_cpu, args), **{k: _to_cpu(v) for k, v in kwargs.items()})

    return try_three_times


def _is_cuda_oom(error: RuntimeError) -> bool:
    return isinstance(error, torch.cuda.OutOfMemoryError) or "CUDA out of memory. " in str(error)


def _to_cpu(x: Any) -> Any:
    device = getattr(x, "device", None)
    if getattr(device, "type", None) == "cuda" and hasattr(x, "to"):
        return x.to(device="cpu")
    return x
