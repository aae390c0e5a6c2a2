"""Where the time of a model goes: its parts, told apart by the names of its submodules."""

import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn

PREPROCESS, BETWEEN, POSTPROCESS = "preprocess", "in between", "postprocess"
# A module that has one of these is made of parts that are worth a row of their own.
_PARTS_OF_CONTAINERS = {"backbone", "box_head", "box_predictor", "mask_head"}


def stage_modules(model: nn.Module) -> dict[str, list[nn.Module]]:
    """The parts of a model by name, outer ones before the inner ones that they hold.

    A part is a child of the model; or of a part that has a backbone or heads of its own, such as `roi_heads` or the
    `detector` of a model that combines one with a mask head. The modules of a list, such as the box heads of a cascade,
    are one part.
    """
    stages: dict[str, list[nn.Module]] = {}
    for name, child in model.named_children():
        if isinstance(child, nn.ModuleList):
            stages[name] = list(child)
            continue
        stages[name] = [child]
        if _PARTS_OF_CONTAINERS & {part for part, _ in child.named_children()}:
            stages |= {f"{name}.{part}": modules for part, modules in stage_modules(child).items()}
    return stages


@dataclass(frozen=True)
class StageTime:
    """Seconds of one part in a run: the median over all runs, the least and the most, and calls in a run."""

    name: str
    median: float
    least: float
    most: float
    calls: int


# The moment, the part, and whether it was entered or left.
_Event = tuple[float, str, bool]


def _spent(events: Sequence[_Event]) -> tuple[dict[str, float], dict[str, int]]:
    """Seconds and calls of each part, from the moments at which the model ("") and parts were entered and left."""
    seconds: dict[str, float] = defaultdict(float)
    calls: dict[str, int] = defaultdict(int)
    inside: list[str] = []
    last, outside = 0.0, PREPROCESS
    for moment, name, enters in events:
        if name:
            seconds[inside[-1] if inside else outside] += moment - last
            outside = BETWEEN
        elif enters:
            outside = PREPROCESS
        else:
            seconds[POSTPROCESS] += moment - last
        if name and enters:
            inside.append(name)
            calls[name] += 1
        elif name:
            inside.pop()
        last = moment
    return seconds, calls


@contextmanager
def _recording(stages: Mapping[str, list[nn.Module]], now: Callable[[], float]) -> Iterator[list[_Event]]:
    events: list[_Event] = []

    def marker(name: str, enters: bool) -> Callable[..., None]:
        def mark(*_) -> None:
            events.append((now(), name, enters))

        return mark

    handles = []
    for name, modules in stages.items():
        for module in modules:
            handles += [
                module.register_forward_pre_hook(marker(name, True)),
                module.register_forward_hook(marker(name, False)),
            ]
    try:
        yield events
    finally:
        for handle in handles:
            handle.remove()


def time_stages(
    model: nn.Module,
    run: Callable[[], object],
    *,
    repeats: int,
    warmup: int = 1,
    clock: Callable[[], float] = time.perf_counter,
) -> list[StageTime]:
    """Time the parts of a model while something runs it.

    The time of a part leaves out the parts inside of it. What a call of the model spends outside of all parts is
    `PREPROCESS` before the first one, `POSTPROCESS` after the last one, and `BETWEEN` elsewhere, such as decoding and
    NMS of a dense detector.
    On CUDA every mark waits for the kernels, so the sum is a little above the time of an undisturbed run.

    Args:
        model: on its device.
        run: calls the model, once or several times.
        repeats: runs that count.
        warmup: runs before them.
        clock: gives seconds.

    Returns:
        parts that were called, in the order of `stage_modules`, between `PREPROCESS` and `BETWEEN`, `POSTPROCESS`.
    """
    on_cuda = any(parameter.is_cuda for parameter in model.parameters())

    def now() -> float:
        if on_cuda:
            torch.cuda.synchronize()
        return clock()

    for _ in range(warmup):
        run()
    stages = stage_modules(model)
    runs = []
    with _recording({"": [model], **stages}, now) as events:
        for _ in range(repeats):
            events.clear()
            run()
            runs.append(_spent(events))
    return list(_summary((PREPROCESS, *stages, BETWEEN, POSTPROCESS), runs))


def _summary(names: Iterable[str], runs: list[tuple[dict[str, float], dict[str, int]]]) -> Iterator[StageTime]:
    for name in names:
        values = [seconds.get(name, 0.0) for seconds, _ in runs]
        if any(values):
            yield StageTime(name, statistics.median(values), min(values), max(values), runs[0][1].get(name, 0))
