"""predict.py with a recipe that tracks: what is written of videos, and what remains of broken ones."""

import importlib.util
import json
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from detectron2.config import instantiate

from instseg_d2.benchmark.models import make_it_detect
from instseg_d2.checkpoint import Checkpointer
from instseg_d2.data.instance_maps import read_bitmask, read_scalabel
from instseg_d2.data.run_lengths import decode_mask
from instseg_d2.model_zoo import get_config

_RECIPE = """
from instseg_d2.model_zoo import get_config
from instseg_d2.testing import tiny_tracking_rcnn_config

_cfg = get_config("PCAN/pcan_narrow_fpn_occvideo_quick")
dataloader, optimizer, lr_multiplier, train = (
    _cfg[key] for key in ("dataloader", "optimizer", "lr_multiplier", "train")
)
model = tiny_tracking_rcnn_config(10, recipe="pcan")
"""


@pytest.fixture
def module(monkeypatch):
    path = Path(__file__).resolve().parents[2] / "tools" / "predict.py"
    spec = importlib.util.spec_from_file_location("predict", path)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "predict", module)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def frames():
    """A picture that drifts, (64, 96, 3) each."""
    picture = np.random.default_rng(0).integers(0, 255, (9, 13, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
    return [np.ascontiguousarray(picture[shift : shift + 64, shift : shift + 96]) for shift in range(4)]


@pytest.fixture(scope="module")
def trained(tmp_path_factory, frames):
    """Folder of a recipe, and of random weights that detect."""
    folder = tmp_path_factory.mktemp("recipe")
    (folder / "tiny.py").write_text(_RECIPE)
    torch.manual_seed(0)
    model = instantiate(get_config(folder / "tiny.py").model)
    pixels = torch.from_numpy(frames[0].transpose(2, 0, 1).copy())
    make_it_detect(model, [{"image": pixels, "height": 64, "width": 96}])
    Checkpointer(model, str(folder)).write("weights")
    return folder


@pytest.fixture
def recipe(trained, tmp_path, monkeypatch):
    """The flags of the recipe; an empty folder is entered."""
    monkeypatch.chdir(tmp_path)
    files = ["--config-file", trained / "tiny.py", "--weights", trained / "weights.pth"]
    return [*files, *"--device cpu --score-threshold 0.1".split()]


def write_video(path, frames):
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), 12, frames[0].shape[1::-1])
    for frame in frames:
        writer.write(frame)
    writer.release()


def write_images(folder, frames):
    folder.mkdir(parents=True)
    for number, frame in enumerate(frames):
        cv2.imwrite(str(folder / f"{number + 8}.png"), frame)


def frames_of(path):
    return int(cv2.VideoCapture(str(path)).get(cv2.CAP_PROP_FRAME_COUNT))


def tracks_of(path):
    content = json.loads(path.read_text())
    return content["videos"][0], content["annotations"]


def test_a_video_and_a_broken_one(tool, recipe, tmp_path, frames):
    write_video(tmp_path / "clip.mp4", frames)
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    options = ["--output", "out", "--mots", "mots", "--strips", "2"]
    code, output, errors = tool(*recipe, "--input", "broken.mp4", "clip.mp4", *options)
    assert code == 1
    assert "1 of 2 files could not be read" in output
    assert "broken.mp4" in errors
    assert "clip: 4 frames, " in output
    assert "frames/s: out/clip_tracks.json" in output
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"clip.mp4", "clip_tracks.json", "clip_strips.png"}
    assert frames_of(tmp_path / "out" / "clip.mp4") == 4
    video, tracks = tracks_of(tmp_path / "out" / "clip_tracks.json")
    assert (video["length"], video["width"], video["height"]) == (4, 96, 64)
    assert len(tracks) > 0
    of_json = read_scalabel(tmp_path / "mots" / "rles" / "clip.json")
    for number in range(4):
        bitmask = read_bitmask(tmp_path / "mots" / "bitmasks" / "clip" / f"clip-{number + 1:07d}.png")
        there = {one["instance_id"]: one["segmentations"][number] for one in tracks if one["segmentations"][number]}
        # Those that others hide have no pixel left.
        assert set(bitmask.ids.tolist()) <= set(there)
        assert len(of_json[number]["labels"]) == len(bitmask)
        for index, identity in enumerate(bitmask.ids.tolist()):
            assert decode_mask(there[identity], 64, 96)[bitmask.index == index + 1].all()


def test_folders_of_frames_and_other_models_beside_them(tool, recipe, tmp_path, frames):
    write_images(tmp_path / "sets" / "one", frames)
    write_images(tmp_path / "sets" / "two", frames[:1])
    options = ["--frames-as-video", "--input", "sets", "--no-overlays"]
    code, output, _ = tool(*recipe, *options, "--output", "first")
    assert code == 0
    assert "two: 1 frames" in output
    assert {path.name for path in (tmp_path / "first").iterdir()} == {"one_tracks.json", "two_tracks.json"}
    video, tracks = tracks_of(tmp_path / "first" / "one_tracks.json")
    assert [Path(name).name for name in video["file_names"]] == ["8.png", "9.png", "10.png", "11.png"]
    assert {one["instance_id"] for one in tracks} >= {1}
    options[2] = "sets/one"
    code, _, _ = tool(*recipe, *options, "--output", "second", "--strips", "1", "--beside", "before=first")
    assert code == 0
    assert len(cv2.imread(str(tmp_path / "second" / "one_strips.png"))) > 2 * 160
    code, _, errors = tool(*recipe, *options, "--output", "third", "--strips", "--beside", "before=second/nowhere")
    assert code == 1
    assert "no tracks at 'second/nowhere/one_tracks.json'" in errors


def test_what_was_done_before_a_break_stays(tool, recipe, tmp_path, frames):
    write_images(tmp_path / "clip", [*frames[:2], frames[2][:48], frames[3]])
    options = ["--frames-as-video", "--fps", "3", "--output", "out", "--mots", "out"]
    code, output, errors = tool(*recipe, "--input", "clip", *options)
    assert code == 1
    assert "frame 2 of video 'clip' is 96 x 48 px, and its first frame is 96 x 64" in errors
    assert "clip: 2 frames of the 4 that the video should have" in output
    assert frames_of(tmp_path / "out" / "clip.mp4") == 2
    assert tracks_of(tmp_path / "out" / "clip_tracks.json")[0]["length"] == 2
    assert len(read_scalabel(tmp_path / "out" / "rles" / "clip.json")) == 2
    assert len(list((tmp_path / "out" / "bitmasks" / "clip").iterdir())) == 2


def test_a_video_without_any_detection(tool, recipe, tmp_path, frames):
    write_video(tmp_path / "clip.mp4", frames[:2])
    options = ["--score-threshold", "1.1", "--output", "out", "--mots", "out", "--strips"]
    code, output, _ = tool(*recipe, "--input", "clip.mp4", *options)
    assert code == 0
    assert "clip: 2 frames, 0 tracks" in output
    assert tracks_of(tmp_path / "out" / "clip_tracks.json")[1] == []
    assert len(read_bitmask(tmp_path / "out" / "bitmasks" / "clip" / "clip-0000002.png")) == 0


def test_images_are_no_video_unless_they_are_said_to_be(tool, recipe, tmp_path, frames):
    write_images(tmp_path / "images", frames[:1])
    code, output, _ = tool(*recipe, "--input", "images", "--output", "out")
    assert code == 0
    assert "instances in 1 images" in output
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"8.jpg", "predictions.json"}


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--beside", "a=b"], "--beside adds to --strips"),
        (["--beside", "ab", "--strips"], "--beside is NAME=DIR"),
        (["--fps", "0"], "--fps is more than 0"),
    ],
)
def test_mistakes_with_flags(tool, flags, words):
    code, _, errors = tool("--config-file", "x", "--weights", "y", "--input", "z", "--output", "out", *flags)
    assert (code, words in errors) == (2, True)


@pytest.mark.parametrize("flags", [["--mots", "mots"], ["--frames-as-video"]])
def test_recipes_of_single_images_do_not_track(tool, tiny_recipe, tmp_path, monkeypatch, flags):
    Checkpointer(instantiate(get_config(tiny_recipe).model), str(tmp_path)).write("weights")
    monkeypatch.chdir(tmp_path)
    images = tmp_path / "data" / "images"
    options = ["--config-file", tiny_recipe, "--weights", "weights.pth", "--input", images, "--output", "out"]
    code, _, errors = tool(*options, "--device", "cpu", *flags)
    assert code == 2
    assert "has no step()" in errors
    assert "image mode" in errors
