"""What `projects/<Paper>/ablations.py` is made of: the rows of a paper's tables as recipes, with the printed numbers.

    from instseg_d2.reproduction import Comparison, Recipe, Row, SharedDetector, Study, Table

    _detector = SharedDetector("FCOS", quick="Baselines/fcos_narrow_fpn_occshapes_quick")
    _plain = Row("FCOS", quick="Baselines/fcos_mask_narrow_fpn_occshapes_quick", shared_detector=_detector,
                 paper={"segm/AP": 33.01})
    _bcnet = Row("FCOS + BCNet", quick=Recipe("BCNet/bcnet_fcos_quick", ("train.max_iter=200",)),
                 shared_detector=_detector, paper={"segm/AP": 33.62})
    study = Study(
        Table("Table 3.4", metrics=("segm/AP",), rows=(_plain, _bcnet),
              comparisons=(Comparison("FCOS + BCNet", "FCOS", "segm/AP"),)),
    )

A row may stand in several tables, with other printed numbers (`dataclasses.replace`): it is trained once.
"""

import difflib
import runpy
import traceback
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from instseg_d2 import projects

BUDGETS = ("quick", "full")


class StudyError(ValueError):
    """A study, or what is asked of it, makes no sense; the message says where and what to do."""


@dataclass(frozen=True)
class Recipe:
    """A config with overrides.

    Attributes:
        config: a recipe's name as `python -m instseg_d2.model_zoo list` prints it, or a file, relative to the study.
        overrides: `key=value` as on the command line of `tools/train_net.py`.
    """

    config: str
    overrides: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Trained:
    name: str
    quick: str | Recipe | None = None
    full: str | Recipe | None = None
    overrides: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.name or any(mark in self.name for mark in ",|\n"):
            raise StudyError(f"name '{self.name}': it must have letters, and no comma, bar or line break")
        if self.quick is None and self.full is None:
            raise StudyError(f"'{self.name}' has a config in no budget; give it quick=... or full=...")
        if isinstance(self.overrides, str):
            raise StudyError(f"'{self.name}': overrides is text; write ('{self.overrides}',)")

    def recipe(self, budget: str) -> Recipe | None:
        """Config and all overrides in a budget, the budget's own ones last; None if it cannot run there."""
        own = getattr(self, budget)
        if own is None:
            return None
        own = Recipe(own) if isinstance(own, str) else own
        return Recipe(own.config, (*self.overrides, *own.overrides))


@dataclass(frozen=True)
class SharedDetector(_Trained):
    """A detector that is trained once a budget; rows that differ in the mask head alone start from its weights.

    What the rows share is then no part of their differences, and none of their spread: the spread over seeds is that
    of the rows' own training, given this one detector.

    Attributes:
        name: in messages and folders.
        quick, full, overrides: as of `Row`.
        seed: of its training.
        leave_out: parts of parameter names, such as `mask_head` in `roi_heads.mask_head.predictor.weight`, whose
            weights are not handed on; otherwise a row with the detector's own mask head would start ahead of others.
    """

    seed: int = 0
    leave_out: tuple[str, ...] = ("mask_head",)


@dataclass(frozen=True)
class Row(_Trained):
    """A row of a table.

    Attributes:
        name: short, as in the paper; identifies the row within the study.
        quick, full: config in that budget, or None where it cannot run in it.
        overrides: `key=value`, in every budget.
        what: a few words more.
        paper: the printed numbers by metric; None, or left out, where the paper prints none.
        shared_detector: what the training starts from, in place of the config's `train.init_checkpoint`.
        weights_of: a row whose trained weights, seed by seed, are tested with this row's config: for settings that
            matter in the test alone. Nothing is trained then.
    """

    what: str = ""
    paper: Mapping[str, float | None] = field(default_factory=dict)
    shared_detector: SharedDetector | None = None
    weights_of: "Row | None" = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.weights_of and (self.shared_detector or self.weights_of.weights_of):
            raise StudyError(f"'{self.name}': weights_of names a row that is trained, and leaves no start to choose")

    def runs_as(self, other: "Row") -> bool:
        """Whether both are trained alike, whatever stands beside them in print."""
        keys = ("quick", "full", "overrides", "shared_detector", "weights_of")
        return all(getattr(self, key) == getattr(other, key) for key in keys)


@dataclass(frozen=True)
class Comparison:
    """A claim of the paper: one row against another in a metric.

    Attributes:
        row, baseline: names of rows of the same table.
        metric: one of the table's.
        expected: 1 or -1, the sign of row minus baseline; None takes it from the printed numbers, and where they do
            not say, the verdict is only `higher`, `lower` or `within noise`.
    """

    row: str
    baseline: str
    metric: str
    expected: int | None = None


@dataclass(frozen=True)
class Table:
    """A table of the paper, or what we set beside it.

    Attributes:
        title: as in the paper, such as `Table 3.4`.
        rows: in order.
        metrics: `task/metric` as in `results.json`, such as `segm/AP`; the columns.
        quick_metrics, full_metrics: further columns in that budget alone; the generated data tell more of occlusion
            than COCO does, and COCO-OCC is only for COCO.
        what: what the table is about, and what the printed numbers are measured on.
        comparisons: what the paper concludes from it.
    """

    title: str
    rows: tuple[Row, ...]
    metrics: tuple[str, ...]
    what: str = ""
    comparisons: tuple[Comparison, ...] = ()
    quick_metrics: tuple[str, ...] = ()
    full_metrics: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        names = [row.name for row in self.rows]
        if len(set(names)) < len(names):
            raise StudyError(f"{self.title}: two rows have the same name ({', '.join(names)})")
        metrics = (*self.metrics, *self.quick_metrics, *self.full_metrics)
        if not all("/" in metric for metric in metrics):
            raise StudyError(f"{self.title}: metrics is a tuple of task/metric, such as ('segm/AP',)")
        for row in self.rows:
            _known(row.paper, metrics, f"{self.title}, row '{row.name}': metric")
        for comparison in self.comparisons:
            _known([comparison.row, comparison.baseline], names, f"{self.title}, comparison: row")
            _known([comparison.metric], metrics, f"{self.title}, comparison: metric")

    def metrics_in(self, budget: str) -> tuple[str, ...]:
        """The columns in a budget."""
        return (*self.metrics, *getattr(self, f"{budget}_metrics"))

    def row(self, name: str) -> Row:
        """The row of that name."""
        return next(row for row in self.rows if row.name == name)

    def printed_difference(self, comparison: Comparison) -> float | None:
        """Row minus baseline in the paper, None where it does not print both."""
        pair = [self.row(name).paper.get(comparison.metric) for name in (comparison.row, comparison.baseline)]
        return None if None in pair else pair[0] - pair[1]


class Study:
    """All tables of a project.

    Attributes:
        tables: in order.
        rows: by name, in order; of a row that stands in several tables, the first.

    Raises:
        StudyError: two rows, or two shared detectors, of the same name are trained in different ways.
    """

    def __init__(self, *tables: Table) -> None:
        self.tables = tables
        self.rows: dict[str, Row] = {}
        for row in (row for table in tables for row in table.rows):
            if not self.rows.setdefault(row.name, row).runs_as(row):
                raise StudyError(f"two rows named '{row.name}' are trained in different ways; name one otherwise")
        for row in self.rows.values():
            if row.weights_of and self.rows.get(row.weights_of.name) is None:
                raise StudyError(f"'{row.name}' tests the weights of '{row.weights_of.name}', which is in no table")
        detectors: dict[str, SharedDetector] = {}
        for detector in (row.shared_detector for row in self.rows.values() if row.shared_detector):
            if detectors.setdefault(detector.name, detector) != detector:
                raise StudyError(f"two shared detectors are named '{detector.name}'; name one otherwise")

    def metrics_of(self, name: str, budget: str) -> tuple[str, ...]:
        """All metrics that are watched of a row in a budget."""
        tables = (table for table in self.tables if name in [row.name for row in table.rows])
        return tuple(dict.fromkeys(metric for table in tables for metric in table.metrics_in(budget)))

    def choose(self, names: Iterable[str]) -> list[Row]:
        """Rows by name, in the order of the study; `all` is every one.

        Raises:
            StudyError: there is no such row; the message has the nearest names.
        """
        names = list(names)
        _known([name for name in names if name != "all"], list(self.rows), "row")
        return [row for name, row in self.rows.items() if name in names or "all" in names]


def _known(names: Iterable[str], known: Iterable[str], what: str) -> None:
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
            hint = f"nearest: {', '.join(near)}" if near else f"known: {', '.join(known)}"
            raise StudyError(f"{what} '{name}' is not known ({hint})")


def _project_folders() -> Iterator[Path]:
    for root in projects.__path__:
        yield from (path for path in sorted(Path(root).iterdir()) if (path / "configs").is_dir())


def studies() -> list[Path]:
    """Folders of all projects that have an `ablations.py`."""
    return [folder for folder in _project_folders() if (folder / "ablations.py").is_file()]


def find_project(name_or_folder: str) -> Path:
    """Folder of a project, by its name or as it is.

    Raises:
        StudyError: it does not exist (the message has the nearest names), or has no `ablations.py`.
    """
    folders = {folder.name: folder for folder in _project_folders()}
    folder = folders.get(name_or_folder, Path(name_or_folder))
    if not folder.is_dir():
        _known([name_or_folder], list(folders), "project")
    if not (folder / "ablations.py").is_file():
        there = ", ".join(path.name for path in studies())
        raise StudyError(f"project '{name_or_folder}' has no ablations.py in {folder} (projects with one: {there})")
    return folder.resolve()


def load_study(folder: Path) -> Study:
    """The `study` of a project's `ablations.py`.

    Raises:
        StudyError: the file raises an error, or defines no `study`.
    """
    path = folder / "ablations.py"
    try:
        study = runpy.run_path(str(path)).get("study")
    except Exception as error:
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
        line = lines[-1] if lines else getattr(error, "lineno", "?")
        raise StudyError(f"{path}:{line}: {type(error).__name__}: {error}") from error
    if not isinstance(study, Study):
        raise StudyError(f"{path} must define `study`, an instseg_d2.reproduction.Study")
    return study
