"""Long clips in windows of bounded length: which frames go together, and how overlapping results are joined."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch

from .errors import InpaintingError


@dataclass(frozen=True)
class Window:
    """Frames that a network sees at once.

    Attributes:
        frames: indices of the frames that it predicts, consecutive.
        references: indices of frames that it only looks at, ascending, none of them in `frames`.
        weights: of each frame of `frames` in the mean over the windows that predict it, above 0.
    """

    frames: tuple[int, ...]
    references: tuple[int, ...]
    weights: tuple[float, ...]

    @property
    def seen(self) -> list[int]:
        """Indices of all frames, those that are predicted first."""
        return [*self.frames, *self.references]


def neighbor_windows(
    length: int, *, reach: int = 5, stride: int = 5, reference_stride: int = 10, max_references: int | None = 8
) -> list[Window]:
    """Windows of a network without a sense of time: neighbours of a frame, and distant frames as references.

    STTN (arXiv:2007.10247) tests with these numbers. There overlapping results are averaged two by two in the order of
    the windows; here all windows of a frame count alike.

    Args:
        length: T, frames of the clip.
        reach: a window predicts the frames up to so far from its centre.
        stride: between centres.
        reference_stride: every how many frames of the clip there is a reference.
        max_references: a window takes so many at most, those nearest to it, so that memory does not grow with the
            clip; None for all.

    Returns:
        Windows in the order of their frames, which together cover the clip.

    Raises:
        InpaintingError: a stride is not positive, or windows would leave frames out.
    """
    if stride < 1 or reference_stride < 1:
        raise InpaintingError(f"strides must be positive, got stride={stride}, reference_stride={reference_stride}")
    if stride > reach + 1:
        raise InpaintingError(f"stride={stride} leaves frames out: with reach={reach}, use {reach + 1} or less")
    windows = []
    for center in range(0, length, stride):
        frames = tuple(range(max(center - reach, 0), min(center + reach + 1, length)))
        distant = [index for index in range(0, length, reference_stride) if index not in frames]
        distant.sort(key=lambda index: abs(index - center))
        windows.append(Window(frames, tuple(sorted(distant[:max_references])), (1.0,) * len(frames)))
    return windows


def sliding_windows(length: int, *, size: int = 15, stride: int | None = None) -> list[Window]:
    """Windows of a network that shifts features along time: consecutive frames, those in the middle count most.

    Such a network sees zeros beyond both ends of a window. So in the overlap of two windows the weights rise and fall
    linearly.

    Args:
        length: T, frames of the clip.
        size: frames of a window; the clip as a whole if it is not longer.
        stride: between windows; `None` for half of `size`. The last window ends with the clip.

    Returns:
        Windows in the order of their frames, which together cover the clip.

    Raises:
        InpaintingError: `size` or `stride` is not positive, or `stride` is greater than `size`.
    """
    stride = max(size // 2, 1) if stride is None else stride
    if size < 1 or not 1 <= stride <= size:
        raise InpaintingError(f"windows need 1 <= stride <= size, got size={size}, stride={stride}")
    if length <= size:
        return [Window(tuple(range(length)), (), (1.0,) * length)] if length else []
    starts = [*range(0, length - size, stride), length - size]
    # The triangle of a window, as high as its frame is far from the nearer end.
    ramp = tuple(float(min(step + 1, size - step)) for step in range(size))
    return [Window(tuple(range(start, start + size)), (), ramp) for start in starts]


def blend(windows: Iterable[Window], predict: Callable[[Window], torch.Tensor]) -> Iterator[tuple[int, torch.Tensor]]:
    """Run a network on windows and give each frame's weighted mean as soon as no later window can change it.

    Sums and weights are kept of the frames that are not done yet, so memory does not grow with the clip.

    Args:
        windows: in the order of their first frames.
        predict: of a window gives (B, len(window.frames), C, H, W), a new tensor.

    Yields:
        index of a frame, ascending, and its (B, C, H, W) float32 mean.
    """
    sums: dict[int, torch.Tensor] = {}
    totals: dict[int, float] = {}
    for window in windows:
        for index in [index for index in sums if index < window.frames[0]]:
            yield index, sums.pop(index) / totals.pop(index)
        predicted = predict(window)
        for step, (index, weight) in enumerate(zip(window.frames, window.weights, strict=True)):
            part = predicted[:, step].float() * weight
            sums[index] = sums[index] + part if index in sums else part
            totals[index] = totals.get(index, 0.0) + weight
    for index in list(sums):
        yield index, sums.pop(index) / totals.pop(index)


def stack_frames(frames: Iterable[tuple[int, torch.Tensor]], length: int) -> torch.Tensor:
    """Make a clip of what `blend` yields.

    Args:
        frames: indices and (B, C, H, W) tensors.
        length: T, frames of the clip.

    Returns:
        (B, T, C, H, W).

    Raises:
        InpaintingError: the windows left frames out, or predicted some that the clip does not have.
    """
    found = dict(frames)
    if sorted(found) != list(range(length)):
        raise InpaintingError(
            f"the windows predict {len(found)} frames, {sorted(found)[:1]} to {sorted(found)[-1:]}, and the clip has "
            f"{length}: they must cover it"
        )
    return torch.stack([found[index] for index in range(length)], dim=1)
