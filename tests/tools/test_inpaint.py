"""inpaint.py on a tiny generated video: every form of masks, networks and none, interruptions, and mistakes."""

import errno
import json

import cv2
import numpy as np
import pytest
import torch
from detectron2.config import instantiate
from PIL import Image

import instseg_d2.engine.inpainting_folder as inpainting_folder
from instseg_d2.benchmark.models import make_it_detect
from instseg_d2.checkpoint import Checkpointer
from instseg_d2.data.synthetic.video import occvideo
from instseg_d2.data.synthetic.video_formats import voi_masks, ytvis_records
from instseg_d2.model_zoo import get_config

LENGTH = 8
RUNS = ["--window", "5", "--margin", "1"]  # frames 0 to 3, 4 to 6, and 7


def write(folder, images):
    folder.mkdir(parents=True, exist_ok=True)
    for number, image in enumerate(images):
        cv2.imwrite(str(folder / f"f{number}.png"), np.asarray(image))


def read(folder):
    return np.stack([cv2.imread(str(path), cv2.IMREAD_UNCHANGED) for path in sorted(folder.iterdir())])


@pytest.fixture(scope="module")
def drawn():
    """A video and the object of it of which most is hidden."""
    video = occvideo(0, 0, frames=LENGTH, size=(64, 96))
    hidden = (video.amodal & ~video.visible).sum(axis=(0, 2, 3))
    return video, int(video.ids[hidden.argmax()])


@pytest.fixture
def clip(tmp_path, drawn, monkeypatch):
    """A folder with the video and the object's masks in all forms, which is entered."""
    monkeypatch.chdir(tmp_path)
    video, identity = drawn
    write(tmp_path / "frames", video.images)
    for name, key in (("full", "full_mask"), ("seen", "remain_mask"), ("occluder", "occ_mask_full")):
        write(tmp_path / name, [voi_masks(video, time, identity)[key] * np.uint8(255) for time in range(LENGTH)])
    (tmp_path / "palette").mkdir()
    for time in range(LENGTH):
        image = Image.fromarray((video.ids[:, None, None] * video.visible[time]).sum(axis=0).astype(np.uint8), mode="P")
        image.putpalette(list(range(256)) * 3)
        image.save(tmp_path / "palette" / f"f{time}.png")
    return tmp_path


FOLDERS = ["--input", "frames", "--masks", "seen", "--amodal", "full", "--output", "out", "--device", "cpu"]


def holes(clip):
    return (read(clip / "full") > 0) & (read(clip / "seen") == 0)


def test_folder_of_masks_end_to_end(tool, clip):
    code, output, errors = tool(*FOLDERS, "--save-intermediate")
    assert code == 0, errors
    assert "8 frames of 96 x 64 px, the object is seen in 8" in output
    assert "weight-free baseline" in output
    assert "peak memory" in output
    frames, scene, alone, masks = read(clip / "frames"), *(read(clip / "out" / n) for n in ("scene", "object", "masks"))
    hole = holes(clip)
    assert hole.sum() > 100
    assert (scene[~hole] == frames[~hole]).all()
    assert (scene[hole] != frames[hole]).mean() > 0.5
    assert (masks == read(clip / "full")).all()
    known = alone[..., 3] == 255
    assert (known <= (masks > 0)).all()
    assert (alone[known][:, :3] == scene[known]).all()
    pixels = json.loads((clip / "out" / "run.json").read_text())["pixels"]
    assert pixels["hidden"] == hole.sum() == sum(pixels[key] for key in ("propagated", "made_up", "left"))
    assert pixels["propagated"] > 0
    for name in ("scene.mp4", "object.mp4"):
        assert cv2.VideoCapture(str(clip / "out" / name)).get(cv2.CAP_PROP_FRAME_COUNT) == LENGTH
    inside = clip / "out" / "intermediate"
    assert cv2.imread(str(clip / "out" / "strip.png")) is not None
    assert {path.name for path in inside.iterdir()} == {"flow", "completed_flow", "origins", "panels"}
    assert len(list((inside / "panels").iterdir())) == LENGTH
    # The flow that was saved is flow to start from.
    again = [text if text != "out" else "again" for text in FOLDERS]
    assert tool(*again, "--flow-backend", f"precomputed:{inside / 'flow'}")[0] == 0
    assert (read(clip / "again" / "scene") == scene).all()
    assert not (clip / "again" / "intermediate").exists()


def test_palette_masks_and_a_video_file(tool, clip, drawn):
    video, identity = drawn
    writer = cv2.VideoWriter("clip.avi", cv2.VideoWriter_fourcc(*"FFV1"), 5, (96, 64))
    for frame in video.images:
        writer.write(frame)
    writer.release()
    masks = ["--masks", "palette", "--object-id", identity, "--occluder", "others"]
    code, output, errors = tool("--input", "clip.avi", *masks, "--output", "out")
    assert code == 0, errors
    assert "shape: flow-aligned union within the occluders" in output
    assert [path.name for path in sorted((clip / "out" / "scene").iterdir())][:2] == ["000000.png", "000001.png"]
    assert cv2.VideoCapture("out/scene.mp4").get(cv2.CAP_PROP_FPS) == 5
    visible = video.visible[:, video.number(identity)]
    others = video.visible.any(axis=1) & ~visible
    complete = read(clip / "out" / "masks") > 0
    assert (complete >= visible).all()
    assert (complete <= visible | others).all()
    assert (complete & ~visible).any()
    same = ~(complete & ~visible)
    assert (read(clip / "out" / "scene")[same] == video.images[same]).all()


def test_tracks_of_a_json_with_complete_masks(tool, clip, drawn):
    video, identity = drawn
    record, tracks = ytvis_records(0, video)
    names = sorted({track["category_id"] for track in tracks})
    categories = [{"id": number, "name": f"class {number}"} for number in names]
    for number, track in enumerate(tracks, start=1):
        track["id"] = number
    content = {"videos": [record], "categories": categories, "annotations": tracks}
    (clip / "tracks.json").write_text(json.dumps(content))
    wanted = [track["id"] for track in tracks if track.get("instance_id", track["id"]) == identity]
    arguments = ["--masks", "tracks.json", "--amodal", "tracks.json", "--object-id", wanted[0], "--output", "out"]
    code, _, errors = tool("--input", "frames", *arguments)
    assert code == 0, errors
    assert ((read(clip / "out" / "masks") > 0) >= video.visible[:, video.number(identity)]).all()


class _DiskFull:
    """Lets some files be written, then none."""

    def __init__(self, count, error):
        self.left, self.error, self.write = count, error, inpainting_folder.write_whole

    def __call__(self, path, content):
        self.left -= 1
        if self.left < 0:
            raise self.error
        self.write(path, content)


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "x.png"), 2, "make room"),
        (KeyboardInterrupt(), 130, "--resume goes on"),
    ],
)
def test_what_is_finished_stays_and_resume_goes_on(tool, clip, monkeypatch, error, code, message):
    whole = [text if text != "out" else "whole" for text in FOLDERS]
    assert tool(*whole, *RUNS)[0] == 0
    with monkeypatch.context() as patch:
        # run.json, five frames with three files each, and one file of the sixth.
        patch.setattr(inpainting_folder, "write_whole", _DiskFull(1 + 5 * 3 + 1, error))
        result = tool(*FOLDERS, *RUNS)
    assert result[0] == code
    assert message in result[2]
    assert len(list((clip / "out" / "masks").iterdir())) == 5
    with (clip / "out" / "frames.jsonl").open("a") as file:
        file.write('\n{"frame": 5, "vis')  # a line that the full disk has cut off
    before = (clip / "out" / "scene" / "f0.png").stat().st_mtime_ns
    code, _, errors = tool(*FOLDERS, *RUNS)
    assert code == 2
    assert "has an earlier run; continue it with --resume" in errors
    code, _, errors = tool(*FOLDERS, *RUNS, "--resume", "--no-flow")
    assert code == 2
    assert "no_flow was False and is True" in errors
    code, output, errors = tool(*FOLDERS, *RUNS, "--resume")
    assert code == 0, errors
    assert (clip / "out" / "scene" / "f0.png").stat().st_mtime_ns == before
    for folder in ("scene", "object", "masks"):
        assert (read(clip / "out" / folder) == read(clip / "whole" / folder)).all()
    pixels = [json.loads((clip / name / "run.json").read_text())["pixels"] for name in ("out", "whole")]
    assert pixels[0] == pixels[1]
    assert tool(*FOLDERS, *RUNS, "--resume")[0] == 0
    (clip / "out" / "scene" / "f7.png").unlink()
    assert tool(*FOLDERS, *RUNS, "--resume")[0] == 0
    assert (read(clip / "out" / "scene") == read(clip / "whole" / "scene")).all()


def test_a_run_that_came_to_nothing_is_no_obstacle(tool, clip, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(inpainting_folder, "write_whole", _DiskFull(2, OSError(errno.ENOSPC, "No space left", "x.png")))
        assert tool(*FOLDERS)[0] == 2
    assert tool(*FOLDERS, "--no-flow")[0] == 0


def test_dry_run_writes_nothing(tool, clip):
    code, output, _ = tool(*FOLDERS, "--dry-run")
    assert code == 0
    assert "would write out" in output
    assert "content: propagation, the rest by Telea" in output
    assert not (clip / "out").exists()
    assert tool(*FOLDERS, "--dry-run", "--masks", "nowhere")[0] == 2


def test_empty_masks_in_some_frames_and_one_image_of_an_occluder(tool, clip):
    for time in (0, 3, 7):
        cv2.imwrite(f"seen/f{time}.png", np.zeros((64, 96), np.uint8))
    code, output, _ = tool(*FOLDERS)
    assert code == 0
    assert "the object is seen in 5" in output
    hole = holes(clip)
    assert (read(clip / "out" / "scene")[~hole] == read(clip / "frames")[~hole]).all()
    arguments = ["--input", "frames", "--masks", "seen", "--occluder", "occluder/f4.png", "--output", "one"]
    assert tool(*arguments)[0] == 0


def test_one_frame(tool, clip):
    for name in ("frames", "seen", "full"):
        for time in set(range(LENGTH)) - {4}:
            (clip / name / f"f{time}.png").unlink()
    code, _, errors = tool(*FOLDERS)
    assert code == 0, errors
    assert len(read(clip / "out" / "scene")) == 1


def _other_size(clip):
    cv2.imwrite("seen/f5.png", np.zeros((32, 48), np.uint8))


def _fewer_masks(clip):
    (clip / "seen" / "f7.png").unlink()


def _fewer_frames(clip):
    (clip / "frames" / "f7.png").unlink()


def _never_visible(clip):
    write(clip / "seen", np.zeros((LENGTH, 64, 96), np.uint8))


def _unreadable_mask(clip):
    (clip / "seen" / "f2.png").write_bytes(b"nothing")


def _no_frames(clip):
    for path in (clip / "frames").iterdir():
        path.unlink()


def _frames_of_two_sizes(clip):
    cv2.imwrite("frames/f5.png", np.zeros((32, 48, 3), np.uint8))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_other_size, "mask 5 of 'seen' is 48 x 32 px, the frames are 96 x 64 px"),
        (_fewer_masks, "'seen' has 7 masks, and the video 'frames' 8 frames"),
        (_fewer_frames, "'seen' has 8 masks, and the video 'frames' 7 frames"),
        (_never_visible, "'seen' are empty in all 8 frames: an object that is never visible"),
        (_unreadable_mask, "cannot read mask"),
        (_no_frames, "no image or video in folder 'frames'"),
    ],
)
def test_bad_input_is_told_before_anything_is_written(tool, clip, spoil, message):
    spoil(clip)
    code, _, errors = tool(*FOLDERS)
    assert code == 2
    assert message in errors
    assert not (clip / "out").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"--input": "broken.mp4"}, "cannot open video 'broken.mp4'"),
        ({"--input": "nowhere.mp4"}, "no file, folder or pattern match: 'nowhere.mp4'"),
        ({"--amodal": None}, "where is the hidden part?"),
        ({"--masks": None}, "give the object's masks (--masks), or a class to follow"),
        ({"--detect": "dog"}, "and not both"),
        ({"--masks": None, "--detect": "dog"}, "--tracker and --tracker-weights"),
        ({"--tracker": "x"}, "go with --detect"),
        ({"--shape": "x=y"}, "--amodal gives the complete masks that --shape would find"),
        ({"--flow": "voin_flow"}, "--flow is RECIPE=CHECKPOINT"),
        ({"--content": "VOIN/voin_content_tiny_occvideo_quick=nowhere.pth"}, "nowhere.pth"),
        ({"--occluder": "others"}, "give that one's number with --object-id"),
        ({"--flow-backend": "magic"}, "unknown flow 'magic'"),
        ({"--flow-backend": "raft:nowhere.pth"}, "no RAFT weights at 'nowhere.pth'"),
        ({"--window": "4", "--margin": "2"}, "size=4 and margin=2"),
        ({"--working-size": "432"}, "give WIDTHxHEIGHT"),
        ({"--fps": "0"}, "--fps is more than 0"),
    ],
)
def test_wrong_usage(tool, clip, changes, message):
    (clip / "broken.mp4").write_bytes(b"nothing")
    flags = dict(zip(FOLDERS[::2], FOLDERS[1::2], strict=True)) | changes
    code, _, errors = tool(*(text for pair in flags.items() if pair[1] is not None for text in pair))
    assert code == 2
    assert message in errors
    assert not (clip / "out").exists()


def test_a_video_that_breaks_off_keeps_what_came_before(tool, clip, drawn):
    video, _ = drawn
    writer = cv2.VideoWriter("clip.avi", cv2.VideoWriter_fourcc(*"MJPG"), 5, (96, 64))
    for frame in video.images:
        writer.write(frame)
    writer.release()
    content = (clip / "clip.avi").read_bytes()
    (clip / "clip.avi").write_bytes(content[: len(content) * 6 // 10])
    flags = [text if text != "frames" else "clip.avi" for text in FOLDERS]
    code, output, errors = tool(*flags)
    assert code == 2
    finished = len(list((clip / "out" / "masks").iterdir()))
    assert 0 < finished < LENGTH
    assert f"broke off after {finished} of its 8 frames" in errors
    assert cv2.VideoCapture("out/scene.mp4").get(cv2.CAP_PROP_FRAME_COUNT) == finished


def test_frames_of_two_sizes_are_told_and_those_before_stay(tool, clip):
    _frames_of_two_sizes(clip)
    code, _, errors = tool(*FOLDERS, "--window", "3", "--margin", "1")
    assert code == 2
    assert "frame 5 of video 'frames' is 48 x 32 px" in errors
    # Runs of three frames: 0 to 2 and 1 to 3 are done, 2 to 4 waits for the next frame.
    assert len(list((clip / "out" / "masks").iterdir())) == 3


def test_trained_networks(tool, clip):
    flags = []
    for part in ("shape", "flow", "content"):
        recipe = f"VOIN/voin_{part}_tiny_occvideo_quick"
        torch.manual_seed(0)
        model = instantiate(get_config(recipe).model)
        Checkpointer(model, str(clip)).write(part)
        flags += [f"--{part}", f"{recipe}={clip / part}.pth"]
    arguments = ["--input", "frames", "--masks", "seen", "--occluder", "occluder", "--output", "out", "--device", "cpu"]
    code, output, errors = tool(*arguments, *flags, "--fp16")
    assert code == 0, errors
    assert "weight-free" not in output
    scene, frames, masks = read(clip / "out" / "scene"), read(clip / "frames"), read(clip / "out" / "masks") > 0
    hole = masks & (read(clip / "seen") == 0)
    assert (scene[~hole] == frames[~hole]).all()
    assert (hole <= (read(clip / "occluder") > 0)).all()


_TRACKS = """
from instseg_d2.model_zoo import get_config
from instseg_d2.testing import tiny_tracking_rcnn_config

_cfg = get_config("PCAN/pcan_narrow_fpn_occvideo_quick")
dataloader, optimizer, lr_multiplier, train = (
    _cfg[key] for key in ("dataloader", "optimizer", "lr_multiplier", "train")
)
model = tiny_tracking_rcnn_config(10, recipe="pcan")
"""


@pytest.mark.slow
def test_objects_that_a_tracker_finds(tool, clip, drawn):
    for time in range(3, LENGTH):
        (clip / "frames" / f"f{time}.png").unlink()
    (clip / "tiny.py").write_text(_TRACKS)
    torch.manual_seed(0)
    model = instantiate(get_config(clip / "tiny.py").model)
    pixels = torch.from_numpy(drawn[0].images[0].transpose(2, 0, 1).copy())
    make_it_detect(model, [{"image": pixels, "height": 64, "width": 96}])
    Checkpointer(model, str(clip)).write("tracks")
    tracker = ["--tracker", clip / "tiny.py", "--tracker-weights", clip / "tracks.pth", "--score-threshold", "0.1"]
    arguments = ["--input", "frames", *tracker, "--occluder", "others", "--output", "out", "--device", "cpu"]
    code, _, errors = tool(*arguments, "--detect", "unicorn")
    assert code == 2
    assert "and no unicorn" in errors
    found = json.loads((clip / "out" / "tracks.json").read_text())
    names = {one["id"]: one["name"] for one in found["categories"]}
    name = names[found["annotations"][0]["category_id"]]
    code, output, errors = tool(*arguments, "--detect", name)
    assert code == 0, errors
    assert f"({name}); the tracker found" in output
    assert len(read(clip / "out" / "scene")) == 3
    changed = (clip / "out" / "tracks.json").stat().st_mtime_ns
    assert tool(*arguments, "--detect", name, "--resume")[0] == 0
    assert (clip / "out" / "tracks.json").stat().st_mtime_ns == changed
    code, output, _ = tool(*arguments, "--output", "new", "--detect", name, "--dry-run")
    assert (code, (clip / "new").exists()) == (0, False)
    assert "its masks are not known yet" in output


def test_help_has_examples(tool):
    code, output, _ = tool("--help")
    assert code == 0
    assert "--occluder others" in output
    assert "--resume" in output
