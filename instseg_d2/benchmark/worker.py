"""Two Python environments side by side: each runs this module as a process, which measures when it is told to.

The parent writes requests, one JSON object a line, to the worker's standard input and reads an answer to each:
`prepare` with its arguments, `measure`, `memory`. Everything else that a worker prints goes to standard error.
"""

import json
import os
import subprocess
import sys
import traceback
from pathlib import Path
from typing import Any

import torch
from detectron2.config import instantiate

from instseg_d2.model_zoo import get_config

from .compare import Step, versions
from .models import batch_of, detections, inference, make_it_detect, step, training


class WorkerError(RuntimeError):
    """A worker failed or died."""


class Worker:
    """The parent's end: a process of another Python that takes its turns in `alternate`.

    Args:
        name: for the table.
        python: the interpreter; its environment brings torch and detectron2.
        root: folder of the `instseg_d2` package, the only addition to that interpreter's path.
        threads: of the worker.
    """

    def __init__(self, name: str, python: str, root: Path, threads: int) -> None:
        self.name = name
        environment = {**os.environ, "PYTHONPATH": str(root)}
        environment.update(dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), str(threads)))
        environment.setdefault("PYTHONWARNINGS", "ignore")
        try:
            self._process = subprocess.Popen(
                [python, "-m", __name__],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env=environment,
            )
        except OSError as error:
            raise WorkerError(f"{name}: cannot run {python}: {error}") from error

    def ask(self, request: str, **arguments: Any) -> Any:
        """Send a request and wait for the answer.

        Raises:
            WorkerError: the worker failed; its traceback is part of the message.
        """
        try:
            self._process.stdin.write(json.dumps({"request": request, **arguments}) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise WorkerError(f"{self.name}: the process ended with exit code {self._process.wait()}; see its output")
        answer = json.loads(line)
        if "error" in answer:
            raise WorkerError(f"{self.name}: {answer['error']}")
        return answer["result"]

    def measure(self) -> dict[str, float]:
        """See `Competitor`."""
        return self.ask("measure")

    def memory(self) -> float | None:
        """See `Competitor`."""
        return self.ask("memory")

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *_) -> None:
        self._process.stdin.close()
        try:
            self._process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()


class _Bench:
    """The worker's end: a recipe, on whichever detectron2 is installed here."""

    def __init__(self) -> None:
        self.step: Step | None = None
        self.model = None

    def prepare(
        self,
        what: str,
        config_file: str,
        size: int,
        batch: int,
        device: str,
        clock: str,
        threads: int,
        weights: str,
        save: bool,
    ) -> dict:
        """Build what `measure` runs, run it once, and tell its outputs and the versions.

        Args:
            what: "inference" or "training".
            config_file: the recipe of a Mask R-CNN.
            size: short edge of the images.
            batch: images.
            device: of torch.
            clock: see `Step`.
            threads: of torch.
            weights: a file; both sides have the same weights because one writes it and the other reads it.
            save: write it.
        """
        torch.set_num_threads(threads)
        cfg = get_config(config_file)
        is_training = what == "training"
        inputs = batch_of(
            size, batch, instances=20 if is_training else 0, num_classes=cfg.dataloader.train.mapper.num_classes
        )
        if self.model is None:
            torch.manual_seed(0)
            self.model = instantiate(cfg.model).to(device)
            if save:
                if not make_it_detect(self.model, inputs):
                    raise ValueError(f"{config_file} is not a Mask R-CNN on a feature pyramid")
                torch.save(self.model.state_dict(), weights)
            self.model.load_state_dict(torch.load(weights, map_location=device, weights_only=True))
        run = training(self.model, cfg, inputs) if is_training else inference(self.model, inputs)
        self.step = step("", self.model, run, device=device, clock=clock, is_training=is_training)
        output = run()
        facts = {"losses": output} if is_training else {"detections": [detections(item) for item in output]}
        return {"versions": versions(), **facts}

    def measure(self) -> dict[str, float]:
        return self.step.measure()

    def memory(self) -> float | None:
        return self.step.memory()


def main() -> None:
    """Answer requests until standard input ends."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    # Libraries print; the channel is for answers alone.
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    bench = _Bench()
    for line in sys.stdin:
        arguments = json.loads(line)
        try:
            answer = {"result": getattr(bench, arguments.pop("request"))(**arguments)}
        except Exception:
            answer = {"error": traceback.format_exc()}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
