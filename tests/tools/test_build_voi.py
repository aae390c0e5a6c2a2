"""The command line that hides objects of video data sets."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from instseg_d2.data.video_inpainting.keys import hash_masks


@pytest.fixture
def davis(tmp_path):
    """Two videos of six frames with two objects each, as palette PNGs."""
    root = tmp_path / "davis"
    rng = np.random.default_rng(0)
    for video in ("a", "b"):
        for kind in ("JPEGImages", "Annotations"):
            (root / kind / video).mkdir(parents=True)
        for time in range(6):
            mask = np.zeros((32, 48), dtype=np.uint8)
            mask[4:12, 2 + time : 14 + time] = 1
            mask[18:28, 20:40] = 2
            Image.fromarray(mask).save(root / "Annotations" / video / f"{time:05d}.png")
            picture = rng.integers(0, 255, (32, 48, 3), dtype=np.uint8)
            cv2.imwrite(str(root / "JPEGImages" / video / f"{time:05d}.png"), picture)
    return root


def test_build_check_and_build_again(tool, davis, tmp_path):
    out = tmp_path / "voi"
    code, printed, _ = tool(davis, "--out", out, "--min-frames", 4, "--render", "composite")
    assert code == 0
    assert f"wrote {out}" in printed
    assert "mean hidden share" in printed
    content = json.loads((out / "tracks.json").read_text())
    assert content["info"]["dataset"] == "davis"
    assert len(content["tracks"]) == 4
    assert (out / "tracks/a/1/composite/00003.png").is_file()

    code, printed, _ = tool(out, "--check")
    assert (code, printed) == (0, "4 tracks, 24 frames, 96 masks: no problems\n")
    path = out / "tracks/a/1/remain_mask/00003.png"
    cv2.imwrite(str(path), 255 - cv2.imread(str(path), cv2.IMREAD_GRAYSCALE))
    code, printed, _ = tool(out, "--check")
    assert code == 1
    assert "frame 00003" in printed
    assert "remain_mask has other pixels" in printed

    code, _, error = tool(davis, "--out", out, "--min-frames", 4)
    assert code == 2
    assert "--overwrite" in error
    assert tool(davis, "--out", out, "--min-frames", 4, "--overwrite", "--masks-only")[0] == 0
    again = json.loads((out / "tracks.json").read_text())
    assert [row["sha256"] for row in again["tracks"]] == [row["sha256"] for row in content["tracks"]]
    stack = [cv2.imread(str(out / f"tracks/a/1/full_mask/{t:05d}.png"), cv2.IMREAD_GRAYSCALE) > 0 for t in range(6)]
    assert again["tracks"][0]["sha256"]["full_mask"] == hash_masks(np.stack(stack))


def test_dry_run_writes_nothing(tool, davis, tmp_path):
    before = set(tmp_path.rglob("*"))
    code, printed, _ = tool(davis, "--dry-run", "--min-frames", 4, "--variants", 3)
    assert code == 0
    assert "would hide, in 3 variants each" in printed
    assert "12" in printed
    assert set(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nothing", "--out", "x"], "no file or folder nothing"),
        (["DAVIS"], "give the folder to write: --out DIR"),
        (["DAVIS", "--out", "x"], "no track of davis can be a target (4 too few frames in a row)"),
        (["DAVIS", "--out", "x", "--families", "1", "1", "1"], "families must be three chances"),
        (["DAVIS", "--out", "x", "--degrees", "0.5", "0.2"], "degrees must rise"),
        (["DAVIS", "--out", "x", "--area", "1", "0"], "two rising shares"),
        (["DAVIS", "--check"], "has no tracks"),
    ],
)
def test_mistakes_are_one_sentence(tool, davis, tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    code, _, error = tool(*[str(davis) if word == "DAVIS" else word for word in arguments])
    assert code == 2
    assert words in error
    assert "Traceback" not in error
    assert not Path("x").exists()


def test_help(tool):
    code, printed, _ = tool("--help")
    assert code == 0
    assert "examples:" in printed
