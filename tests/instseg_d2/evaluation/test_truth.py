"""What is known of an instance: hidden share and overlap with others."""

import uuid

import cv2
import numpy as np
import pytest
from detectron2.data import MetadataCatalog

from instseg_d2.data import DatasetError
from instseg_d2.evaluation import (
    GroundTruth,
    area_between,
    covered_between,
    overlap_at_least,
    touching_same_class,
    touching_same_color,
)
from instseg_d2.evaluation.instance_subsets import selected_ids


def image_of(name, image_id=1):
    return GroundTruth(name).image(image_id)


def test_overlap_is_the_largest_share_of_the_box_under_one_other_mask(dataset, annotation):
    """A 10 x 10 box of which the other mask covers 3 columns, 30 pixels: 0.3; 3 of the other's 6 columns: 0.5."""
    truth = [
        annotation(1, 1, 3, (10, 10, 20, 20)),
        annotation(2, 1, 8, (17, 10, 23, 20)),
        annotation(3, 1, 8, (10, 18, 12, 20)),
        annotation(4, 1, 3, (0, 0, 80, 60), iscrowd=1),
        annotation(5, 2, 3, (10, 10, 20, 20)),
    ]
    name = dataset(truth, images=3)
    assert image_of(name).overlaps == {1: pytest.approx(0.3), 2: pytest.approx(0.5), 3: pytest.approx(1.0)}
    assert image_of(name, 2).overlaps == {5: 0.0}
    assert image_of(name, 3).overlaps == {}
    assert selected_ids(GroundTruth(name), [overlap_at_least(0.3), overlap_at_least(0.31)]) == [{1, 2, 3}, {2, 3}]


def test_overlap_counts_the_mask_of_the_other_not_its_box(dataset, annotation):
    triangle = [[20.0, 10.0, 40.0, 10.0, 40.0, 30.0]]
    truth = [annotation(1, 1, 3, (20, 10, 40, 30)), annotation(2, 1, 8, (20, 10, 40, 30), segmentation=triangle)]
    overlaps = image_of(dataset(truth)).overlaps
    assert overlaps[1] == pytest.approx(0.5, abs=0.03)
    assert overlaps[2] == 1


def neighbors(name, image_id=1):
    return {key: {one["id"] for one in others} for key, others in image_of(name, image_id).neighbors.items()}


def test_neighbors_lie_side_by_side_or_corner_to_corner(dataset, annotation):
    truth = [
        annotation(1, 1, 3, (10, 10, 20, 20)),
        annotation(2, 1, 3, (20, 10, 30, 20)),
        annotation(3, 1, 8, (30, 20, 35, 25)),
        annotation(4, 1, 3, (37, 20, 40, 25)),
        annotation(5, 1, 3, (0, 0, 80, 60), iscrowd=1),
        annotation(6, 2, 3, (10, 10, 20, 20)),
    ]
    name = dataset(truth, images=3)
    assert neighbors(name) == {1: {2}, 2: {1, 3}, 3: {2}, 4: set()}
    assert neighbors(name, 2) == {6: set()}
    assert neighbors(name, 3) == {}
    assert selected_ids(GroundTruth(name), [touching_same_class()]) == [{1, 2}]


def test_neighbors_of_nearly_one_color(dataset, annotation, tmp_path):
    """A red object beside a slightly darker one and a blue one; the blue one beside a red one of its class."""
    truth = [
        annotation(1, 1, 3, (10, 10, 20, 20)),
        annotation(2, 1, 8, (20, 10, 30, 20)),
        annotation(3, 1, 20, (10, 20, 20, 30)),
        annotation(4, 1, 20, (10, 30, 20, 40)),
        annotation(5, 1, 3, (60, 10, 70, 20)),
    ]
    pixels = np.zeros((60, 80, 3), np.uint8)
    for one, color in zip(truth, [(0, 0, 250), (0, 0, 230), (250, 0, 0), (0, 0, 250), (0, 0, 250)], strict=True):
        x, y, width, height = one["bbox"]
        pixels[y : y + height, x : x + width] = color
    cv2.imwrite(str(tmp_path / "1.png"), pixels)
    name = dataset(truth, images=1)
    MetadataCatalog.get(name).image_root = str(tmp_path)
    # Pure red in L*a*b*, of colorimetry's tables: 53.2, 80.1, 67.2; a brightness of 250 of 255 is a little less.
    assert image_of(name).colors[1] == pytest.approx([52.2, 78.9, 66.2], abs=0.5)
    assert selected_ids(GroundTruth(name), [touching_same_color()]) == [{1, 2}]
    assert selected_ids(GroundTruth(name), [touching_same_color(distance=1)]) == [set()]


def test_colors_of_an_image_of_another_size(dataset, annotation, tmp_path):
    cv2.imwrite(str(tmp_path / "1.png"), np.zeros((60, 70, 3), np.uint8))
    name = dataset([annotation(1, 1, 3, (10, 10, 20, 20))], images=1)
    MetadataCatalog.get(name).image_root = str(tmp_path)
    with pytest.raises(DatasetError, match="1.png is"):
        _ = image_of(name).colors


def test_hidden_share_from_masks(dataset, annotation, rle):
    """A 20 x 10 object whose right quarter is hidden, in the three forms; polygons and run lengths mixed."""
    whole, seen = (10, 10, 30, 20), (10, 10, 25, 20)
    truth = [
        annotation(1, 1, 3, seen, amodal_segmentation=rle(whole)),
        annotation(2, 1, 3, whole, visible_segmentation=rle(seen)),
        annotation(3, 1, 3, seen, amodal_segmentation=rle(whole), visible_segmentation=rle((10, 10, 20, 20))),
        annotation(4, 1, 3, seen, covered=0.125, amodal_segmentation=rle(whole)),
        annotation(5, 1, 3, whole, visible_segmentation=rle(whole)),
    ]
    image = image_of(dataset(truth))
    shares = [image.covered(one) for one in image.annotations]
    assert shares == pytest.approx([0.25, 0.25, 0.5, 0.125, 0])


def test_ranges_are_open_below_and_closed_above(dataset, annotation):
    shares = [0, 0.1, 0.2, 0.5, 1]
    truth = [annotation(i, 1, 3, (10, 10, 20, 20 + i), covered=share) for i, share in enumerate(shares, start=1)]
    ranges = [(0, 0), (0, 0.2), (0.2, 0.5), (0.5, 1), (0.2, 1), (0.5, 0.5)]
    subsets = [covered_between(*ends) for ends in ranges] + [area_between(110, 130)]
    assert [subset.name for subset in subsets][:2] == ["covered_0", "covered_0-0.2"]
    assert selected_ids(GroundTruth(dataset(truth)), subsets) == [{1}, {2, 3}, {4}, {5}, {4, 5}, {4}, {2, 3}]


@pytest.mark.parametrize("ends", [(0.5, 0.2), (-0.1, 0.2), (0, 1.5), (float("nan"), 1)])
def test_ranges_outside_of_the_unit_interval(ends):
    with pytest.raises(ValueError, match="hidden shares"):
        covered_between(*ends)


@pytest.mark.parametrize("share", [-0.2, 40, float("nan")])
def test_hidden_share_outside_of_the_unit_interval(dataset, annotation, share):
    image = image_of(dataset([annotation(9, 1, 3, (10, 10, 20, 20), covered=share)]))
    with pytest.raises(DatasetError, match="annotation 9 of image 1: 'covered' is"):
        image.covered(image.annotations[0])


def test_missing_file_image_and_mask(dataset, annotation):
    name = dataset([annotation(1, 1, 3, (10, 10, 20, 20), segmentation=[])])
    image = image_of(name)
    with pytest.raises(DatasetError, match="annotation 1 of image 1 has no 'segmentation'"):
        image.mask(image.annotations[0])
    with pytest.raises(DatasetError, match="has no image 99"):
        image_of(name, 99)
    bare = f"test_{uuid.uuid4().hex[:8]}"
    with pytest.raises(DatasetError, match=f"'{bare}' has no annotation file"):
        GroundTruth(bare)
    MetadataCatalog.remove(bare)
