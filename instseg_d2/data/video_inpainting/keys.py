"""Chance that depends on names alone: not on the order of files, other tracks, Python's hash or a global generator."""

import hashlib

import numpy as np

# One video in so many is for evaluation.
_EVALUATION_SHARE = 10

SPLITS = ("train", "evaluation")


def _digest(parts: tuple[object, ...]) -> bytes:
    # The separator cannot occur in a name, so ("a", "bc") and ("ab", "c") differ.
    return hashlib.sha256("\0".join(map(str, parts)).encode()).digest()


def generator_of(*parts: object) -> np.random.Generator:
    """A PCG64 generator whose state is the SHA-256 of the parts, written as text."""
    return np.random.Generator(np.random.PCG64(int.from_bytes(_digest(parts)[:8], "big")))


def split_of(video: str) -> str:
    """Which of `SPLITS` a video belongs to; all its objects go with it, and growing data moves none."""
    return SPLITS[int.from_bytes(_digest((video,)), "big") % _EVALUATION_SHARE == 0]


def hash_masks(masks: np.ndarray) -> str:
    """SHA-256 of a stack of masks (T, H, W) bool: of its shape and its pixels, whatever files it is in."""
    return hashlib.sha256(f"{masks.shape}".encode() + np.packbits(masks).tobytes()).hexdigest()
