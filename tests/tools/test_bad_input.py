"""What users get wrong: each mistake is told with its place, and nothing that was written before is lost."""

import builtins
import errno
import json
import math
from pathlib import Path

import cv2
import pytest
import torch
from detectron2.config import instantiate

from instseg_d2.checkpoint import Checkpointer, CheckpointError, CheckpointMismatchError, load_weights
from instseg_d2.data import DatasetError, SampleError
from instseg_d2.engine.arguments import training_parser
from instseg_d2.engine.mistakes import USER_MISTAKES, describe
from instseg_d2.engine.overrides import SettingError, UnknownKeyError, apply_overrides
from instseg_d2.engine.run import evaluate_checkpoint, train
from instseg_d2.engine.trainer import NonFiniteLossError
from instseg_d2.files import write_whole
from instseg_d2.model_zoo import ConfigError, get_config

FULL = Path("/dev/full")
needs_full_device = pytest.mark.skipif(not FULL.exists(), reason="there is no /dev/full")


@pytest.fixture(autouse=True)
def _importer_is_restored(monkeypatch):
    # Upstream's LazyConfig leaves its own importer behind when a config fails.
    monkeypatch.setattr(builtins, "__import__", builtins.__import__)


@pytest.fixture
def edit(tmp_path):
    """`edit(change)` calls `change(content)` on the tiny data set's json and writes it back."""

    def apply(change):
        path = tmp_path / "data" / "instances.json"
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))

    return apply


def recipe(path, *overrides):
    cfg = apply_overrides(get_config(path), ["train.report=False", *overrides])
    Path(cfg.train.output_dir).mkdir(exist_ok=True)
    return cfg


def truncate(path):
    jpeg = cv2.imencode(".jpg", cv2.imread(str(path)))[1].tobytes()
    path.write_bytes(jpeg[: len(jpeg) // 2])


def metrics(cfg):
    return [json.loads(line) for line in Path(cfg.train.output_dir, "metrics.json").read_text().splitlines()]


# -- Annotation files --------------------------------------------------------------------------------------------------


def test_missing_json(tiny_recipe, tmp_path):
    (tmp_path / "data" / "instances.json").rename(tmp_path / "data" / "instances_2.json")
    with pytest.raises(DatasetError, match=r"no annotation file .*instances\.json\n.*has: instances_2\.json"):
        get_config(tiny_recipe)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: c.pop("categories"), ["missing-key", "no list 'categories'", "it has ['annotations', 'images']"]),
        (
            lambda c: c["annotations"][2].update(category_id=7),
            ["annotation 3 of image 2", "category_id 7 is not in 'categories' [1, 2, 3]"],
        ),
        (
            lambda c: c["annotations"][2].update(segmentation=[[1, 2, 3]]),
            ["annotation 3 of image 2", "'segmentation'[0] has 3 numbers", "tolerate=('bad-polygon',)"],
        ),
        (
            lambda c: c["annotations"][2].update(segmentation={"size": [96, 64], "counts": [0, 96 * 64]}),
            ["annotation 3 of image 2", "the mask is [96, 64], the image [64, 96]"],
        ),
    ],
    ids=["no categories", "unknown category", "three numbers", "run lengths of another size"],
)
def test_broken_annotations_are_named_before_anything_starts(tiny_recipe, edit, tmp_path, change, words):
    edit(change)
    with pytest.raises(DatasetError) as caught:
        get_config(tiny_recipe)
    for word in [*words, str(tmp_path / "data" / "instances.json")]:
        assert word in str(caught.value)


@pytest.mark.parametrize("classes", [1, 5])
def test_number_of_classes_is_compared_before_the_training(tiny_recipe, classes):
    cfg = recipe(tiny_recipe, f"model.roi_heads.num_classes={classes}")
    with pytest.raises(SettingError, match=rf"model\.roi_heads\.num_classes is {classes}, .* has 3 classes") as caught:
        train(cfg)
    assert cfg.dataloader.train.dataset.names in str(caught.value)
    assert not Path(cfg.train.output_dir, "metrics.json").exists()


def test_box_without_area_trains(tiny_recipe, edit):
    edit(lambda c: c["annotations"][0].update(bbox=[6, 8, 0, 36]))
    cfg = recipe(tiny_recipe, "train.max_iter=2")
    assert math.isfinite(train(cfg)["bbox"]["AP"])


def test_no_instances_at_all_is_refused_with_the_way_out(tiny_recipe, edit):
    edit(lambda c: c.update(annotations=[]))
    with pytest.raises(DatasetError, match=r"dataloader\.train\.dataset\.filter_empty=False"):
        train(recipe(tiny_recipe))


def test_batches_without_instances_train(tiny_recipe, edit):
    edit(lambda c: c.update(annotations=[]))
    cfg = recipe(tiny_recipe, "dataloader.train.dataset.filter_empty=False", "train.max_iter=3")
    train(cfg)
    losses = [value for line in metrics(cfg) for name, value in line.items() if "loss" in name]
    assert len(losses) >= 3 * 6
    assert all(math.isfinite(value) for value in losses)


# -- Images ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spoil", [Path.unlink, truncate], ids=["missing", "truncated"])
@pytest.mark.parametrize("workers", [0, 1])
def test_image_that_cannot_be_read_is_named(tiny_recipe, tmp_path, spoil, workers):
    image = tmp_path / "data" / "images" / "2.png"
    spoil(image)
    cfg = recipe(tiny_recipe, f"dataloader.train.num_workers={workers}")
    with pytest.raises(SampleError) as caught:
        train(cfg)
    told = describe(caught.value, cfg.train.output_dir)
    assert told.startswith(f"image {image} (id 2): ")
    assert told.endswith("take the image out of the annotation file")
    assert "\n" not in told


@pytest.mark.slow
def test_tool_ends_with_one_line_and_keeps_what_is_written(run_tool, tiny_recipe, tmp_path):
    assert run_tool("train_net.py", "--config-file", tiny_recipe, "train.max_iter=2").returncode == 0
    kept = {name: (tmp_path / "out" / name).read_bytes() for name in ("model_final.pth", "results.json")}
    (tmp_path / "data" / "images" / "2.png").unlink()
    done = run_tool("train_net.py", "--config-file", tiny_recipe, "dataloader.train.num_workers=1")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(f"error: image {tmp_path / 'data' / 'images' / '2.png'} (id 2): ")
    assert "Traceback" not in done.stderr
    assert kept == {name: (tmp_path / "out" / name).read_bytes() for name in kept}


@pytest.mark.slow
def test_several_processes_end_with_one_line_too(run_tool, tiny_recipe, tmp_path):
    if torch.cuda.is_available():
        pytest.skip("would ask for two GPUs")
    done = run_tool("train_net.py", "--config-file", tiny_recipe, "--num-gpus", 2, "train.init_checkpoint=nowhere.pth")
    assert done.returncode == 1
    assert "error: no checkpoint at 'nowhere.pth'" in done.stderr
    assert "Traceback" not in done.stderr


# -- Configs and overrides ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("statement", "words"),
    [
        ("x = train.nothere.foo()", ["nothere"]),
        ("import no_such_module", ["ModuleNotFoundError", "no_such_module"]),
        ("x = (1,", ["SyntaxError", "never closed"]),
        ('_cfg = get_config("Baselines/mask_rcnn_r50")', ["Baselines/mask_rcnn_r50_fpn_coco_1x"]),
    ],
    ids=["attribute", "import", "syntax", "base"],
)
def test_error_in_a_config_is_told_with_its_line(tiny_recipe, statement, words):
    text = tiny_recipe.read_text()
    tiny_recipe.write_text(text + statement + "\n")
    with pytest.raises(ConfigError) as caught:
        get_config(tiny_recipe)
    for word in (*words, str(tiny_recipe), f"{len(text.splitlines()) + 1}: "):
        assert word in str(caught.value)


def test_config_that_is_no_recipe(tiny_recipe):
    tiny_recipe.write_text(tiny_recipe.read_text() + "del model\n")
    with pytest.raises(ConfigError, match="no model; a recipe defines model, dataloader, optimizer"):
        get_config(tiny_recipe)


@pytest.mark.parametrize(
    ("override", "error", "words"),
    [
        ("train.max_itr=3", UnknownKeyError, "nearest: train.max_iter"),
        ("train.max_iter", SettingError, "not of the form key=value"),
        ("train.max_iter=abc", SettingError, "'abc' is text, but 'train.max_iter' must be a number"),
        ("train.amp.enabled=maybe", SettingError, "must be true or false"),
        ("train.max_iter={[", SettingError, "train.max_iter={["),
    ],
)
def test_mistyped_override(tiny_recipe, override, error, words):
    with pytest.raises(error) as caught:
        apply_overrides(get_config(tiny_recipe), [override])
    assert words in str(caught.value)


def test_overrides_may_stand_on_both_sides_of_a_flag():
    args = training_parser().parse_intermixed_args(["--config-file", "c.py", "a=1", "--resume", "b=2"])
    assert args.resume
    assert args.opts == ["a=1", "b=2"]


# -- Checkpoints -------------------------------------------------------------------------------------------------------


@pytest.fixture
def weights(tiny_recipe, tmp_path):
    """Weights of the tiny model, of 3 classes."""
    Checkpointer(instantiate(get_config(tiny_recipe).model), str(tmp_path)).write("weights")
    return tmp_path / "weights.pth"


def test_checkpoint_of_another_model(tiny_recipe, tmp_path, weights):
    cfg = recipe(tiny_recipe, f"train.init_checkpoint={weights}", "model.backbone.out_channels=24")
    with pytest.raises(CheckpointMismatchError, match="belongs to another model.*file .* model "):
        evaluate_checkpoint(cfg)
    torch.save({"model": {"unknown.weight": torch.zeros(3)}}, tmp_path / "foreign.pth")
    with pytest.raises(CheckpointMismatchError, match=r"foreign\.pth' belongs to another model: (\d+) of \1 "):
        train(recipe(tiny_recipe, f"train.init_checkpoint={tmp_path / 'foreign.pth'}"))


def test_resuming_another_model_is_refused(tiny_recipe):
    train(recipe(tiny_recipe, "train.max_iter=2"))
    with pytest.raises(CheckpointError, match=r"model_final\.pth"):
        train(recipe(tiny_recipe, "train.max_iter=4", "model.backbone.out_channels=24"), resume=True)


@pytest.mark.parametrize("content", [b"", b"hello", None], ids=["empty", "text", "cut off"])
def test_damaged_checkpoint_is_named(tiny_recipe, tmp_path, weights, content):
    damaged = tmp_path / "damaged.pth"
    damaged.write_bytes(weights.read_bytes()[:5000] if content is None else content)
    with pytest.raises(CheckpointError, match=r"damaged\.pth"):
        load_weights(instantiate(get_config(tiny_recipe).model), str(damaged))


# -- Writing -----------------------------------------------------------------------------------------------------------


@needs_full_device
def test_full_disk_stops_the_training_with_the_earlier_checkpoint_and_metrics_whole(tiny_recipe):
    cfg = recipe(tiny_recipe)
    out = Path(cfg.train.output_dir)
    (out / "model_0000005.pth.partial").symlink_to(FULL)
    with pytest.raises(OSError, match=r"cannot write .*model_0000005\.pth.*--resume") as caught:
        train(cfg)
    assert isinstance(caught.value, USER_MISTAKES)
    assert (out / "last_checkpoint").read_text() == "model_0000002.pth"
    assert not list(out.glob("*.partial"))
    load_weights(instantiate(cfg.model), str(out / "model_0000002.pth"))
    assert [line["iteration"] for line in metrics(cfg)] == list(range(6))
    train(cfg, resume=True)
    assert (out / "last_checkpoint").read_text() == "model_final.pth"


@needs_full_device
def test_results_of_an_earlier_run_survive_a_full_disk(tmp_path):
    path = tmp_path / "results.json"
    write_whole(path, '{"bbox": 1}')
    path.with_name("results.json.partial").symlink_to(FULL)
    with pytest.raises(OSError, match="No space left") as caught:
        write_whole(path, "x" * 100)
    told = describe(caught.value, tmp_path / "not" / "there")
    assert str(path) in told
    assert "MiB are free" in told
    assert path.read_text() == '{"bbox": 1}'
    assert list(tmp_path.iterdir()) == [path]


def test_folder_without_write_access_is_told_with_the_folder(tmp_path):
    told = describe(OSError(errno.EROFS, "Read-only file system", "out/log.txt"), tmp_path)
    for word in ("Read-only file system", "out/log.txt", str(tmp_path), "write access"):
        assert word in told


# -- Losses ------------------------------------------------------------------------------------------------------------


def test_diverged_training_says_so_and_names_the_images(tiny_recipe):
    cfg = recipe(tiny_recipe, "optimizer.lr=1e20", "train.clip_grad_norm=null")
    with pytest.raises(NonFiniteLossError, match=r"iteration \d on rank 0: .*image ids: \d, \d; lr: .*too high"):
        train(cfg)
    assert not list(Path(cfg.train.output_dir).glob("*.pth"))
