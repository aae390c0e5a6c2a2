"""Print, check and flatten the results of evaluators."""

from __future__ import annotations

import logging
import math
import pprint
import sys
from collections.abc import Mapping
from typing import Any

logger = logging.getLogger(__name__)


def print_csv_format(results: Mapping[str, Any]) -> None:
    """Log the main metrics in lines to paste into a spreadsheet; per-category ones (with a "-") are left out.

    Args:
        results: task -> {metric -> score}; a task may also have a bare value.
    """
    if not isinstance(results, Mapping):
        if len(results) > 0:
            raise TypeError(f"Results are a mapping from task to metrics, got {results!r}")
        return
    for task, scores in results.items():
        if not isinstance(scores, Mapping):
            logger.info(f"copypaste: {task}={scores}")
            continue
        main = {metric: score for metric, score in scores.items() if "-" not in metric}
        logger.info(f"copypaste: Task: {task}")
        logger.info("copypaste: " + ",".join(main))
        logger.info("copypaste: " + ",".join(f"{score:.4f}" for score in main.values()))


def verify_results(cfg: Any, results: Mapping[str, Mapping[str, float]]) -> bool:
    """Compare results to ``cfg.TEST.EXPECTED_RESULTS``, a list of [task, metric, expected, tolerance].

    Returns:
        True. Where a metric is absent, not finite or too far off, both are logged and the process ends with status 1.
    """
    expectations = cfg.TEST.EXPECTED_RESULTS
    if not expectations:
        return True

    def holds(task: str, metric: str, expected: float, tolerance: float) -> bool:
        actual = results[task].get(metric)
        return actual is not None and math.isfinite(actual) and abs(actual - expected) <= tolerance

    if not all(holds(*expectation) for expectation in expectations):
        logger.error("Result verification failed!")
        logger.error(f"Expected Results: {expectations}")
        logger.error(f"Actual Results: {pprint.pformat(results)}")
        sys.exit(1)
    logger.info("Results verification passed.")
    return True


def flatten_results_dict(results: Mapping[str, Any]) -> dict[str, Any]:
    """Join nested keys by slashes: ``{"bbox": {"AP": 1}}`` becomes ``{"bbox/AP": 1}``."""
    flat: dict[str, Any] = {}
    for key, value in results.items():
        if isinstance(value, Mapping):
            flat.update({f"{key}/{inner}": v for inner, v in flatten_results_dict(value).items()})
        else:
            flat[key] = value
    return flat
