"""That the measurements measure the same work; never how long it takes."""

import csv
import importlib.util
import os
import re
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import torch
from detectron2.config import instantiate
from torchvision.ops import FrozenBatchNorm2d

from instseg_d2.benchmark import compare as benchmark
from instseg_d2.benchmark import models
from instseg_d2.benchmark.evaluation import competitors, generate, largest_difference
from instseg_d2.benchmark.worker import Worker, WorkerError
from instseg_d2.model_zoo import get_config
from instseg_d2.results import append_rows
from instseg_d2.testing import tiny_mask_rcnn

ROOT = Path(__file__).resolve().parents[2]
NARROW = "Baselines/mask_rcnn_narrow_fpn_occshapes_quick"


class Clockwork:
    """A competitor whose times are known; notes when it had its turn."""

    def __init__(self, name, seconds, turns):
        self.name, self.seconds, self.turns = name, iter(seconds), turns

    def measure(self):
        self.turns.append(self.name)
        return {"total": next(self.seconds), "part": 0.5}

    def memory(self):
        return 8.0


def test_competitors_take_turns_and_the_order_flips():
    turns = []
    sides = [Clockwork(name, [1.0] * 9, turns) for name in "ab"]
    samples = benchmark.alternate(sides, rounds=2, repeats=2, warmup=1, what="test")
    assert "".join(turns) == "ab" + "abba" * 2
    assert [len(round_) for rounds in samples for round_ in rounds] == [2] * 4


def test_ratios_are_of_medians_and_their_spread_is_over_rounds():
    turns = []
    # The warm-up of 99 s does not count.
    a, b = Clockwork("a", [99, 1, 3, 2], turns), Clockwork("b", [99, 2, 2, 4], turns)
    total, part = benchmark.compare([a, b], [(0, 1)], rounds=3, repeats=1, warmup=1, what="test")
    assert (total["seconds_A"], total["seconds_B"], total["ratio"]) == (2, 2, 1)
    assert (total["ratio_min"], total["ratio_max"]) == (0.5, 1.5)
    assert (total["peak_MiB_A"], part["peak_MiB_A"]) == (8.0, None)
    assert (part["what"], part["ratio"]) == ("test: part", 1)


def test_step_tells_its_parts():
    first, second = torch.nn.Identity(), torch.nn.Identity()

    def run():
        time.sleep(0.02)
        second(first(torch.zeros(1)))
        time.sleep(0.04)

    seconds = benchmark.Step("s", run, parts={"one": first, "two": second}, rest="end").measure()
    assert list(seconds) == ["total", "one", "two", "end"]
    assert seconds["one"] >= 0.02
    assert seconds["end"] >= 0.04
    assert seconds["two"] < 0.02
    assert sum(seconds[part] for part in ("one", "two", "end")) == pytest.approx(seconds["total"])


def test_cpu_clock_does_not_count_waiting():
    step = benchmark.Step("s", lambda: time.sleep(0.2), clock="cpu")
    assert step.measure()["total"] < 0.1


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux resets the high-water mark")
def test_peak_memory_is_what_a_run_needs_above_what_is_held():
    # In a process of its own: what other tests leave behind is given back at any time.
    script = textwrap.dedent(
        """
        import numpy as np
        from instseg_d2.benchmark.compare import peak_memory
        held = np.ones(2**22)  # 32 MiB
        print(peak_memory(lambda: np.ones(2**23).sum()), peak_memory(lambda: held[:10].sum()))
        """
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=env)
    large, small = map(float, done.stdout.split())
    assert large == pytest.approx(64, abs=6)
    assert small < 6


def test_rows_are_rounded_and_fit_the_columns(tmp_path):
    path = tmp_path / "new" / "b.csv"
    row = {"what": "w", "ratio": 0.123456, "peak_MiB_A": None, **benchmark.context("cpu", tmp_path, 3, "wall")}
    append_rows(path, [benchmark.rounded(row)], benchmark.COLUMNS)
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert (rows[0]["ratio"], rows[0]["threads"], rows[0]["torch"]) == ("0.1235", "3", torch.__version__)
    assert rows[0]["peak_MiB_A"] == ""


def test_versions_of_both_sides_are_told_where_they_differ(tmp_path):
    sides = [{"python": "3.11", "torch": "2.9", "detectron2": "ours"}, {**benchmark.versions(), "torch": "2.9"}]
    about = benchmark.context("cpu", tmp_path, 1, "wall", sides)
    assert about["torch"] == "2.9"
    assert about["detectron2"] == f"ours / {benchmark.versions()['detectron2']}"


def test_agreement_of_detections():
    a = {"boxes": [[0, 0, 10, 10], [0, 0, 4, 4]], "scores": [1, 1], "classes": [3, 5]}
    b = {"boxes": [[0, 0, 10, 10], [0, 0, 4, 4], [0, 0, 10, 5]], "scores": [1, 1, 1], "classes": [3, 6, 3]}
    # The small box has another class in b; sides: (10 + 4) / 2 and (10 + 4 + 50 ** 0.5) / 3.
    assert models.agreement(a, b) == pytest.approx(
        {"count_A": 2, "count_B": 3, "side_A": 7, "side_B": 7.0237, "iou": 0.5, "same": 1}, abs=1e-4
    )
    nothing = {"boxes": [], "scores": [], "classes": []}
    assert models.agreement(nothing, b)["iou"] == 0


def test_generated_truth_fits_its_boxes():
    instances = models.ellipse_instances(60, 80, count=5, num_classes=3)
    assert torch.equal(instances.gt_boxes.tensor, instances.gt_masks.get_bounding_boxes().tensor)
    box_area = instances.gt_boxes.area()
    # An ellipse covers pi / 4 of its box.
    assert torch.allclose(instances.gt_masks.tensor.sum((1, 2)) / box_area, torch.tensor(0.785), atol=0.1)
    assert models.landscape(800) == (800, 1067)


def test_random_weights_are_made_to_detect():
    model = tiny_mask_rcnn(num_classes=5).eval()
    inputs = models.batch_of(96, 1)
    predict = models.inference(model, inputs)
    model.roi_heads.box_predictor.test_score_thresh = 0.5
    before = len(predict()[0]["instances"])
    assert models.make_it_detect(model, inputs)
    found = predict()[0]["instances"]
    assert before == 0
    assert len(found) > 5
    # Masks neither empty nor full.
    share = found.pred_masks.sum((1, 2)) / found.pred_boxes.area()
    assert 0.2 < share.mean() < 0.8
    assert not models.make_it_detect(torch.nn.Identity(), inputs)


def test_training_step_repeats_itself():
    cfg = get_config(NARROW)
    model = tiny_mask_rcnn()
    run = models.training(model, cfg, models.batch_of(96, 2, instances=4, num_classes=3))
    first, second = run(), run()
    assert first["loss_mask"] > 0
    assert second == pytest.approx(first, rel=1e-3)


@pytest.mark.slow
def test_torchvision_twin_detects_the_same():
    torch.manual_seed(0)
    model = instantiate(models.use_torchvision_settings(get_config(models.MASK_RCNN)).model)
    # Multiples of 64, where torchvision's anchors lie where ours do.
    image = models.blurry_image(192, 256)
    inputs = [{"image": image, "height": 192, "width": 256}]
    assert models.make_it_detect(model, inputs)
    # Other statistics than the identity, so that each norm must be in its place.
    for name, buffer in model.backbone.named_buffers():
        if name.endswith("running_var"):
            buffer.mul_(torch.rand_like(buffer) * 0.02 + 0.99)
    ours = models.inference(model, inputs)()[0]
    for norm in (torch.nn.BatchNorm2d, FrozenBatchNorm2d):
        theirs = models.inference(models.to_torchvision(model, norm), [image.float() / 255])()[0]
        found = models.agreement(models.detections(ours), models.detections(theirs))
        assert found["count_A"] == found["count_B"] == 100
        assert found["same"] >= 98
        assert found["side_A"] > 10
        assert torch.allclose(ours["instances"].scores, theirs["scores"], atol=1e-3)


def test_every_parameter_has_its_place_in_torchvision():
    assert models._torchvision_name("backbone.bottom_up.res3.0.shortcut.norm.bias") == (
        "backbone.body.layer2.0.downsample.1.bias"
    )
    assert models._torchvision_name("backbone.fpn_output5.weight") == "backbone.fpn.layer_blocks.3.0.weight"
    assert models._torchvision_name("roi_heads.mask_head.mask_fcn1.bias") == "roi_heads.mask_head.0.0.bias"
    with pytest.raises(KeyError, match="nothing like 'panoptic'"):
        models._torchvision_name("panoptic")


@pytest.mark.parametrize("task", ["bbox", "segm"])
def test_fast_evaluation_gives_the_same_figures(tmp_path, task):
    json_file, predictions = generate(tmp_path, images=12, detections=10)
    assert [len(found) for found in predictions] == [10] * 12
    for sides in competitors(json_file, predictions, task, "wall").values():
        for side in sides:
            side.measure()
        assert largest_difference(sides[0].figures, sides[1].figures) < 1e-9
    overall = competitors(json_file, predictions, task, "wall")[f"COCOEvaluator, {task}"][0]
    overall.measure()
    assert 20 < overall.figures["AP"] < 90


def test_largest_difference_sees_missing_figures():
    nan = float("nan")
    assert largest_difference({"a": 1, "b": nan}, {"a": 3, "b": nan}) == 2
    assert largest_difference({"a": nan}, {"a": 3}) == float("inf")
    with pytest.raises(ValueError, match="different figures"):
        largest_difference({"a": 1}, {"b": 1})


@pytest.mark.slow
def test_worker_answers_and_says_what_went_wrong(tmp_path):
    with Worker("here", sys.executable, ROOT, threads=1) as worker:
        with pytest.raises(WorkerError, match="here: (.|\n)*TypeError"):
            worker.ask("prepare")
        # It lives on.
        with pytest.raises(WorkerError, match="nonsense"):
            worker.ask("nonsense")
    with pytest.raises(WorkerError, match="cannot run"):
        Worker("nowhere", str(tmp_path / "no-python"), ROOT, threads=1)


@pytest.mark.slow
def test_two_environments_with_equal_work(run_tool, tmp_path):
    sides = ["--python", f"one={sys.executable}", "--python", f"two={sys.executable}", "--config-file", NARROW]
    options = "--size 96 --detections 0 --train-size 64 --batch 1 --rounds 1 --repeats 1 --warmup 0".split()
    done = run_tool("benchmark.py", "detectron2", *sides, *options, "--output", tmp_path / "b.csv")
    assert done.returncode == 0, done.stderr
    first, second = re.search(r"(\d+) and \d+ detections.* IoU > 0.99: (\d+)", done.stdout).groups()
    assert int(first) == int(second) > 10
    assert "losses differ by 0;" in done.stdout
    with (tmp_path / "b.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    parts = ["backbone", "proposals", "heads"]
    assert [row["what"].partition("1: ")[2] for row in rows] == [
        *("", *parts, "postprocessing"),
        *("", *parts, "backward and step"),
    ]
    assert (rows[0]["A"], rows[0]["B"]) == ("one", "two")


@pytest.fixture
def module():
    spec = importlib.util.spec_from_file_location("benchmark_tool", ROOT / "tools" / "benchmark.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def tool(module, monkeypatch):
    """`tool("mapper", ...)` runs the tool in this process, which saves its imports."""
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setattr(sys, "path", list(sys.path))

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["benchmark.py", *map(str, arguments)])
        return module.main()

    return run


@pytest.mark.parametrize("mode", ["train", "inference"])
def test_recipes_against_the_first(tool, tiny_recipe, capsys, mode):
    options = f"--mode {mode} --size 96 --batch 2 --rounds 1 --repeats 1 --warmup 0".split()
    assert tool("models", "--config-file", tiny_recipe, "--config-file", tiny_recipe, *options) == 0
    table = capsys.readouterr().out
    objects = ", 20 instances" if mode == "train" else ""
    assert f"{mode}, 96 px, batch 2{objects}: heads" in table
    assert "0.1 M parameters" in table


def test_mapper_gives_seconds_per_image(tool, tiny_recipe, tmp_path, capsys):
    options = "--images 3 --rounds 1 --repeats 1 --warmup 0".split()
    assert tool("mapper", "--config-file", tiny_recipe, *options, "--output", tmp_path / "b.csv") == 0
    assert "detectron2's DatasetMapper" in capsys.readouterr().out
    with (tmp_path / "b.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert float(row["ratio"]) == pytest.approx(float(row["seconds_A"]) / float(row["seconds_B"]), rel=1e-2)
    assert row["clock"] == "wall"


def test_frames_of_videos(tool, tmp_path, capsys):
    recipe = tmp_path / "tiny.py"
    recipe.write_text(
        "from instseg_d2.model_zoo import get_config\n"
        "from instseg_d2.testing import tiny_tracking_rcnn_config\n"
        '_cfg = get_config("PCAN/tracking_rcnn_narrow_fpn_occvideo_quick")\n'
        "dataloader, optimizer, lr_multiplier = _cfg.dataloader, _cfg.optimizer, _cfg.lr_multiplier\n"
        "train, model = _cfg.train, tiny_tracking_rcnn_config()\n"
    )
    options = "--size 64 --frames 4 --early 2 --rounds 1 --repeats 1 --warmup 0".split()
    assert tool("video", "--config-file", recipe, "--config-file", recipe, *options) == 0
    table = capsys.readouterr().out
    assert "video, a frame of 85x64 " in table
    assert table.count("video, a frame of 85x64, late and early") == 2
    assert "from frame 2 to 4: tensors of the model" in table


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["models", "--config-file", "no_such_recipe"], "no config file and no recipe named 'no_such_recipe'"),
        (["detectron2", "--python", "a=python"], "give two environments"),
        (["torchvision", "--rounds", "0"], "at least 1"),
    ],
)
def test_mistakes_are_one_sentence(tool, capsys, arguments, message):
    with pytest.raises(SystemExit) as end:
        tool(*arguments)
    assert end.value.code == 2
    assert message in capsys.readouterr().err


def test_unequal_work_gives_no_ratio(module):
    found = {"count_A": 100, "count_B": 99, "side_A": 1.0, "side_B": 1.0, "iou": 1.0, "same": 99}
    with pytest.raises(SystemExit, match="do not do the same work"):
        module._same_work("x", found, expected=100, least_iou=0.9)
    with pytest.raises(SystemExit, match="loss_mask is 1 and 2"):
        module._same_losses("x", {"loss_mask": 1, "loss_cls": 3}, {"loss_mask": 2, "loss_cls": 3})
