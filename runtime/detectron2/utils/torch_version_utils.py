"""Comparison with the installed version of torch."""

from packaging import version

__all__ = ["min_torch_version"]


def min_torch_version(min_version: str) -> bool:
    """Whether torch is installed in at least this version; a local suffix such as ``+cu128`` does not count."""
    try:
        import torch
    except ImportError:
        return False
    installed, _, _ = torch.__version__.partition("+")
    return version.parse(installed) >= version.parse(min_version)
