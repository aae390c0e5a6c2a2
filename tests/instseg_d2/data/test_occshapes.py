import contextlib
import hashlib
import io
import json
import os
import subprocess
import sys

import cv2
import numpy as np
import pytest
from pycocotools import mask as mask_util
from pycocotools.coco import COCO

from instseg_d2.data import DatasetError, write_occshapes
from instseg_d2.data.synthetic import occshapes, occshapes_scene, render
from instseg_d2.data.synthetic.__main__ import main
from instseg_d2.data.synthetic.occshapes import LAYOUTS, occlusion_statistics


def digests(folder):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted((folder / "images").iterdir())}


def truth_digests(folder):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.glob("*.json"))}


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    folder = tmp_path_factory.mktemp("occ") / "set"
    statistics = write_occshapes(folder, images=60, seed=4, progress=False)
    return folder, statistics


def test_at_least_thirty_percent_are_covered_by_twenty(small):
    _, statistics = small
    assert statistics.images == 60
    assert statistics.covered_20 >= 0.3
    assert statistics.same_category_contact >= 0.3
    assert min(statistics.per_category.values()) > 0
    assert sum(statistics.per_category.values()) == statistics.instances


def test_annotations_agree_with_a_second_drawing(small):
    folder, _ = small
    content = json.loads((folder / "annotations.json").read_text())
    hidden = 0
    for image in content["images"][:12]:
        scene = occshapes_scene(4, image["id"] - 1)
        drawn = render(scene)
        np.testing.assert_array_equal(cv2.imread(str(folder / "images" / image["file_name"])), drawn.image)
        annotations = [a for a in content["annotations"] if a["image_id"] == image["id"]]
        shown = [n for n in range(len(scene.objects)) if drawn.visible[n].sum() >= 24]
        hidden += len(scene.objects) - len(shown)
        assert [a["depth"] for a in annotations] == list(range(len(shown)))
        for annotation, n in zip(annotations, shown, strict=True):
            mask = mask_util.decode(annotation["segmentation"])
            np.testing.assert_array_equal(mask, drawn.visible[n])
            rows, columns = np.nonzero(mask)
            assert annotation["bbox"] == [
                columns.min(),
                rows.min(),
                columns.max() - columns.min() + 1,
                rows.max() - rows.min() + 1,
            ]
            assert annotation["area"] == mask.sum()
            assert annotation["category_id"] == scene.objects[n].category + 1
            assert annotation["covered"] == pytest.approx(drawn.covered[n], abs=1e-4)


def test_image_depends_on_seed_and_index_alone(small, tmp_path):
    folder, _ = small
    write_occshapes(tmp_path / "fewer", images=7, seed=4, progress=False)
    write_occshapes(tmp_path / "other", images=7, seed=5, progress=False)
    whole, fewer, other = digests(folder), digests(tmp_path / "fewer"), digests(tmp_path / "other")
    assert fewer == {name: whole[name] for name in fewer}
    assert not set(other.values()) & set(whole.values())
    backwards = [render(occshapes_scene(4, k)).image for k in (6, 3, 0)]
    for k, image in zip((6, 3, 0), backwards, strict=True):
        np.testing.assert_array_equal(cv2.imread(str(tmp_path / f"fewer/images/{k:06d}.png")), image)
    for name in LAYOUTS:
        parts = [json.loads((path / name).read_text()) for path in (folder, tmp_path / "fewer")]
        assert parts[1]["images"] == parts[0]["images"][:7]
        assert parts[1]["annotations"] == [a for a in parts[0]["annotations"] if a["image_id"] <= 7]


def test_two_runs_write_the_same_bytes(tmp_path):
    for run in ("one", "two"):
        write_occshapes(tmp_path / run, images=3, seed=9, progress=False)
    assert digests(tmp_path / "one") == digests(tmp_path / "two")
    assert truth_digests(tmp_path / "one") == truth_digests(tmp_path / "two")
    assert set(truth_digests(tmp_path / "one")) == set(LAYOUTS)


@pytest.mark.slow
def test_worker_processes_change_nothing(tmp_path):
    write_occshapes(tmp_path / "one", images=9, seed=2, progress=False)
    write_occshapes(tmp_path / "two", images=9, seed=2, workers=2, progress=False)
    assert digests(tmp_path / "one") == digests(tmp_path / "two")
    assert truth_digests(tmp_path / "one") == truth_digests(tmp_path / "two")


def test_pycocotools_reads_it(small):
    folder, statistics = small
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(folder / "annotations.json"))
    assert len(coco.getImgIds()) == 60
    assert len(coco.getAnnIds()) == statistics.instances
    assert len({annotation["id"] for annotation in coco.anns.values()}) == statistics.instances
    assert all(coco.annToMask(a).sum() == a["area"] for a in coco.anns.values())
    assert [c["supercategory"] for c in coco.loadCats(range(1, 11))] == ["seen"] * 5 + ["unseen"] * 5


def test_statistics_by_hand():
    def annotation(category, box, covered):
        return {"category_id": category, "bbox": box, "covered": covered}

    first = [
        annotation(1, [0, 0, 10, 10], 0.0),
        annotation(1, [9, 9, 5, 5], 0.2),
        annotation(2, [0, 0, 9, 9], 0.5),
        annotation(1, [14, 14, 5, 5], 0.1),
    ]
    statistics = occlusion_statistics([first, []], hidden=3)
    assert (statistics.images, statistics.instances, statistics.hidden) == (2, 4, 3)
    assert statistics.covered_20 == 0.5
    assert statistics.covered_50 == 0.25
    assert statistics.mean_covered == pytest.approx(0.2)
    # Only the first two boxes overlap and share a category; boxes that merely meet do not overlap.
    assert statistics.same_category_contact == 0.5
    assert statistics.per_category["disc"] == 3


def test_other_size_keeps_the_layout(tmp_path):
    write_occshapes(tmp_path / "set", images=1, size=64, progress=False)
    assert cv2.imread(str(tmp_path / "set/images/000000.png")).shape == (64, 64, 3)
    small, large = occshapes_scene(0, 0, 64), occshapes_scene(0, 0, 128)
    for one, two in zip(small.objects, large.objects, strict=True):
        assert one.category == two.category
        np.testing.assert_allclose(np.multiply(one.center, 2), two.center)
        assert 2 * one.radius == pytest.approx(two.radius)


def test_filled_folder_is_refused_and_only_own_ones_are_overwritten(tmp_path):
    out = tmp_path / "set"
    write_occshapes(out, images=3, progress=False)
    with pytest.raises(DatasetError, match="not empty.*--overwrite"):
        write_occshapes(out, images=2, progress=False)
    write_occshapes(out, images=2, overwrite=True, progress=False)
    assert len(digests(out)) == 2

    foreign = tmp_path / "thesis"
    foreign.mkdir()
    (foreign / "chapter.txt").write_text("years of work")
    with pytest.raises(DatasetError, match="not written by this generator"):
        write_occshapes(foreign, images=2, overwrite=True, progress=False)
    assert (foreign / "chapter.txt").read_text() == "years of work"
    with pytest.raises(DatasetError, match="is a file"):
        write_occshapes(foreign / "chapter.txt", images=2, progress=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["set", "thesis"]


def test_empty_folder_is_filled(tmp_path):
    (tmp_path / "set").mkdir()
    write_occshapes(tmp_path / "set", images=1, progress=False)
    assert len(digests(tmp_path / "set")) == 1


def test_interrupted_run_leaves_nothing_and_keeps_the_old_set(tmp_path, monkeypatch):
    write_occshapes(tmp_path / "old", images=2, progress=False)
    before = digests(tmp_path / "old")
    real, calls = occshapes.render, []

    def interrupted(scene):
        calls.append(scene)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(scene)

    for out in ("new", "old"):
        calls.clear()
        monkeypatch.setattr(occshapes, "render", interrupted)
        with pytest.raises(KeyboardInterrupt):
            write_occshapes(tmp_path / out, images=5, overwrite=True, progress=False)
    assert len(calls) == 3
    assert [path.name for path in tmp_path.iterdir()] == ["old"]
    assert digests(tmp_path / "old") == before


@pytest.mark.parametrize("wrong", [{"images": 0}, {"seed": -1}, {"size": 31}])
def test_arguments_out_of_range(tmp_path, wrong):
    with pytest.raises(DatasetError, match="images must be 1 or more"):
        write_occshapes(tmp_path / "set", **{"images": 1, **wrong})


def test_command_line_prints_statistics_and_draws_a_sheet(tmp_path, capsys):
    out = tmp_path / "set"
    assert main(["--out", str(out), "--images", "5", "--seed", "1", "--size", "64", "--contact-sheet"]) == 0
    printed = capsys.readouterr()
    assert "5 images" in printed.out
    assert "covered by 20 % or more:" in printed.out
    assert "OccShapes: 100%" in printed.err
    sheet = cv2.imread(str(out / "contact_sheet.png"))
    # Two rows of three tiles; a tile holds three pictures of 256 px in a frame of 2 px.
    assert sheet.shape == (2 * 260, 3 * 772, 3)

    assert main(["--out", str(out), "--images", "5"]) == 2
    assert "--overwrite" in capsys.readouterr().err


@pytest.mark.slow
def test_module_has_help():
    run = subprocess.run(
        [sys.executable, "-m", "instseg_d2.data.synthetic", "--help"], capture_output=True, text=True, env=os.environ
    )
    assert run.returncode == 0
    for option in ("--out", "--images", "--seed", "--size", "--workers", "--contact-sheet", "--overwrite"):
        assert option in run.stdout
