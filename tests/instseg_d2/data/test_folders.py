import json
from functools import partial

import cv2
import numpy as np
import pytest

from instseg_d2.data import DatasetError
from instseg_d2.data.synthetic.folders import check_target, encode_png, run_all, whole_folder


def mark(folder, generator):
    folder.mkdir()
    (folder / "set.json").write_text(json.dumps({"info": {"generator": generator}}))


def test_folder_appears_when_it_is_complete(tmp_path):
    out = tmp_path / "deep" / "set"
    with whole_folder(out) as fresh:
        (fresh / "a.txt").write_text("a")
        assert not out.exists()
    assert [path.name for path in out.iterdir()] == ["a.txt"]
    with whole_folder(out) as fresh:
        (fresh / "b.txt").write_text("b")
        assert [path.name for path in out.iterdir()] == ["a.txt"]
    assert [path.name for path in out.iterdir()] == ["b.txt"]
    assert [path.name for path in out.parent.iterdir()] == ["set"]


def test_failed_work_leaves_the_old_folder(tmp_path):
    out = tmp_path / "set"
    mark(out, "shapes")

    def fail():
        with whole_folder(out) as fresh:
            (fresh / "a.txt").write_text("a")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        fail()
    assert [path.name for path in tmp_path.iterdir()] == ["set"]
    assert [path.name for path in out.iterdir()] == ["set.json"]


@pytest.mark.parametrize(
    ("overwrite", "generator", "message"),
    [
        (False, "shapes", "not empty.*--overwrite"),
        (True, "stars", "not written by this generator"),
        (True, "shapes", None),
    ],
)
def test_target(tmp_path, overwrite, generator, message):
    out = tmp_path / "set"
    check_target(out, False, marker="set.json", generator="shapes")
    mark(out, generator)
    if message is None:
        check_target(out, overwrite, marker="set.json", generator="shapes")
        return
    with pytest.raises(DatasetError, match=message):
        check_target(out, overwrite, marker="set.json", generator="shapes")


@pytest.mark.parametrize("content", ["not json", "[]", '{"info": []}', "{}"])
def test_broken_marker_is_no_permission(tmp_path, content):
    (tmp_path / "set.json").write_text(content)
    with pytest.raises(DatasetError, match="not written by this generator"):
        check_target(tmp_path, True, marker="set.json", generator="shapes")


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_results_come_in_order(workers):
    assert list(run_all(partial(pow, 2), 9, workers)) == [2**k for k in range(9)]


def test_png_keeps_every_pixel():
    image = np.random.default_rng(0).integers(0, 256, (7, 9, 4), dtype=np.uint8)
    read = cv2.imdecode(np.frombuffer(encode_png(image), np.uint8), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(read, image)
