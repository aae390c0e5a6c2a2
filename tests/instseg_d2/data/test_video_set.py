import hashlib
import json

import cv2
import numpy as np
import pytest

from instseg_d2.data import DatasetError
from instseg_d2.data.synthetic import video_set
from instseg_d2.data.synthetic.__main__ import main
from instseg_d2.data.synthetic.film_strip import flow_picture, id_color
from instseg_d2.data.synthetic.video import occvideo
from instseg_d2.data.synthetic.video_set import presence, video_statistics, write_occvideo

SMALL = {"frames": 6, "size": 48, "progress": False}


def digests(folder):
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def everything(folder, **options):
    arguments = {"layouts": ("ytvis", "mots", "voi"), "flow": True, "layers": True, **SMALL, **options}
    return write_occvideo(folder, **arguments)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos") / "set"
    return folder, everything(folder, videos=3, seed=4, film_strip=True)


def test_tree(whole):
    folder, _ = whole
    assert sorted(path.name for path in folder.iterdir()) == [
        "film_strip.png",
        "flow",
        "layers",
        "mots",
        "occvideo.json",
        "voi",
        "ytvis",
    ]
    manifest = json.loads((folder / "occvideo.json").read_text())
    assert manifest["info"]["generator"] == "occvideo"
    assert [video["name"] for video in manifest["videos"]] == ["video_0000", "video_0001", "video_0002"]
    assert [category["id"] for category in manifest["categories"]] == list(range(1, 11))
    for video in manifest["videos"]:
        drawn = occvideo(4, video["id"] - 1, frames=6, size=48)
        assert video["objects"] == drawn.ids.tolist()
        layers = {path.name for path in (folder / "layers" / video["name"]).iterdir()}
        assert layers == {"background", *map(str, video["objects"])}
    ytvis = json.loads((folder / "ytvis/annotations.json").read_text())
    assert len(ytvis["videos"]) == 3
    assert len({annotation["id"] for annotation in ytvis["annotations"]}) == len(ytvis["annotations"])
    tracks = json.loads((folder / "voi/tracks.json").read_text())["tracks"]
    for track in tracks:
        assert (folder / "voi/tracks" / track["video"] / str(track["id"]) / "occ_mask/00005.png").is_file()


def test_video_depends_on_seed_and_index_alone(whole, tmp_path):
    folder, _ = whole
    everything(tmp_path / "fewer", videos=2, seed=4)
    before = digests(folder)
    shared = {name: value for name, value in digests(tmp_path / "fewer").items() if "video_000" in name}
    assert shared
    assert shared.items() <= before.items()
    write_occvideo(tmp_path / "other", videos=1, seed=5, **SMALL)
    frames = {name: value for name, value in digests(tmp_path / "other").items() if name.endswith("png")}
    assert not set(frames.values()) & set(before.values())


def test_only_what_is_asked_for_is_written(tmp_path):
    write_occvideo(tmp_path / "plain", videos=1, **SMALL)
    assert sorted(path.name for path in (tmp_path / "plain").iterdir()) == ["occvideo.json", "ytvis"]
    write_occvideo(tmp_path / "mots", videos=1, layouts=["mots"], layers=True, **SMALL)
    assert sorted(path.name for path in (tmp_path / "mots").iterdir()) == ["layers", "mots", "occvideo.json"]


def test_objects_cross_vanish_leave_and_return():
    videos = [occvideo(0, index, size=48) for index in range(8)]
    statistics = video_statistics([presence(video) for video in videos])
    assert statistics.covered_20 >= 0.3
    assert statistics.vanish_and_return >= 5
    assert statistics.leave_and_return >= 5


def test_statistics_by_hand():
    covered = np.array([[0.0, 0.2], [0.1, 1.0], [0.6, 1.0], [0.0, 0.5]])
    shown = np.array([[1, 1], [1, 0], [0, 0], [1, 1]], dtype=bool)
    # The first object is outside in the third frame; the second is hidden in two frames inside.
    inside = np.array([[1, 1], [1, 1], [0, 1], [1, 1]], dtype=bool)
    statistics = video_statistics([(covered, shown, inside)] * 2)
    assert (statistics.videos, statistics.frames, statistics.tracks, statistics.instances) == (2, 8, 4, 10)
    assert statistics.covered_20 == pytest.approx(4 / 10)
    assert statistics.covered_50 == pytest.approx(2 / 10)
    assert (statistics.vanish_and_return, statistics.leave_and_return) == (2, 2)
    # Gone at the end is not gone and back.
    gone = video_statistics([(covered[:3], shown[:3], inside[:3])])
    assert (gone.vanish_and_return, gone.leave_and_return) == (0, 0)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"videos": 0}, "videos must be 1 or more"),
        ({"layouts": ()}, "layouts some of ytvis, mots, voi; got videos=1, layouts=none"),
        ({"layouts": ("ytvis", "davis")}, "layouts=ytvis, davis"),
        ({"frames": 1}, "frames 2 or more"),
        ({"size": 16}, "32 or more"),
        ({"seed": -1}, "seed and index must be 0 or more"),
    ],
)
def test_arguments_out_of_range(tmp_path, wrong, message):
    with pytest.raises(DatasetError, match=message):
        write_occvideo(tmp_path / "set", **{"videos": 1, **SMALL, **wrong})
    assert not (tmp_path / "set").exists()


def test_foreign_folder_is_refused_and_own_one_is_replaced(tmp_path):
    out = tmp_path / "set"
    write_occvideo(out, videos=2, **SMALL)
    with pytest.raises(DatasetError, match="not empty.*--overwrite"):
        write_occvideo(out, videos=1, **SMALL)
    write_occvideo(out, videos=1, overwrite=True, **SMALL)
    assert len(list((out / "ytvis/JPEGImages").iterdir())) == 1
    foreign = tmp_path / "thesis"
    foreign.mkdir()
    (foreign / "chapter.txt").write_text("years of work")
    with pytest.raises(DatasetError, match="not written by this generator"):
        write_occvideo(foreign, videos=1, overwrite=True, **SMALL)
    assert (foreign / "chapter.txt").read_text() == "years of work"


def test_interrupted_run_leaves_nothing_and_keeps_the_old_set(tmp_path, monkeypatch):
    write_occvideo(tmp_path / "old", videos=1, **SMALL)
    before = digests(tmp_path / "old")

    def interrupted(seed, index, **options):
        if index == 1:
            raise KeyboardInterrupt
        return occvideo(seed, index, **options)

    monkeypatch.setattr(video_set, "occvideo", interrupted)
    for out in ("new", "old"):
        with pytest.raises(KeyboardInterrupt):
            write_occvideo(tmp_path / out, videos=3, overwrite=True, **SMALL)
    assert [path.name for path in tmp_path.iterdir()] == ["old"]
    assert digests(tmp_path / "old") == before


def test_film_strip_has_four_rows_for_each_video(whole):
    strip = cv2.imread(str(whole[0] / "film_strip.png"))
    # Five columns (frames with a next one) of 3 x 48 px and a gap of 4; three videos of four rows with captions of 18.
    assert strip.shape == (3 * (4 * (144 + 18) + 12), 5 * (144 + 4), 3)


def test_flow_picture_by_hand():
    flow = np.zeros((1, 3, 2), np.float32)
    flow[0, 1] = (4.0, 0.0)
    flow[0, 2] = (-8.0, 0.0)
    picture = flow_picture(flow, 4.0)
    # Still is white, to the right is red, to the left is its complement; speed is clipped.
    np.testing.assert_array_equal(picture[0], [[255, 255, 255], [0, 0, 255], [255, 255, 0]])


def test_neighbouring_ids_differ_in_colour():
    colors = [np.array(id_color(identity)) for identity in range(1, 9)]
    for one, other in zip(colors, colors[1:], strict=False):
        assert np.abs(one - other).sum() > 150


def test_command_line(tmp_path, capsys):
    out = tmp_path / "set"
    words = ["video", "--out", str(out), "--videos", "1", "--frames", "4", "--size", "32x48", "--layouts", "mots"]
    assert main(words) == 0
    printed = capsys.readouterr()
    assert "1 videos, 4 frames" in printed.out
    assert "leave the frame and return" in printed.out
    assert cv2.imread(str(out / "mots/images/video_0000/video_0000-0000004.png")).shape == (32, 48, 3)
    assert main(words) == 2
    assert "--overwrite" in capsys.readouterr().err
    for wrong in (["--layouts", "davis"], ["--size", "32x"], ["--size", "32x48x3"]):
        with pytest.raises(SystemExit):
            main(["video", "--out", str(out), *wrong])


def test_images_are_the_command_without_a_name(tmp_path, capsys):
    assert main(["images", "--out", str(tmp_path / "named"), "--images", "2", "--size", "32"]) == 0
    assert main(["--out", str(tmp_path / "old"), "--images", "2", "--size", "32"]) == 0
    assert digests(tmp_path / "named") == digests(tmp_path / "old")
    with pytest.raises(SystemExit) as done:
        main(["--help"])
    assert done.value.code == 0
    assert "video --help" in capsys.readouterr().out
