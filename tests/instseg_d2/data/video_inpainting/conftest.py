import json

import cv2
import numpy as np
import pytest

from instseg_d2.data.synthetic.video_set import write_occvideo
from instseg_d2.data.video_inpainting.builder import VOIBuild, write_voi_set
from instseg_d2.data.video_inpainting.sources import YouTubeVIS
from instseg_d2.data.video_inpainting.tracks import TrackRules

# Eight frames a video: toy data.
EASY = TrackRules(frames=5, area=(0.005, 0.6), area_ratio=10, at_border=1.0)


@pytest.fixture(scope="session")
def occvideo_set(tmp_path_factory):
    """OccVideo, three videos of 64 x 96 px and eight frames, as YouTube-VIS and as YouTube-VOI."""
    folder = tmp_path_factory.mktemp("occvideo") / "set"
    write_occvideo(
        folder, videos=3, frames=8, size=(64, 96), seed=3, layouts=("ytvis", "voi"), flow=True, progress=False
    )
    return folder


@pytest.fixture(scope="session")
def source(occvideo_set):
    return YouTubeVIS("occvideo", occvideo_set / "ytvis/annotations.json", occvideo_set / "ytvis/JPEGImages")


@pytest.fixture(scope="session")
def build(source):
    return VOIBuild(source=source, targets=EASY, seed=1)


@pytest.fixture(scope="session")
def built(build, tmp_path_factory):
    """A set that was built from it, and its report."""
    out = tmp_path_factory.mktemp("built") / "voi"
    return out, write_voi_set(out, build, progress=False)


def square_video(length=6, height=32, width=48):
    """Frames (T, H, W, 3) and index masks (T, H, W): object 1 moves to the right, object 2 stays."""
    rng = np.random.default_rng(0)
    frames = np.repeat(rng.integers(0, 255, (1, height, width, 3), dtype=np.uint8), length, axis=0)
    masks = np.zeros((length, height, width), dtype=np.uint8)
    for time in range(length):
        masks[time, 4:12, 2 + time : 14 + time] = 1
        masks[time, 18:28, 20:40] = 2
    return frames, masks


def write_palette(root, videos=("a", "b"), sub="", **shape):
    """A folder as DAVIS has it."""
    from PIL import Image

    for video in videos:
        frames, masks = square_video(**shape)
        for number, (frame, mask) in enumerate(zip(frames, masks, strict=True)):
            for kind in ("JPEGImages", "Annotations"):
                (root / kind / sub / video).mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(root / "JPEGImages" / sub / video / f"{number:05d}.png"), frame)
            image = Image.fromarray(mask, mode="P")
            # All objects in one colour: who reads colours cannot tell them apart.
            image.putpalette([0, 0, 0] + [200, 0, 0] * 255)
            image.save(root / "Annotations" / sub / video / f"{number:05d}.png")
    return root


@pytest.fixture
def palette(tmp_path):
    """`palette(videos=..., sub=..., length=...)` writes a folder as DAVIS has it."""
    return lambda **options: write_palette(tmp_path / "davis", **options)


@pytest.fixture
def manifest():
    return lambda folder: json.loads((folder / "tracks.json").read_text())
