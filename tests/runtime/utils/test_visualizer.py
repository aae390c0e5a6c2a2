"""Drawing: exact pixels where geometry fixes them, texts and sizes of the figure's elements, empty and broken input."""

import subprocess
import sys
import warnings

import cv2
import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from detectron2.data.catalog import Metadata
from detectron2.structures import BitMasks, Boxes, BoxMode, Instances, PolygonMasks
from detectron2.utils.visualizer import ColorMode, GenericMask, VisImage, Visualizer, _create_text_labels
from matplotlib.patches import Polygon, Rectangle

H, W = 60, 80
GRAY = np.full((H, W, 3), 100, np.uint8)


def square(y0, y1, x0, x1, size=(H, W)):
    mask = np.zeros(size, bool)
    mask[y0:y1, x0:x1] = True
    return mask


def ring():
    return square(10, 40, 10, 40) & ~square(20, 30, 20, 30)


def instances(masks=None, boxes=None, scores=None, classes=None):
    result = Instances((H, W))
    if masks is not None:
        result.pred_masks = torch.as_tensor(np.stack(masks))
    if boxes is not None:
        result.pred_boxes = Boxes(torch.tensor(boxes))
    if scores is not None:
        result.scores = torch.tensor(scores)
    if classes is not None:
        result.pred_classes = torch.tensor(classes)
    return result


def patches(visualizer, kind):
    return [patch for patch in visualizer.output.ax.patches if isinstance(patch, kind)]


def texts(visualizer):
    return [text.get_text() for text in visualizer.output.ax.texts]


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        ((None, None, None), None),
        (([1, 0], None, None), ["1", "0"]),
        (([1, 0], [0.5, 0.127], ["a", "b"]), ["b 50%", "a 13%"]),
        ((None, torch.tensor([0.25]), ["a"]), ["25%"]),
        (([0, 1], None, ["a", "b"], [1, 0]), ["a|crowd", "b"]),
        (([3], None, []), ["3"]),
    ],
)
def test_text_labels(args, expected):
    assert _create_text_labels(*args) == expected


@pytest.mark.parametrize("kind", ["bitmap", "rle", "uncompressed", "polygons"])
def test_generic_mask_agrees_across_formats(kind):
    mask = square(10, 30, 20, 50)
    flat = mask.T.ravel()
    runs = np.diff(np.flatnonzero(np.diff(np.concatenate([[False], flat, [False]]).astype(int))), prepend=0)
    first = int(flat.argmax())
    source = {
        "bitmap": mask,
        "rle": mask_util.encode(np.asfortranarray(mask.astype("uint8"))),
        "uncompressed": {"counts": [first, *map(int, runs[1:])] + [int(flat[::-1].argmax())], "size": [H, W]},
        "polygons": [[20, 10, 50, 10, 50, 30, 20, 30]],
    }[kind]
    generic = GenericMask(source, H, W)
    # Outlines of bitmaps run through pixel centres, half a pixel inside.
    points = generic.polygons[0].reshape(-1, 2)
    inset = 0 if kind == "polygons" else 0.5
    assert (points.min(0).tolist(), points.max(0).tolist()) == ([20 + inset, 10 + inset], [50 - inset, 30 - inset])
    assert np.array_equal(generic.mask, mask)
    assert generic.mask.dtype == np.uint8
    assert generic.area() == 600
    assert not generic.has_holes
    # The rasteriser gives a polygon through pixel centres all pixels but the last row and column.
    assert generic.bbox().tolist() == pytest.approx([20, 10, 50, 30], abs=1)


def test_generic_mask_holes_and_broken_input():
    generic = GenericMask(ring(), H, W)
    assert generic.has_holes
    assert len(generic.polygons) == 2
    empty = GenericMask(np.zeros((H, W), bool), H, W)
    assert (empty.polygons, empty.has_holes, empty.area()) == ([], False, 0)
    with pytest.raises(AssertionError):
        GenericMask(np.zeros((H, W + 1)), H, W)
    with pytest.raises(ValueError, match="str"):
        GenericMask("mask", H, W)


@pytest.mark.parametrize("scale", [1.0, 2.0, 0.5])
def test_untouched_image_comes_back(scale):
    image = np.random.RandomState(0).randint(0, 256, (31, 47, 3), np.uint8)
    vis = VisImage(image, scale=scale)
    out = vis.get_image()
    assert out.dtype == np.uint8
    assert out.shape == (int(31 * scale), int(47 * scale), 3)
    if scale == 1.0:
        assert np.array_equal(out, image)
    if scale == 2.0:
        assert np.array_equal(out[::2, ::2], image)


def test_values_are_clipped_and_saved_file_equals_the_image(tmp_path):
    image = np.full((20, 30, 3), 300.0)
    image[:, :15] = -5
    visualizer = Visualizer(image)
    visualizer.draw_box((3, 3, 12, 12), edge_color="r")
    out = visualizer.get_output().get_image()
    assert out[10, 20].tolist() == [255, 255, 255]
    assert out[18, 2].tolist() == [0, 0, 0]
    visualizer.output.save(str(tmp_path / "o.png"))
    assert np.array_equal(cv2.imread(str(tmp_path / "o.png"))[..., ::-1], out)


def test_binary_mask_blends_inside_only():
    visualizer = Visualizer(GRAY)
    out = visualizer.draw_binary_mask(square(10, 40, 20, 60), color=(1.0, 0.0, 0.0), alpha=0.5).get_image()
    assert out[25, 40].tolist() == pytest.approx([178, 50, 50], abs=1)
    assert out[5, 40].tolist() == [100, 100, 100]
    assert len(patches(visualizer, Polygon)) == 1


def test_hole_stays_as_it_was():
    out = Visualizer(GRAY).draw_binary_mask(ring(), color="b", alpha=1.0).get_image()
    assert out[15, 15].tolist() == [0, 0, 255]
    assert out[25, 25].tolist() == [100, 100, 100]


def test_small_parts_are_skipped_by_area():
    mask = square(10, 13, 10, 13) | square(30, 50, 30, 50)
    for threshold, count in ((10, 1), (None, 2), (500, 0)):
        visualizer = Visualizer(GRAY)
        visualizer.draw_binary_mask(mask, color="r", area_threshold=threshold, text="part")
        assert len(patches(visualizer, Polygon)) == count
        assert texts(visualizer) == (["part"] if count else [])


def test_soft_mask_opacity_is_proportional():
    soft = np.zeros((H, W), np.float32)
    soft[:, 20:40], soft[:, 40:60] = 0.5, 1.0
    visualizer = Visualizer(np.zeros((H, W, 3)))
    out = visualizer.draw_soft_mask(soft, color=(0, 1, 0), alpha=0.8, text="soft").get_image()
    assert [out[50, x, 1] for x in (10, 30, 70)] == pytest.approx([0, 102, 0], abs=1)
    assert out[50, 45, 1] == pytest.approx(204, abs=1)
    (label,) = visualizer.output.ax.texts
    assert label.get_position() == (49.5, 29.5)


def test_predictions_with_boxes_order_labels_and_sizes():
    metadata = Metadata(thing_classes=["cat", "dog"])
    visualizer = Visualizer(GRAY, metadata, scale=2.0)
    boxes = [[2.0, 2.0, 12.0, 12.0], [10.0, 5.0, 70.0, 55.0], [60.0, 50.0, 78.0, 58.0]]
    output = visualizer.draw_instance_predictions(
        instances(
            [square(2, 12, 2, 12), square(5, 55, 10, 70), square(50, 58, 60, 78)], boxes, [0.9, 0.8, 0.7], [0, 1, 0]
        )
    )
    assert output is visualizer.output
    # Largest first; flat objects (here all: less than 40 * 2) have their label below, at the bottom to the right.
    assert texts(visualizer) == ["dog 80%", "cat 70%", "cat 90%"]
    positions = [tuple(float(v) for v in t.get_position()) for t in visualizer.output.ax.texts]
    assert positions == [(70.0, 5.0), (78.0, 50.0), (2.0, 12.0)]
    widths = [p.get_width() for p in patches(visualizer, Rectangle)]
    assert widths == [60, 18, 10]
    # Default size max(sqrt(60 * 80) // 90, 10 // 2) = 5; box lines 5 / 4 px, texts 0.5 * 5 * 2, both times scale 2.
    assert [p.get_linewidth() for p in patches(visualizer, Rectangle)] == [2.5] * 3
    assert [t.get_fontsize() for t in visualizer.output.ax.texts] == [10.0] * 3
    assert output.get_image().shape == (2 * H, 2 * W, 3)


def test_label_sits_on_the_median_pixel_without_boxes():
    visualizer = Visualizer(np.zeros((200, 300, 3)))
    mask = square(20, 120, 50, 150, (200, 300))
    visualizer.overlay_instances(masks=[mask], labels=["x"], assigned_colors=["r"])
    (label,) = visualizer.output.ax.texts
    assert label.get_position() == (99.5, 69.5)
    assert label.get_horizontalalignment() == "center"


def test_dark_label_colours_are_lifted():
    visualizer = Visualizer(GRAY)
    visualizer.draw_text("x", (1, 2), color=(0.1, 0.0, 0.3))
    (label,) = visualizer.output.ax.texts
    assert list(label.get_color()) == pytest.approx([0.2, 0.2, 0.8])
    assert label.get_fontsize() == 10


def test_segmentation_mode_uses_the_metadata_colours():
    metadata = Metadata(thing_colors=[(255, 0, 0), (0, 0, 255)])
    predictions = instances([square(5, 25, 5, 25), square(30, 55, 30, 75)], None, None, [0, 1])
    visualizer = Visualizer(GRAY, metadata, instance_mode=ColorMode.SEGMENTATION)
    visualizer.draw_instance_predictions(predictions, jittering=False)
    faces = [patch.get_facecolor() for patch in patches(visualizer, Polygon)]
    assert faces == [(0.0, 0.0, 1.0, 0.8), (1.0, 0.0, 0.0, 0.8)]

    np.random.seed(0)
    vectors = [np.random.rand(3) for _ in range(2)]
    np.random.seed(0)
    visualizer = Visualizer(GRAY, metadata, instance_mode=ColorMode.SEGMENTATION)
    visualizer.draw_instance_predictions(predictions)
    red = np.clip(vectors[0] / np.linalg.norm(vectors[0]) * 0.5 + [1, 0, 0], 0, 1)
    assert patches(visualizer, Polygon)[1].get_facecolor()[:3] == pytest.approx(red)


def test_gray_mode_keeps_colours_inside_masks():
    image = np.zeros((H, W, 3), np.uint8)
    image[:] = (30, 60, 90)
    predictions = instances([square(10, 40, 20, 60)])
    visualizer = Visualizer(image, instance_mode=ColorMode.IMAGE_BW)
    out = visualizer.draw_instance_predictions(predictions).get_image()
    assert out[5, 5].tolist() == [60, 60, 60]
    assert visualizer._create_grayscale_image(square(10, 40, 20, 60))[20, 30].tolist() == [30, 60, 90]
    assert len(patches(visualizer, Polygon)) == 1
    nothing = Visualizer(image, instance_mode=ColorMode.IMAGE_BW).draw_instance_predictions(predictions[:0])
    assert set(np.unique(nothing.get_image())) == {60}


@pytest.mark.parametrize("kind", ["polygons", "bitmasks", "tensor", "array", "list", "rle", "generic"])
def test_overlay_takes_every_mask_format(kind):
    mask = square(10, 40, 20, 60)
    masks = {
        "polygons": lambda: PolygonMasks([[np.array([20.5, 10.5, 59.5, 10.5, 59.5, 39.5, 20.5, 39.5])]]),
        "bitmasks": lambda: BitMasks(torch.as_tensor(mask[None])),
        "tensor": lambda: torch.as_tensor(mask[None]),
        "array": lambda: mask[None],
        "list": lambda: [mask],
        "rle": lambda: [mask_util.encode(np.asfortranarray(mask.astype("uint8")))],
        "generic": lambda: [GenericMask(mask, H, W)],
    }[kind]()
    out = Visualizer(GRAY).overlay_instances(masks=masks, assigned_colors=[(0, 0, 0)]).get_image()
    assert out[25, 40].tolist() == pytest.approx([50] * 3, abs=1)
    assert out[5, 40].tolist() == [100, 100, 100]


def test_overlay_refuses_counts_that_differ():
    boxes = np.array([[1, 1, 9, 9]])
    for wrong in ({"labels": ["a", "b"]}, {"masks": [ring(), ring()]}):
        with pytest.raises(AssertionError):
            Visualizer(GRAY).overlay_instances(boxes=boxes, **wrong)


def test_nothing_to_draw_leaves_the_image():
    for arguments in ({}, {"boxes": np.zeros((0, 4)), "labels": []}, {"masks": [], "labels": []}):
        assert np.array_equal(Visualizer(GRAY).overlay_instances(**arguments).get_image(), GRAY)
    empty = instances([np.zeros((H, W), bool)], None, [0.5], [0])
    assert np.array_equal(Visualizer(GRAY).draw_instance_predictions(empty).get_image(), GRAY)


def test_dataset_dict_with_polygons_crowd_and_semantic_map(tmp_path):
    metadata = Metadata(
        thing_classes=["cat", "dog"], stuff_classes=["sky", "sea"], stuff_colors=[(0, 0, 255), (0, 255, 0)]
    )
    rle = mask_util.encode(np.asfortranarray(square(30, 50, 40, 70).astype("uint8")))
    annotations = [
        dict(bbox=[5, 5, 20, 10], bbox_mode=BoxMode.XYWH_ABS, category_id=1, segmentation=[[5, 5, 25, 5, 25, 15]]),
        dict(bbox=[40, 30, 70, 50], bbox_mode=BoxMode.XYXY_ABS, category_id=0, segmentation=rle, iscrowd=1),
    ]
    visualizer = Visualizer(GRAY, metadata)
    visualizer.draw_dataset_dict({"annotations": annotations})
    assert texts(visualizer) == ["cat|crowd", "dog"]
    boxes = [(p.get_x(), p.get_y(), p.get_width(), p.get_height()) for p in patches(visualizer, Rectangle)]
    assert boxes == [(40, 30, 30, 20), (5, 5, 20, 10)]

    sem_seg = np.full((H, W), 7, np.uint8)  # 7 is no class: not drawn
    sem_seg[:, :30] = 1
    path = tmp_path / "sem.png"
    cv2.imwrite(str(path), sem_seg)
    visualizer = Visualizer(GRAY, metadata)
    out = visualizer.draw_dataset_dict({"sem_seg_file_name": str(path)}).get_image()
    assert texts(visualizer) == ["sea"]
    assert out[50, 4].tolist() == pytest.approx([50, 178, 50], abs=1)
    assert out[50, 60].tolist() == [100, 100, 100]


def test_semantic_map_largest_first_without_text():
    metadata = Metadata(stuff_classes=["a", "b", "c"], stuff_colors=[(255, 0, 0), (0, 255, 0)])
    sem_seg = torch.zeros(H, W, dtype=torch.int64)
    sem_seg[:, 20:] = 1
    sem_seg[:3, :3] = 2
    visualizer = Visualizer(GRAY, metadata)
    visualizer.draw_sem_seg(sem_seg, area_threshold=20, draw_text=False)
    assert [p.get_facecolor()[:3] for p in patches(visualizer, Polygon)] == [(0.0, 1.0, 0.0), (1.0, 0.0, 0.0)]
    assert patches(visualizer, Polygon)[0].get_edgecolor() == pytest.approx((1, 1, 240 / 255, 1))
    assert texts(visualizer) == []


def test_lines_circles_and_polygon_edges():
    visualizer = Visualizer(GRAY, scale=2.0)
    visualizer.draw_line([1, 9], [2, 8], "r")
    visualizer.draw_line([1, 9], [2, 8], "r", linewidth=0.1, linestyle="--")
    visualizer.draw_circle((30, 20), "b", radius=4)
    visualizer.draw_polygon(np.array([[5, 5], [9, 5], [9, 9]]), (0.5, 0.5, 0.5), alpha=0.9)
    ax = visualizer.output.ax
    assert [line.get_linewidth() for line in ax.lines] == pytest.approx([10 / 3, 2])
    circle, polygon = ax.patches
    assert (circle.center, circle.radius) == ((30, 20), 4)
    # Nearly opaque: the edge is darkened to 0.3 of the lightness.
    assert polygon.get_edgecolor() == pytest.approx((0.15, 0.15, 0.15, 1))
    assert polygon.get_linewidth() == 1


@pytest.mark.bundled_only
def test_left_out_drawings_say_so():
    visualizer = Visualizer(GRAY)
    keypoints = instances()
    keypoints.pred_keypoints = torch.zeros(1, 17, 3)
    calls = [
        lambda: visualizer.draw_panoptic_seg(torch.zeros(H, W), []),
        lambda: visualizer.draw_panoptic_seg_predictions(torch.zeros(H, W), []),
        lambda: visualizer.draw_and_connect_keypoints(torch.zeros(17, 3)),
        lambda: visualizer.draw_instance_predictions(keypoints),
        lambda: visualizer.overlay_instances(boxes=np.zeros((1, 5))),
        lambda: visualizer.draw_rotated_box_with_label((0, 0, 1, 1, 30)),
    ]
    for call in calls:
        with pytest.raises(NotImplementedError, match="upstream"):
            call()


@pytest.mark.slow
@pytest.mark.bundled_only
def test_no_global_state_of_pyplot_and_no_warnings():
    code = (
        "import sys, warnings, numpy as np\n"
        "from detectron2.utils.visualizer import Visualizer\n"
        "warnings.simplefilter('error')\n"
        "v = Visualizer(np.zeros((40, 50, 3)))\n"
        "m = np.zeros((40, 50), bool); m[5:30, 5:30] = True\n"
        "v.overlay_instances(masks=[m], boxes=np.array([[5, 5, 30, 30]]), labels=['a'])\n"
        "v.get_output().get_image()\n"
        "assert 'matplotlib.pyplot' not in sys.modules or not sys.modules['matplotlib.pyplot'].get_fignums()\n"
        "from detectron2.data import MetadataCatalog\n"
        "assert '__nonexist__' not in MetadataCatalog.list()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.bundled_only
def test_predictions_on_the_gpu_are_drawn():
    predictions = instances([square(10, 40, 20, 60)], [[20.0, 10.0, 60.0, 40.0]], [0.5], [0]).to("cuda")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        out = Visualizer(GRAY).draw_instance_predictions(predictions).get_image()
    assert not np.array_equal(out, GRAY)
