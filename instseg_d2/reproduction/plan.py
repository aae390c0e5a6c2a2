"""From the rows of a study to runs: which config, from which weights, into which folder."""

import copy
import functools
import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from instseg_d2.engine.overrides import SettingError, UnknownKeyError, apply_overrides
from instseg_d2.model_zoo import ConfigError, config_path, get_config

from .study import Recipe, Row, SharedDetector, Study, StudyError

# Settings of `train` that change no number: where and on what a run is made, what it prints and keeps.
_NEUTRAL = ("output_dir", "seed", "device", "log_period", "eval_period", "checkpointer", "report", "recipe")


@dataclass(frozen=True, eq=False)
class Task:
    """One training, or one test of the weights of another.

    Attributes:
        name: of the row, or of the shared detector.
        budget: `quick` or `full`.
        seed: of the training.
        recipe: config and overrides, without those that belong to the run (folder, seed, device, first weights).
        file: the config's.
        cfg: what the recipe gives.
        fingerprint: see `fingerprint`.
        folder: of the run; the fingerprint is a part of its name, so that another config gets another folder.
        metrics: watched ones; none for a shared detector.
        start: the shared detector that it starts from.
        leave_out: of a shared detector, see there.
        source: the task whose weights are tested, in place of a training.
    """

    name: str
    budget: str
    seed: int
    recipe: Recipe
    file: Path
    cfg: DictConfig
    fingerprint: str
    folder: Path
    metrics: tuple[str, ...] = ()
    start: "Task | None" = None
    leave_out: tuple[str, ...] | None = None
    source: "Task | None" = None

    def __str__(self) -> str:
        return f"{self.name}, {self.budget}, seed {self.seed}"

    @property
    def is_detector(self) -> bool:
        """Whether this is a shared detector, not a row."""
        return self.leave_out is not None

    @property
    def weights(self) -> Path:
        """What rows start from, of a shared detector; what is tested, of a row."""
        if self.is_detector:
            return self.folder / "detector.pth"
        return self.folder / ("model_ema.pth" if self.cfg.train.ema.enabled else "model_final.pth")


def _plain(value: object) -> object:
    """Something json can write, the same in every process, for an object that stands in a config."""
    if isinstance(value, functools.partial):
        return ["partial", _plain(value.func), list(value.args), value.keywords]
    if callable(value) and hasattr(value, "__qualname__"):
        return f"{value.__module__}.{value.__qualname__}"
    if " at 0x" in repr(value):
        raise StudyError(f"{value!r} in a config cannot be told apart from others between runs; use LazyCall")
    return repr(value)


def fingerprint(cfg: DictConfig, starts_from: str = "") -> str:
    """Ten hexadecimal digits that change when anything changes in a config that a result may depend on.

    Output folder, seed, device, report, and how often is logged, saved and evaluated are left out. Code and data are
    not looked into: a result row has the commit for that.

    Args:
        cfg: with all overrides.
        starts_from: what stands for `train.init_checkpoint`, if the run starts from a shared detector or tests the
            weights of another.

    Raises:
        StudyError: an interpolation leads nowhere, or an object in the config has no lasting name.
    """
    cfg = copy.deepcopy(cfg)
    cfg.train.update(output_dir="", seed=0, device="")  # other keys may refer to them
    if starts_from:
        cfg.train.init_checkpoint = starts_from
    try:
        content = OmegaConf.to_container(cfg, resolve=True)
    except OmegaConfBaseException as error:
        raise StudyError(f"the config cannot be resolved: {error}") from error
    content["train"] = {key: value for key, value in content["train"].items() if key not in _NEUTRAL}
    text = json.dumps(content, sort_keys=True, default=_plain)
    return hashlib.sha256(text.encode()).hexdigest()[:10]


class Planner:
    """Makes tasks of the rows of a study.

    Args:
        folder: of the project; recipes may be files in it.
        study: of that folder.
        output: root of all folders of runs.
    """

    def __init__(self, folder: Path, study: Study, output: Path) -> None:
        self.folder = folder
        self.study = study
        self.output = output
        self._detectors: dict[tuple[str, str], Task] = {}

    def tasks(self, rows: Iterable[Row], budget: str, seeds: Sequence[int]) -> list[Task]:
        """A task for each seed and row, all rows of a seed together: what is there after an interruption compares.

        Rows that cannot run in the budget are left out.

        Raises:
            StudyError: a config or an override of a row is not right; the message names the row.
            DatasetError: a config asks for data that is not there.
        """
        of_row = [self.task(row, budget, 0) for row in rows if row.recipe(budget)]
        return [self._with_seed(task, seed) for seed in seeds for task in of_row]

    def _with_seed(self, task: Task, seed: int) -> Task:
        source = task.source and self._with_seed(task.source, seed)
        return replace(task, seed=seed, folder=task.folder.with_name(f"seed{seed}"), source=source)

    def task(self, row: Row, budget: str, seed: int) -> Task:
        """The task of one row that can run in the budget."""
        detector = row.shared_detector
        start = self._detector(detector, budget) if detector else None
        source = self.task(row.weights_of, budget, seed) if row.weights_of else None
        recipe, file, cfg = self._load(row, budget)
        token = f"{start.name}:{start.fingerprint}:{start.seed}:{','.join(start.leave_out)}" if start else ""
        key = fingerprint(cfg, f"{source.name}:{source.fingerprint}" if source else token)
        folder = self.output / budget / f"{_slug(row.name)}-{key}" / f"seed{seed}"
        metrics = self.study.metrics_of(row.name, budget)
        return Task(row.name, budget, seed, recipe, file, cfg, key, folder, metrics, start, source=source)

    def _detector(self, detector: SharedDetector, budget: str) -> Task:
        if (detector.name, budget) not in self._detectors:
            if not detector.recipe(budget):
                raise StudyError(f"the shared detector '{detector.name}' has no config in the budget '{budget}'")
            recipe, file, cfg = self._load(detector, budget)
            key = fingerprint(cfg)
            folder = self.output / budget / f"shared-{_slug(detector.name)}-{key}" / f"seed{detector.seed}"
            self._detectors[detector.name, budget] = Task(
                detector.name, budget, detector.seed, recipe, file, cfg, key, folder, leave_out=detector.leave_out
            )
        return self._detectors[detector.name, budget]

    def _load(self, trained: Row | SharedDetector, budget: str) -> tuple[Recipe, Path, DictConfig]:
        recipe = trained.recipe(budget)
        beside = self.folder / recipe.config
        try:
            file = beside if beside.is_file() else config_path(recipe.config)
            return recipe, file, apply_overrides(get_config(file), recipe.overrides)
        except (ConfigError, SettingError, UnknownKeyError, FileNotFoundError) as error:
            raise StudyError(f"'{trained.name}', budget {budget}: {error}") from error


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")
