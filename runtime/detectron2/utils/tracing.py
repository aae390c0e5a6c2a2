"""Assertions that do not get in the way of torch.fx and scripting."""

import sys

import torch
from torch.fx import _symbolic_trace

__all__ = ["is_fx_tracing", "assert_fx_safe"]

# Newer versions of torch warn at each use of the old name.
_is_fx_tracing = getattr(_symbolic_trace, "is_fx_symbolic_tracing", _symbolic_trace.is_fx_tracing)


def is_fx_tracing() -> bool:
    """Whether torch.fx is tracing symbolically."""
    return not torch.jit.is_scripting() and _is_fx_tracing()


def assert_fx_safe(condition: bool | str, message: str) -> torch.Tensor:
    """Raise AssertionError with `message` if `condition` is false; pass while torch.fx traces or scripting compiles.

    Args:
        condition: a truth value, or an expression to evaluate where this is called, when even computing it
            would disturb tracing.
        message: of the error.

    Returns:
        A tensor of one element: 1 if the condition was checked, else 0.
    """
    if torch.jit.is_scripting() or is_fx_tracing():
        return torch.zeros(1)
    if isinstance(condition, str):
        caller = sys._getframe(1)
        condition = eval(condition, caller.f_globals, caller.f_locals)
    torch._assert(condition, message)
    return torch.ones(1)
