"""Runs the tasks of a study one after another or side by side, each in a process of its own."""

import os
import queue
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

from instseg_d2.engine.mistakes import describe
from instseg_d2.results import ResultsError, surroundings

from . import records
from .locks import locked
from .plan import Task
from .study import StudyError

_LINES_SHOWN = 8


class Stopped(Exception):
    """The study was asked to stop while this run was under way."""


class RunFailed(Exception):
    """A run came to no result; the message says why, with the last lines that it printed."""


@dataclass(frozen=True)
class Slot:
    """A place for one run at a time.

    Attributes:
        device: `cpu` or `cuda`.
        gpus: what `CUDA_VISIBLE_DEVICES` is set to for the run.
        first: index of the first of them as this process sees it.
        threads: for `OMP_NUM_THREADS`; None leaves it to torch.
    """

    device: str
    gpus: tuple[str, ...] = ()
    first: int = 0
    threads: int | None = None

    def environment(self) -> dict[str, str]:
        """Of the run's process."""
        own = {"CUDA_VISIBLE_DEVICES": ",".join(self.gpus)} if self.gpus else {}
        if self.threads and "OMP_NUM_THREADS" not in os.environ:
            own["OMP_NUM_THREADS"] = str(self.threads)
        return {**os.environ, **own}

    def about(self) -> dict[str, str]:
        """Hardware, versions and commit of a run here."""
        about = surroundings("cpu" if self.device == "cpu" else f"cuda:{self.first}")
        if len(self.gpus) > 1:
            about["hardware"] = f"{len(self.gpus)} x {about['hardware']}"
        return about


def command(trainer: Sequence[str], task: Task, slot: Slot) -> list[str]:
    """Command line that trains a task, or continues it; or that tests the weights of its source."""
    settings = [*task.recipe.overrides, f"train.seed={task.seed}", f"train.device={_quoted(slot.device)}"]
    settings.append(f"train.output_dir={_quoted(task.folder)}")
    if task.start or task.source:
        settings.append(f"train.init_checkpoint={_quoted((task.start or task.source).weights)}")
    how = "--eval-only" if task.source else "--resume"
    gpus = ["--num-gpus", str(len(slot.gpus))] if len(slot.gpus) > 1 else []
    return [*trainer, "--config-file", str(task.file.absolute()), how, *gpus, *settings]


def _quoted(value: object) -> str:
    """A text that every parser of overrides takes as it is, whatever stands in it."""
    return "'" + str(value).replace("'", r"\'") + "'"


class Runner:
    """Trains tasks and records them.

    Args:
        trainer: command of `tools/train_net.py`.
        slots: places for runs.
        results: csv file for the rows.
        say: told one line at each start and end of a run.
    """

    def __init__(
        self, *, trainer: Sequence[str], slots: Sequence[Slot], results: Path, say: Callable[[str], None] = print
    ) -> None:
        self.trainer = list(trainer)
        self.results = results
        self.say = say
        self._workers = len(slots)
        self._slots: queue.Queue[Slot] = queue.Queue()
        for slot in slots:
            self._slots.put(slot)
        self._stop = threading.Event()
        self._children: set[subprocess.Popen] = set()
        self._seconds: list[float] = []
        self._started = self._left = self._total = 0
        self._guard = threading.Lock()

    def run(self, tasks: Iterable[Task]) -> dict[Task, str]:
        """Run all tasks, shared detectors before them, tests after them; a run that fails stops no other.

        A row whose weights are tested is trained and recorded, though it is not among the tasks.

        Returns:
            The failed ones with what went wrong.

        Raises:
            KeyboardInterrupt: after SIGINT; runs under way have saved their state.
            SystemExit: likewise after SIGTERM, with code 143.
        """
        tasks = list(tasks)
        tests = [task for task in tasks if task.source]
        trainings = {task.folder: task for task in tasks if not task.source}
        for source in (task.source for task in tests):
            if not records.is_done(source):
                trainings.setdefault(source.folder, source)
        detectors = list(dict.fromkeys(task.start for task in trainings.values() if task.start))
        missing = [detector for detector in detectors if not records.is_done(detector)]
        self._total = self._left = len(trainings) + len(tests) + len(missing)
        failed = self._run_all(missing)
        for task in trainings.values():
            if task.start in failed:
                failed[task] = f"its shared detector failed ({task.start})"
        failed.update(self._run_all([task for task in trainings.values() if task not in failed]))
        for task in tests:
            if not records.is_done(task.source):
                failed[task] = f"the training of its weights failed ({task.source})"
        failed.update(self._run_all([task for task in tests if task not in failed]))
        return failed

    def _run_all(self, tasks: Sequence[Task]) -> dict[Task, str]:
        failed = {}
        former = signal.signal(signal.SIGTERM, _leave)
        try:
            with ThreadPoolExecutor(self._workers) as pool:
                try:
                    futures = {pool.submit(self._run_one, task): task for task in tasks}
                    for future in as_completed(futures):
                        if problem := future.result():
                            failed[futures[future]] = problem
                except BaseException:
                    self._end_children()
                    pool.shutdown(wait=False, cancel_futures=True)
                    raise
        finally:
            signal.signal(signal.SIGTERM, former)
        return failed

    def _end_children(self) -> None:
        """Ask the runs under way to save and leave."""
        with self._guard:
            self._stop.set()
            for child in self._children:
                child.terminate()

    def _run_one(self, task: Task) -> str | None:
        """Train and record one task in the next free slot; what went wrong, or None."""
        if self._stop.is_set():
            return None
        slot = self._slots.get()
        begun = time.monotonic()
        with self._guard:
            self._started += 1
            place = f"[{self._started}/{self._total}]"
        log = task.folder / "study.log"
        doing = f"{'goes on' if log.exists() else 'begins'}, log in {log}"
        if records.is_done(task):
            doing = "is done already"
        self.say(f"{place} {task}: {doing}")
        try:
            self._train(task, slot)
            if not task.is_detector:
                records.record(self.results, task)
        except Stopped:
            return None
        except (RunFailed, StudyError, ResultsError, OSError, RuntimeError) as error:
            problem = describe(error, task.folder)
            self.say(f"{place} {task}: FAILED: {problem}")
            return problem
        finally:
            self._slots.put(slot)
            with self._guard:
                self._left -= 1
        self.say(f"{place} {task}: {self._result(task, time.monotonic() - begun)}")
        return None

    def _result(self, task: Task, seconds: float) -> str:
        with self._guard:
            self._seconds.append(seconds)
            mean = sum(self._seconds) / len(self._seconds)
            minutes = mean * self._left / self._workers / 60
            rest = f"{self._left} left, about {minutes:.1f} min" if self._left else "last"
        numbers = {} if task.is_detector else records.metrics_of(task)
        shown = ", ".join(f"{name} {value:.4g}" for name, value in numbers.items()) or "ready"
        return f"{shown} after {seconds / 60:.1f} min; {rest}"

    def _train(self, task: Task, slot: Slot) -> None:
        task.folder.mkdir(parents=True, exist_ok=True)
        told = []

        def waiting() -> None:
            if self._stop.is_set():
                raise Stopped
            if not told:
                told.append(self.say(f"{task}: a process of an earlier start still trains it; waiting for that"))

        with locked(task.folder, waiting) as descriptor:
            if records.is_done(task):
                return
            records.note_attempt(task, slot.about())
            self._call(task, slot, descriptor)
            records.finish(task)

    def _call(self, task: Task, slot: Slot, descriptor: int) -> None:
        path = task.folder / "study.log"
        with path.open("ab") as log:
            with self._guard:
                if self._stop.is_set():
                    raise Stopped
                child = subprocess.Popen(
                    command(self.trainer, task, slot),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env=slot.environment(),
                    pass_fds=(descriptor,),
                )
                self._children.add(child)
            code = child.wait()
            with self._guard:
                self._children.discard(child)
        if code and self._stop.is_set():
            raise Stopped
        if code:
            how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"left with exit code {code}"
            lines = path.read_text(errors="replace").splitlines()[-_LINES_SHOWN:]
            raise RunFailed("\n    ".join([f"the training {how}; the last lines of {path}:", *lines]))


def _leave(number: int, frame: object) -> None:
    raise SystemExit(128 + number)
