"""A study whose trainings are a script that writes down numbers, so that a run takes a moment."""

import sys
from pathlib import Path

import pytest

from instseg_d2.reproduction import Row, Study, Table
from instseg_d2.reproduction.plan import Planner
from instseg_d2.reproduction.runner import Runner, Slot

RECIPE = """
model = dict(score={score}, fails=False, slow=0)
dataloader = dict(test=dict(dataset=dict(names="tiny_val")))
optimizer = dict(lr=0.1)
lr_multiplier = dict()
train = dict(output_dir="", seed=0, device="auto", max_iter=120, init_checkpoint="", report=True,
             ema=dict(enabled=False))
"""
TRAINER = """
import json, os, sys, time
from pathlib import Path
args = sys.argv[1:]
options = {key: value.strip("'") for key, _, value in (text.partition("=") for text in args)}
out = Path(options["train.output_dir"])
with (out / "calls.txt").open("a") as file:
    file.write(json.dumps([args, os.environ.get("CUDA_VISIBLE_DEVICES"), os.environ.get("OMP_NUM_THREADS")]) + "\\n")
if options.get("model.fails") == "True":
    print("loading data")
    sys.exit("error: image 7 cannot be read")
(out / "model_0000009.pth").write_text("state")
time.sleep(float(options.get("model.slow", 0)))
scope = {}
exec(Path(args[args.index("--config-file") + 1]).read_text(), scope)
score = float(options.get("model.score", scope["model"]["score"])) + int(options["train.seed"])
(out / "metrics.json").write_text('{"iteration": 0, "time": 0.25}\\n{"iteration": 1, "time": 0.75}\\n{"itera')
(out / "results.json").write_text(json.dumps({"segm": {"AP": score, "AP50": 2 * score}}))
source = Path(__file__).with_name("weights.pth")
(out / "model_final.pth").write_bytes(source.read_bytes() if source.exists() else b"weights")
"""


@pytest.fixture
def project(tmp_path):
    """Folder with two recipes, `a.py` (AP 30 + seed) and `b.py` (AP 40 + seed)."""
    folder = tmp_path / "Tiny"
    folder.mkdir()
    for name, score in (("a", 30), ("b", 40)):
        (folder / f"{name}.py").write_text(RECIPE.format(score=score))
    (folder / "trainer.py").write_text(TRAINER)
    return folder


@pytest.fixture
def make_tasks(project, tmp_path):
    """`make_tasks(row, ..., seeds=(0,))` gives the tasks of a study of these rows."""

    def make(*rows: Row, seeds=(0,), metrics=("segm/AP",)):
        planner = Planner(project, Study(Table("Table 1", rows, metrics)), tmp_path / "runs")
        return planner.tasks(rows, "quick", seeds)

    return make


@pytest.fixture
def results(tmp_path) -> Path:
    return tmp_path / "results" / "tiny.csv"


@pytest.fixture
def make_runner(project, results):
    """`make_runner(slots)` gives a runner and the list of the lines that it says."""

    def make(slots=None):
        lines = []
        trainer = (sys.executable, str(project / "trainer.py"))
        return Runner(trainer=trainer, slots=slots or [Slot("cpu")], results=results, say=lines.append), lines

    return make
