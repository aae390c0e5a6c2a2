"""Colours of objects over the frames of a video."""

import random

import numpy as np
import pytest
import torch
from detectron2.data.catalog import Metadata
from detectron2.structures import Boxes, Instances
from detectron2.utils.colormap import random_colors
from detectron2.utils.video_visualizer import VideoVisualizer
from detectron2.utils.visualizer import ColorMode
from matplotlib.patches import Rectangle

FRAME = np.full((100, 120, 3), 80, np.uint8)


def predictions(boxes, classes=None, **fields):
    result = Instances((100, 120))
    result.pred_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))
    result.pred_classes = torch.tensor(classes if classes is not None else [0] * len(boxes), dtype=torch.int64)
    for name, value in fields.items():
        result.set(name, value)
    return result


def colors_by_corner(output):
    """Colour of each drawn box by its left edge."""
    found = {}
    for patch in output.ax.patches:
        if isinstance(patch, Rectangle):
            rgb = patch.get_edgecolor()[:3]
            found[round(float(patch.get_x()))] = tuple(round(float(channel), 4) for channel in rgb)
    return found


@pytest.fixture(autouse=True)
def _seed():
    np.random.seed(3)
    random.seed(3)


def test_overlapping_box_of_the_same_class_keeps_its_colour():
    video = VideoVisualizer(Metadata())
    first = colors_by_corner(video.draw_instance_predictions(FRAME, predictions([[10, 10, 50, 50], [60, 60, 100, 95]])))
    assert first[10] != first[60]
    second = colors_by_corner(
        video.draw_instance_predictions(FRAME, predictions([[62, 60, 102, 95], [12, 10, 52, 50]]))
    )
    assert (second[12], second[62]) == (first[10], first[60])
    other = predictions([[12, 10, 52, 50]], classes=[1])
    assert colors_by_corner(video.draw_instance_predictions(FRAME, other))[12] not in (first[10], first[60])


def test_missed_object_is_remembered_for_some_frames():
    video = VideoVisualizer(Metadata())
    boxes = [[10, 10, 50, 50], [60, 60, 100, 95]]
    first = colors_by_corner(video.draw_instance_predictions(FRAME, predictions(boxes)))
    for _ in range(7):
        video.draw_instance_predictions(FRAME, predictions(boxes[:1]))
    again = colors_by_corner(video.draw_instance_predictions(FRAME, predictions(boxes)))
    assert again == first
    for _ in range(8):
        video.draw_instance_predictions(FRAME, predictions(boxes[:1]))
    state = np.random.get_state()[2]
    video.draw_instance_predictions(FRAME, predictions(boxes))
    assert np.random.get_state()[2] != state  # forgotten: a new colour was drawn


@pytest.mark.bundled_only
def test_a_neighbour_does_not_inherit_the_colour():
    """IoU of (60..80) and (72..92) is 8 / 32: not the same object, although both lie far from the origin."""
    video = VideoVisualizer(Metadata())
    first = colors_by_corner(video.draw_instance_predictions(FRAME, predictions([[60, 60, 80, 80]])))
    second = colors_by_corner(video.draw_instance_predictions(FRAME, predictions([[72, 60, 92, 80]])))
    assert first[60] != second[72]


def test_identity_fixes_the_colour_wherever_the_box_is():
    video = VideoVisualizer(Metadata(max_num_instances=2))
    first = colors_by_corner(
        video.draw_instance_predictions(FRAME, predictions([[10, 10, 50, 50], [60, 60, 100, 95]], ID=[7, 8]))
    )
    swapped = colors_by_corner(
        video.draw_instance_predictions(FRAME, predictions([[10, 10, 50, 50], [60, 60, 100, 95]], ID=[8, 7]))
    )
    assert (swapped[10], swapped[60]) == (first[60], first[10])
    with pytest.raises(AssertionError):
        video.draw_instance_predictions(FRAME, predictions([[1, 1, 9, 9]] * 3, ID=[7, 8, 9]))


@pytest.mark.bundled_only
def test_colour_of_who_left_is_free_in_the_same_frame_and_ids_may_be_a_tensor():
    random.seed(3)
    palette = [tuple(round(float(channel), 4) for channel in color) for color in random_colors(2, rgb=True, maximum=1)]
    random.seed(3)
    video = VideoVisualizer(Metadata(max_num_instances=2))
    boxes = [[10, 10, 50, 50], [60, 60, 100, 95]]
    video.draw_instance_predictions(FRAME, predictions(boxes, ID=torch.tensor([1, 2])))
    later = colors_by_corner(video.draw_instance_predictions(FRAME, predictions(boxes, ID=torch.tensor([3, 2]))))
    assert later == {10: palette[0], 60: palette[1]}


def test_given_colours_and_period_threshold():
    video = VideoVisualizer(Metadata(period_threshold=2))
    shown = predictions(
        [[10, 10, 50, 50], [60, 60, 100, 95]], COLOR=[(1.0, 0.0, 0.0), (0.0, 1.0, 0.0)], ID_period=[2, 3]
    )
    assert colors_by_corner(video.draw_instance_predictions(FRAME, shown)) == {60: (0.0, 1.0, 0.0)}


def test_masks_replace_boxes_and_gray_mode():
    masks = torch.zeros(1, 100, 120, dtype=torch.bool)
    masks[0, 20:60, 20:60] = True
    image = FRAME.copy()
    image[..., 2] = 20
    video = VideoVisualizer(Metadata(thing_classes=["cat"]), ColorMode.IMAGE_BW)
    output = video.draw_instance_predictions(
        image, predictions([[20, 20, 60, 60]], pred_masks=masks, scores=torch.tensor([0.5]))
    )
    assert not any(isinstance(p, Rectangle) for p in output.ax.patches)
    assert [t.get_text() for t in output.ax.texts] == ["cat 50%"]
    assert output.get_image()[90, 90].tolist() == [60, 60, 60]
    with pytest.raises(AssertionError):
        VideoVisualizer(Metadata(), ColorMode.SEGMENTATION)


def test_frame_without_objects():
    video = VideoVisualizer(Metadata())
    assert np.array_equal(video.draw_instance_predictions(FRAME, predictions([])).get_image(), FRAME)


@pytest.mark.bundled_only
def test_masks_alone_are_enough():
    result = Instances((100, 120))
    result.pred_masks = torch.zeros(2, 100, 120, dtype=torch.bool)
    result.pred_masks[0, 20:60, 20:60] = True
    output = VideoVisualizer(Metadata()).draw_instance_predictions(FRAME, result)
    assert len(output.ax.patches) == 1
