"""Objects cut out and pasted, on pictures of a few pixels."""

import numpy as np
import pytest

from instseg_d2.data import DatasetError, SampleError
from instseg_d2.data.cutouts import Cutout, CutoutPool, cut_out, mirror, paste, place, resize, soft_edge


def plane(*rows):
    return np.array([[character == "#" for character in row] for row in rows])


L_SHAPE = plane("#..", "#..", "###")


def colored(mask, inside=200, outside=50):
    return np.where(mask[..., None], inside, outside).astype(np.uint8).repeat(3, axis=2)


def test_cut_out_is_the_smallest_window():
    mask = np.zeros((6, 8), dtype=bool)
    mask[2:5, 4:7] = L_SHAPE
    image = np.arange(6 * 8 * 3, dtype=np.uint8).reshape(6, 8, 3)
    cutout = cut_out(image, mask)
    assert (cutout.mask == L_SHAPE).all()
    assert (cutout.image == image[2:5, 4:7]).all()
    assert cutout.area == 5
    assert (mirror(cutout).mask == plane("..#", "..#", "###")).all()
    assert (mirror(cutout).image == image[2:5, 6:3:-1]).all()
    with pytest.raises(ValueError, match="empty mask"):
        cut_out(image, np.zeros((6, 8), dtype=bool))


def test_soft_edge_by_hand():
    opacity = soft_edge(np.ones((5, 5), dtype=bool))
    np.testing.assert_allclose(opacity[1:-1, 1:-1], 1)
    np.testing.assert_allclose(opacity[0, 1:-1], 6 / 9)
    # Four of the nine pixels around a corner are inside: at least half is shown.
    assert opacity[0, 0] == 0.5
    line = soft_edge(plane("...", "###", "..."))
    np.testing.assert_allclose(line, np.array([[0, 0, 0], [0.5, 0.5, 0.5], [0, 0, 0]]))
    assert line.dtype == np.float32


@pytest.mark.parametrize(
    ("corner", "expected"),
    [
        ((1, 0), plane(".#..", ".#..", ".###")),
        ((2, 1), plane("....", "..#.", "..#.")),
        ((-2, -2), plane("#...", "....", "....")),
        ((4, 0), plane("....", "....", "....")),
        ((-9, 1), plane("....", "....", "....")),
    ],
)
def test_place_cuts_at_the_border(corner, expected):
    assert (place(L_SHAPE, corner, (3, 4)) == expected).all()


def test_paste_blends_the_edge_and_leaves_the_rest():
    image = np.full((7, 7, 3), 100, dtype=np.uint8)
    cutout = Cutout(np.full((5, 5, 3), 200, dtype=np.uint8), np.ones((5, 5), dtype=bool))
    pasted = paste(image, cutout, (1, 1))
    assert (image == 100).all()
    assert (pasted[2:5, 2:5] == 200).all()
    assert (pasted[1, 2:5] == 167).all()  # 100 / 3 + 2 * 200 / 3
    assert (pasted[1, 1] == 150).all()
    assert (pasted[0] == 100).all()
    assert pasted.dtype == np.uint8
    # Cut by the border of the image, an object has no edge there.
    beyond = paste(image, cutout, (-2, 1))
    assert (beyond[2:5, 0] == 200).all()
    assert (beyond[2:5, 3] == 100).all()
    assert (paste(image, cutout, (7, 0)) == image).all()


def test_paste_of_other_kinds_of_images():
    cutout = Cutout(np.full((3, 3, 1), 0.5, dtype=np.float32), np.ones((3, 3), dtype=bool))
    pasted = paste(np.zeros((3, 3, 1), dtype=np.float32), cutout, (0, 0))
    assert pasted.dtype == np.float32
    assert pasted[1, 1, 0] == 0.5


@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_resized_objects_bring_nothing_of_their_background(factor):
    mask = np.zeros((20, 30), dtype=bool)
    mask[4:18, 6:20] = True
    inner = resize(Cutout(colored(mask), mask), factor)
    assert inner.mask.shape == (20 * factor, 30 * factor)
    assert inner.area == pytest.approx(14 * 14 * factor**2, rel=0.1)
    assert (inner.image[inner.mask] == 200).all()
    assert inner.image.dtype == np.uint8


def test_resized_to_next_to_nothing():
    dot = Cutout(np.full((9, 9, 3), 7, dtype=np.uint8), np.eye(9, dtype=bool))
    assert resize(dot, 0.01).mask.shape == (1, 1)
    assert resize(dot, 0.01).area == 0


def records():
    rng = np.random.default_rng(0)
    images = {"a": rng.integers(0, 255, (6, 8, 3), dtype=np.uint8), "b": np.zeros((5, 5, 3), dtype=np.uint8)}
    box = [[1.0, 1.0, 4.0, 1.0, 4.0, 3.0, 1.0, 3.0]]
    listed = [
        {
            "file_name": "a",
            "image_id": 1,
            "height": 6,
            "width": 8,
            "annotations": [
                {"id": 1, "segmentation": box},
                {"id": 2, "segmentation": box, "iscrowd": 1},
                {"id": 3},
            ],
        },
        {
            "file_name": "b",
            "image_id": 2,
            "height": 5,
            "width": 5,
            "annotations": [{"id": 4, "segmentation": []}, {"id": 5, "empty": []}],
        },
        {"file_name": "c", "image_id": 3},
    ]
    return listed, lambda record: images[record["file_name"]]


def test_pool_draws_every_usable_instance_alike():
    listed, read = records()
    pool = CutoutPool(listed, lambda annotation: annotation.get("segmentation"))
    assert len(pool) == 2
    rng = np.random.default_rng(0)
    drawn = [pool.draw(rng, read) for _ in range(40)]
    # Annotation 4 has an empty mask.
    assert 10 < drawn.count(None) < 30
    cutout, annotation = next(filter(None, drawn))
    assert annotation["id"] == 1
    assert (cutout.image == read({"file_name": "a"})[1:3, 1:4]).all()
    assert cutout.mask.all()


def test_pool_says_what_cannot_be_used():
    listed, read = records()
    with pytest.raises(DatasetError, match="no instance with a mask to cut out in 3 images"):
        CutoutPool(listed, lambda annotation: None)
    pool = CutoutPool(listed[:1], lambda annotation: annotation.get("segmentation") and {"size": [9, 9], "counts": "0"})
    with pytest.raises(SampleError, match=r"annotation 1 out of image a \(id 1\): ValueError.*\[9, 9\]"):
        pool.draw(np.random.default_rng(0), read)
    with pytest.raises(SampleError, match=r"annotation 1 out of image a \(id 1\): OSError: gone; restore the file"):
        CutoutPool(listed[:1], lambda annotation: annotation.get("segmentation")).draw(np.random.default_rng(0), gone)


def gone(record):
    raise OSError("gone")


def test_objects_at_the_border_are_left_out_on_request():
    def square(key, x, y):
        return {"id": key, "segmentation": [[x, y, x + 4, y, x + 4, y + 4, x, y + 4]]}

    corners = [(2, 2), (4, 6), (1, 4), (4, 1), (5, 4), (4, 7)]
    record = {"height": 12, "width": 10, "annotations": [square(key, *corner) for key, corner in enumerate(corners)]}
    image = np.zeros((12, 10, 3), dtype=np.uint8)
    for at_border, expected in ((True, {0, 1, 2, 3, 4, 5}), (False, {0, 1})):
        pool = CutoutPool([record], lambda annotation: annotation["segmentation"], at_border=at_border)
        drawn = [pool.draw(np.random.default_rng(seed), lambda record: image) for seed in range(60)]
        assert {annotation["id"] for _, annotation in filter(None, drawn)} == expected
        assert (None in drawn) != at_border
