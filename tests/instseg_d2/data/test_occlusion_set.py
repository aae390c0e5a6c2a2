"""A COCO set written anew with pasted occlusion: valid, complete, reproducible, and never half there."""

import hashlib
import json
import shutil

import cv2
import numpy as np
import pytest
from detectron2.data import DatasetCatalog

from instseg_d2.data import DatasetError, SampleError, register_coco, validate_coco, write_occshapes
from instseg_d2.data.media import load_image
from instseg_d2.data.occlusion_paste import PasteOcclusion
from instseg_d2.data.occlusion_set import ANNOTATION_FILE, IMAGE_FOLDER, write_pasted_set
from instseg_d2.data.run_lengths import decode_mask
from instseg_d2.testing import write_tiny_coco

ALWAYS = PasteOcclusion(probability=1, coverage=(0.2, 0.6))


def write(source, out, paste=ALWAYS, **options):
    return write_pasted_set(*source, out, paste=paste, progress=False, **options)


def content_of(folder):
    return json.loads((folder / ANNOTATION_FILE).read_text())


def hashes(folder):
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.fixture
def tiny(tmp_path):
    """Json and image folder of three images with two rectangles each, and an image without."""
    return write_tiny_coco(tmp_path / "tiny")


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out" / "set"


def change(source, edit):
    content = json.loads(source[0].read_text())
    edit(content)
    source[0].write_text(json.dumps(content))


def test_written_set_is_valid_and_loads(tiny, out, name):
    statistics = write(tiny, out)
    content, before = content_of(out), json.loads(tiny[0].read_text())
    assert not [problem for problem in validate_coco(content) if problem.fatal]
    assert content["images"] == before["images"]
    assert content["categories"] == before["categories"]
    added = [one for one in content["annotations"] if one["id"] > 6]
    assert statistics.pasted == len(added) >= 3
    assert (statistics.images, statistics.changed, statistics.dropped) == (4, 3, 0)
    assert statistics.instances == len(content["annotations"]) == 6 + len(added)
    assert f"4 images, 3 of them with pastes; {6 + len(added)} instances" in str(statistics)
    ids = [one["id"] for one in content["annotations"]]
    assert sorted(ids) == list(range(1, len(ids) + 1))
    register_coco(name, out / ANNOTATION_FILE, out / IMAGE_FOLDER)
    records = DatasetCatalog.get(name)
    assert [len(record["annotations"]) for record in records][3] == 0
    for record, image in zip(records, content["images"], strict=True):
        pixels = load_image(record["file_name"])
        masks = [decode_mask(one["segmentation"], *pixels.shape[:2]) for one in record["annotations"]]
        assert not masks or np.sum(masks, axis=0).max() == 1
        changed = (pixels != load_image(tiny[1] / image["file_name"])).any(axis=2)
        assert not changed.any() or not (changed & ~np.any(masks, axis=0)).any()


def test_occluders_name_the_pasted_instances(tmp_path, out):
    source = tmp_path / "shapes"
    write_occshapes(source, images=3, seed=0, size=96, progress=False)
    statistics = write((source / "annotations.json", source / "images"), out)
    content, before = content_of(out), json.loads((source / "annotations.json").read_text())
    assert not [problem for problem in validate_coco(content) if problem.fatal]
    old = {one["id"] for one in before["annotations"]}
    image_of = {one["id"]: one["image_id"] for one in content["annotations"]}
    new = image_of.keys() - old
    assert len(image_of) == len(content["annotations"]) == len(old) + statistics.pasted - statistics.dropped
    assert len(new) == statistics.pasted
    named = [(one["image_id"], key) for one in content["annotations"] for key in one["occluders"]]
    assert new & {key for _, key in named}
    assert all(image_of.get(key) == image for image, key in named)


def test_how_it_was_made_is_written_down(tiny, out):
    change(tiny, lambda content: content.update(info={"year": 2026}))
    write(tiny, out, seed=5)
    info = content_of(out)["info"]
    assert (info["year"], info["seed"], info["source"], info["generator"]) == (2026, 5, str(tiny[0]), "occlusion_paste")
    assert PasteOcclusion(**info["settings"]) == ALWAYS


def test_images_without_paste_are_copied(tiny, out):
    def edit(content):
        content["annotations"][0]["occlude_rate"] = 0.1

    change(tiny, edit)
    statistics = write(tiny, out, PasteOcclusion(probability=0))
    assert (statistics.changed, statistics.pasted) == (0, 0)
    assert content_of(out)["annotations"] == json.loads(tiny[0].read_text())["annotations"]
    before = {f"{IMAGE_FOLDER}/{key}": value for key, value in hashes(tiny[1]).items()}
    assert {key: value for key, value in hashes(out).items() if key != ANNOTATION_FILE} == before


def test_the_seed_decides(tiny, tmp_path):
    for folder, seed in (("a", 0), ("b", 0), ("c", 1)):
        write(tiny, tmp_path / folder, seed=seed)
    assert hashes(tmp_path / "a") == hashes(tmp_path / "b") != hashes(tmp_path / "c")


@pytest.mark.slow
def test_the_number_of_workers_changes_nothing(tiny, tmp_path):
    write(tiny, tmp_path / "a")
    write(tiny, tmp_path / "b", workers=2)
    assert hashes(tmp_path / "a") == hashes(tmp_path / "b")


def test_jpeg_in_folders_below(tiny, out):
    (tiny[1] / "deep").mkdir()
    cv2.imwrite(str(tiny[1] / "deep" / "one.JPG"), load_image(tiny[1] / "1.png"))
    change(tiny, lambda content: content["images"][0].update(file_name="deep/one.JPG"))
    write(tiny, out)
    image = load_image(out / IMAGE_FOLDER / "deep" / "one.JPG")
    assert image.shape == (64, 96, 3)
    assert (out / IMAGE_FOLDER / "deep" / "one.JPG").read_bytes()[:2] == b"\xff\xd8"


def test_interrupted_run_leaves_nothing(tiny, out, monkeypatch):
    def stop(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(cv2, "imencode", stop)
    with pytest.raises(KeyboardInterrupt):
        write(tiny, out)
    assert list(out.parent.iterdir()) == []


def test_image_that_cannot_be_read_is_named_and_nothing_is_left(tiny, out):
    (tiny[1] / "2.png").write_bytes(b"no image")
    with pytest.raises(SampleError, match=r"2.png \(id 2\)"):
        write(tiny, out)
    assert list(out.parent.iterdir()) == []


def test_image_of_another_size_is_named(tiny, out):
    cv2.imwrite(str(tiny[1] / "2.png"), np.zeros((9, 9, 3), np.uint8))
    with pytest.raises(SampleError, match=r"2.png \(id 2\).*SizeMismatchError"):
        write(tiny, out)


def test_only_its_own_folders_are_overwritten(tiny, out):
    write(tiny, out)
    first = hashes(out)
    with pytest.raises(DatasetError, match="not empty"):
        write(tiny, out, seed=1)
    assert hashes(out) == first
    write(tiny, out, seed=1, overwrite=True)
    assert hashes(out) != first
    # The file has changed since, and is read again.
    change(tiny, lambda content: content["images"].pop())
    write(tiny, out, overwrite=True)
    assert len(content_of(out)["images"]) == 3
    with pytest.raises(DatasetError, match="not written by this generator"):
        write(tiny, tiny[1], overwrite=True)
    assert len(list(tiny[1].iterdir())) == 4


def absolute(content):
    content["images"][0]["file_name"] = "/pictures/1.png"


def outside(content):
    content["images"][0]["file_name"] = "../1.png"


def unknown_type(content):
    content["images"][0]["file_name"] = "1.gif"


def same_file(content):
    content["images"][1]["file_name"] = "./1.png"


def broken(content):
    content["annotations"][0]["bbox"] = [1, 2]


def without_masks(content):
    for one in content["annotations"]:
        del one["segmentation"]


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (absolute, "image 1 has the 'file_name' '/pictures/1.png'; it must be relative"),
        (outside, "inside of it"),
        (unknown_type, "end in one of .bmp, .jpeg"),
        (same_file, r"'\./1.png' of image 2 is that of another image"),
        (broken, "cannot be used:\n  bad-box"),
        (without_masks, "no instance with a mask to cut out in 4 images"),
    ],
)
def test_files_that_cannot_be_used(tiny, out, edit, words):
    change(tiny, edit)
    with pytest.raises(DatasetError, match=words):
        write(tiny, out)
    assert not out.exists()


def test_a_bad_seed_and_a_missing_file(tiny, out):
    with pytest.raises(DatasetError, match="seed=-1"):
        write(tiny, out, seed=-1)
    shutil.rmtree(tiny[0].parent)
    with pytest.raises(DatasetError, match="no annotation file"):
        write(tiny, out)
