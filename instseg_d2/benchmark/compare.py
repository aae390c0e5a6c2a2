"""Speed and memory as ratios: competitors take turns in one run, so that a noisy machine hits all of them alike."""

import datetime
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import detectron2
import torch
from torch import nn
from tqdm import tqdm

from instseg_d2.results import commit, hardware

TOTAL = "total"
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
_MIB = 2**20
COLUMNS = (
    "date",
    "commit",
    "hardware",
    "threads",
    "clock",
    "python",
    "torch",
    "detectron2",
    "what",
    "A",
    "B",
    "seconds_A",
    "seconds_B",
    "ratio",
    "ratio_min",
    "ratio_max",
    "rounds",
    "peak_MiB_A",
    "peak_MiB_B",
    "gflops_A",
    "gflops_B",
)


class Competitor(Protocol):
    """What `alternate` lets take turns: something in this process or in another one."""

    name: str

    def measure(self) -> dict[str, float]:
        """Seconds of one run: `TOTAL`, and the parts it consists of, if they are known."""

    def memory(self) -> float | None:
        """Peak memory of one run in MiB, above what is held between runs; None where it cannot be told."""


def resident_bytes(field: str) -> int:
    """`VmRSS` or `VmHWM` of this process."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {field}")


def peak_memory(run: Callable[[], object], *, on_cuda: bool = False) -> float | None:
    """What a run needs above what is held before it, in MiB.

    On the CPU it is the rise of the process's resident size, which only Linux can tell; None elsewhere.
    """
    if on_cuda:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        torch.cuda.synchronize()
        return (torch.cuda.max_memory_allocated() - before) / _MIB
    try:
        # Sets the high-water mark back.
        Path("/proc/self/clear_refs").write_text("5")
        before = resident_bytes("VmRSS")
    except OSError:
        return None
    run()
    return max(resident_bytes("VmHWM") - before, 0) / _MIB


class Step:
    """A function to measure in this process.

    Args:
        name: for the table.
        run: does the work once.
        device: where it runs; on CUDA the clock waits for the kernels.
        clock: "wall", or "cpu": time that the threads of this process were at work, which other programs on the
            machine hardly change; not for CUDA.
        parts: modules after whose forward a part ends, by the name of the part, in the order of their calls.
        rest: name of what comes after the last of them.
    """

    def __init__(
        self,
        name: str,
        run: Callable[[], object],
        device: str = "cpu",
        clock: str = "wall",
        parts: Mapping[str, nn.Module] | None = None,
        rest: str = "rest",
    ) -> None:
        self.name = name
        self.run = run
        self._on_cuda = torch.device(device).type == "cuda"
        self._clock = CLOCKS[clock]
        self._rest = rest
        self._marks: list[tuple[str, float]] = []
        for part, module in (parts or {}).items():
            module.register_forward_hook(self._marker(part))

    def _marker(self, part: str) -> Callable[..., None]:
        def mark(*_) -> None:
            self._marks.append((part, self._now()))

        return mark

    def _now(self) -> float:
        if self._on_cuda:
            torch.cuda.synchronize()
        return self._clock()

    def measure(self) -> dict[str, float]:
        """Run once; see `Competitor`."""
        self._marks.clear()
        last = start = self._now()
        self.run()
        end = self._now()
        seconds = {TOTAL: end - start}
        if self._marks:
            for part, moment in (*self._marks, (self._rest, end)):
                seconds[part] = seconds.get(part, 0.0) + moment - last
                last = moment
        return seconds

    def memory(self) -> float | None:
        """Run once; see `Competitor`."""
        return peak_memory(self.run, on_cuda=self._on_cuda)


def alternate(
    competitors: Sequence[Competitor], *, rounds: int, repeats: int, warmup: int, what: str
) -> list[list[list[dict[str, float]]]]:
    """Let the competitors take turns, single measurement by single measurement, in an order that flips each time.

    Args:
        competitors: two or more.
        rounds: groups of measurements; the ratio is told for each, which shows how far the machine can be trusted.
        repeats: measurements of each competitor in a round.
        warmup: runs of each before the clock counts.
        what: for the progress bar.

    Returns:
        What `measure` gave: `[competitor][round][repeat]`.
    """
    samples: list[list[list[dict[str, float]]]] = [[[] for _ in range(rounds)] for _ in competitors]
    turns = [(None, turn) for turn in range(warmup)] + [(r, turn) for r in range(rounds) for turn in range(repeats)]
    with tqdm(total=len(turns) * len(competitors), desc=what, unit="run", file=sys.stderr) as bar:
        for round_, turn in turns:
            order = range(len(competitors))
            for index in order if turn % 2 == 0 else reversed(order):
                seconds = competitors[index].measure()
                if round_ is not None:
                    samples[index][round_].append(seconds)
                bar.set_postfix_str(f"{competitors[index].name} {seconds[TOTAL]:.3g} s")
                bar.update()
    return samples


def _medians(rounds: list[list[dict[str, float]]], part: str) -> tuple[float, list[float]]:
    """Median over everything, and that of each round."""
    values = [[seconds[part] for seconds in round_] for round_ in rounds]
    return statistics.median(sum(values, [])), [statistics.median(round_) for round_ in values]


def compare(
    competitors: Sequence[Competitor],
    pairs: Sequence[tuple[int, int]],
    *,
    rounds: int,
    repeats: int,
    warmup: int,
    what: str,
) -> list[dict[str, object]]:
    """Measure and give a row for each pair (A, B) and each part that both name: ratio = seconds of A / seconds of B.

    Args:
        competitors: see `alternate`, as for the numbers.
        pairs: indices of those to set side by side.
        rounds: see `alternate`.
        repeats: see `alternate`.
        warmup: see `alternate`.
        what: is measured, for the table.

    Returns:
        Rows with `what, A, B, seconds_A, seconds_B, ratio, ratio_min, ratio_max, rounds, peak_MiB_A, peak_MiB_B`.
    """
    samples = alternate(competitors, rounds=rounds, repeats=repeats, warmup=warmup, what=what)
    # Apart from the clock: asking for the memory may cost time.
    peaks = [competitor.memory() for competitor in competitors]
    rows = []
    for a, b in pairs:
        common = [part for part in samples[a][0][0] if part in samples[b][0][0]]
        for part in common:
            (seconds_a, rounds_a), (seconds_b, rounds_b) = (_medians(samples[i], part) for i in (a, b))
            ratios = [of_a / of_b for of_a, of_b in zip(rounds_a, rounds_b, strict=True)]
            rows.append(
                {
                    "what": what if part == TOTAL else f"{what}: {part}",
                    "A": competitors[a].name,
                    "B": competitors[b].name,
                    "seconds_A": seconds_a,
                    "seconds_B": seconds_b,
                    "ratio": seconds_a / seconds_b,
                    "ratio_min": min(ratios),
                    "ratio_max": max(ratios),
                    "rounds": f"{rounds}x{repeats}",
                    "peak_MiB_A": peaks[a] if part == TOTAL else None,
                    "peak_MiB_B": peaks[b] if part == TOTAL else None,
                }
            )
    return rows


def versions() -> dict[str, str]:
    """Python, torch and detectron2 of this process."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "detectron2": detectron2.__version__,
    }


def context(
    device: str, folder: Path, threads: int, clock: str, sides: Sequence[Mapping[str, str]] = ()
) -> dict[str, object]:
    """The columns that say where a number comes from.

    Args:
        device: where it was measured.
        folder: the checkout.
        threads: of each side.
        clock: see `Step`; "" where nothing is timed.
        sides: `versions()` of A and of B when these are other processes; where they differ both are told.
    """
    sides = sides or [versions()]
    told = {key: " / ".join(dict.fromkeys(side[key] for side in sides)) for key in versions()}
    return {
        "date": datetime.date.today().isoformat(),
        "commit": commit(folder),
        "hardware": hardware(device),
        "threads": threads,
        "clock": clock,
        **told,
    }


def rounded(row: Mapping[str, object]) -> dict[str, object]:
    """A row with its numbers to four significant digits, and None as an empty text."""
    return {
        key: "" if value is None else f"{value:.4g}" if isinstance(value, float) else value
        for key, value in row.items()
    }


def table(rows: Sequence[Mapping[str, object]]) -> str:
    """The measured columns as aligned text."""
    columns = [column for column in COLUMNS if column in rows[0]]
    lines = [columns] + [[str(rounded(row)[column]) for column in columns] for row in rows]
    widths = [max(len(line[index]) for line in lines) for index in range(len(columns))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )
