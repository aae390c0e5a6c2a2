import shutil

import cv2
import numpy as np
import pytest

from instseg_d2.data.checks import check_dataset


@pytest.fixture
def checked(content, write):
    """`checked(...)` checks the set of two images (the second one made unlike the first) with its files."""
    _, root = write(content)
    cv2.imwrite(str(root / "b.png"), np.full((40, 60, 3), 9, np.uint8))

    def check(**options):
        report = check_dataset(content, root, **options)
        return {problem.kind: problem for problem in report.problems}

    check.root = root
    return check


@pytest.mark.parametrize("num_workers", [0, 2])
def test_sound_files(checked, num_workers):
    assert checked(num_workers=num_workers) == {}


@pytest.mark.parametrize("num_workers", [0, 2])
def test_missing_and_damaged_files(checked, num_workers):
    (checked.root / "a.png").unlink()
    path = checked.root / "b.png"
    path.write_bytes(path.read_bytes()[:60])
    problems = checked(num_workers=num_workers)
    assert set(problems) == {"missing-image-file", "broken-image"}
    assert problems["missing-image-file"].example == f"image 1: no file {checked.root / 'a.png'}"
    assert problems["broken-image"].example.startswith(f"image 2: cannot read image '{path}'")
    assert all(problem.fatal for problem in problems.values())


def test_text_and_folder_are_no_images(checked):
    (checked.root / "a.png").write_text("hello")
    (checked.root / "b.png").unlink()
    (checked.root / "b.png").mkdir()
    assert set(checked()) == {"missing-image-file", "broken-image"}


def test_size_is_that_of_the_upright_image(checked):
    from PIL import Image

    cv2.imwrite(str(checked.root / "b.png"), np.zeros((60, 40, 3), np.uint8))
    problem = checked()["image-size"]
    assert problem.fatal
    assert problem.example == f"image 2: {checked.root / 'b.png'} has height x width 60 x 40, the json says 40 x 60"
    # Lying on its side in the file, upright by its EXIF orientation.
    image = Image.new("RGB", (40, 60))
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(checked.root / "b.png", exif=exif)
    assert checked() == {}


def test_same_content_and_repeated_names(checked, content):
    shutil.copy(checked.root / "a.png", checked.root / "b.png")
    problems = checked()
    assert set(problems) == {"same-image-content"}
    assert not problems["same-image-content"].fatal
    assert problems["same-image-content"].example.endswith("has the bytes of image 1, a.png")
    content["images"][1]["file_name"] = "./a.png"
    problems = checked()
    assert set(problems) == {"repeated-file-name"}
    assert problems["repeated-file-name"].fatal
    assert "image 2" in problems["repeated-file-name"].example
    assert "belongs to image 1 too" in problems["repeated-file-name"].example


def test_limit_looks_at_the_first_images_only(checked, content):
    (checked.root / "b.png").unlink()
    content["annotations"][2]["bbox"] = [30, 30, 5, 5]
    assert set(checked()) == {"missing-image-file", "box-elsewhere"}
    assert checked(limit=1) == {}
    content["annotations"][2]["category_id"] = 99
    assert set(checked(limit=1)) == {"unknown-category"}
