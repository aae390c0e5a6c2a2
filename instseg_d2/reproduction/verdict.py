"""When a difference between two rows is more than the spread between seeds."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, variance

# Two-sided 95 % quantiles of Student's t by degrees of freedom, from 1; the last stands for more, on the safe side.
_T95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131)


@dataclass(frozen=True)
class Difference:
    """Row minus baseline.

    Attributes:
        mean: of the differences; NaN without any.
        half_width: of the 95 % interval around it; NaN with fewer than two seeds.
        n: seeds that both rows have, or seeds of the shorter side if they share fewer than two.
        verdict: see `compare`.
    """

    mean: float
    half_width: float
    n: int
    verdict: str


def _t95(freedom: int) -> float:
    return _T95[min(freedom, len(_T95)) - 1]


def _half_width(samples: Sequence[Sequence[float]]) -> float:
    """Half of the 95 % interval of a difference of means (of one mean, for one sample)."""
    error = math.sqrt(sum(variance(values) / len(values) for values in samples))
    return _t95(min(map(len, samples)) - 1) * error


def compare(row: Mapping[int, float], baseline: Mapping[int, float], expected: float | None = None) -> Difference:
    """Compare a metric of two rows.

    The rule: the differences of equal seeds have a mean and a standard error; with Student's t for as many seeds they
    give a 95 % interval (t is 12.7 for two seeds, 4.3 for three, 2.8 for five). A difference counts only if that
    interval excludes zero. Rows that share fewer than two seeds, but have two or more each, are compared as
    independent samples, with the degrees of freedom of the smaller one.

    Args:
        row: value by seed; NaN, a metric that could not be measured, is left out.
        baseline: likewise.
        expected: what the paper says, of which only the sign counts; None or 0 if it claims nothing.

    Returns:
        The difference, with one of the verdicts `not run` (no value on a side), `one seed` (too few for a spread),
        `within noise`, `agrees` or `opposite` (to the paper), `higher` or `lower` (where it claims nothing).
    """
    row = {seed: value for seed, value in row.items() if math.isfinite(value)}
    baseline = {seed: value for seed, value in baseline.items() if math.isfinite(value)}
    if not row or not baseline:
        return Difference(math.nan, math.nan, 0, "not run")
    pairs = [row[seed] - baseline[seed] for seed in sorted(row.keys() & baseline.keys())]
    smaller = min(len(row), len(baseline))
    if len(pairs) >= 2:
        samples, centre, n = [pairs], mean(pairs), len(pairs)
    elif smaller >= 2:
        samples = [list(row.values()), list(baseline.values())]
        centre, n = mean(samples[0]) - mean(samples[1]), smaller
    else:
        return Difference(pairs[0] if pairs else mean(row.values()) - mean(baseline.values()), math.nan, 1, "one seed")
    half_width = _half_width(samples)
    if abs(centre) <= half_width:
        verdict = "within noise"
    elif expected:
        verdict = "agrees" if centre * expected > 0 else "opposite"
    else:
        verdict = "higher" if centre > 0 else "lower"
    return Difference(centre, half_width, n, verdict)
