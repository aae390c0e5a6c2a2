import numpy as np
import pytest
from detectron2.data import transforms as T
from PIL import Image


@pytest.fixture(autouse=True)
def _seed():
    np.random.seed(0)


def image(h=20, w=30, dtype=np.uint8):
    return np.random.RandomState(1).randint(0, 256, (h, w, 3)).astype(dtype)


@pytest.mark.parametrize(
    ("size", "short", "limit", "expected"),
    [
        ((480, 640), 800, 1333, (800, 1067)),
        ((640, 480), 800, 1333, (1067, 800)),
        ((100, 400), 800, 1333, (333, 1333)),
        ((50, 50), 33, 1333, (33, 33)),
    ],
)
def test_shortest_edge(size, short, limit, expected):
    assert T.ResizeShortestEdge.get_output_shape(*size, short, limit) == expected


def test_shortest_edge_draws():
    aug = T.ResizeShortestEdge((10, 12), sample_style="range")
    drawn = {aug.get_transform(image()).new_h for _ in range(50)}
    assert drawn == {10, 11, 12}
    aug = T.ResizeShortestEdge((10, 14), sample_style="choice")
    assert {aug.get_transform(image()).new_h for _ in range(50)} == {10, 14}
    assert isinstance(T.ResizeShortestEdge(0).get_transform(image()), T.NoOpTransform)
    with pytest.raises(AssertionError):
        T.ResizeShortestEdge((1, 2, 3), sample_style="range")


@pytest.mark.parametrize("shape", [(6, 8), (6, 8, 1), (6, 8, 3)])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_resize_keeps_dimensions_and_constants(shape, dtype):
    resized = T.ResizeTransform(6, 8, 12, 4).apply_image(np.full(shape, 7, dtype=dtype))
    assert resized.shape == (12, 4, *shape[2:])
    assert resized.dtype == dtype
    assert np.all(resized == 7)


def test_resize_of_labels_makes_no_new_ones():
    labels = np.random.RandomState(0).choice([3, 200], (6, 8)).astype(np.uint8)
    tfm = T.ResizeTransform(6, 8, 15, 5)
    assert set(np.unique(tfm.apply_segmentation(labels))) == {3, 200}
    coords = tfm.apply_coords(np.array([[8.0, 6.0], [4.0, 2.0]]))
    assert np.allclose(coords, [[5, 15], [2.5, 5]])
    assert np.allclose(tfm.inverse().apply_coords(coords), [[8, 6], [4, 2]])


def test_flips():
    flipped = T.RandomFlip(1.0).get_transform(image())
    assert isinstance(flipped, T.HFlipTransform)
    assert np.array_equal(flipped.apply_image(image()), image()[:, ::-1])
    assert isinstance(T.RandomFlip(1.0, horizontal=False, vertical=True).get_transform(image()), T.VFlipTransform)
    assert isinstance(T.RandomFlip(0.0).get_transform(image()), T.NoOpTransform)
    for flags in ({"vertical": True}, {"horizontal": False}):
        with pytest.raises(ValueError, match="."):
            T.RandomFlip(**flags)


@pytest.mark.parametrize(
    ("kind", "size", "heights", "widths"),
    [
        ("absolute", (8, 40), {8}, {30}),
        ("relative", (0.5, 0.1), {10}, {3}),
        ("absolute_range", (10, 12), {10, 11, 12}, {10, 11, 12}),
        ("relative_range", (0.9, 1.0), {18, 19, 20}, {30}),
    ],
)
def test_crop_sizes(kind, size, heights, widths):
    crops = [T.RandomCrop(kind, size).get_transform(image()) for _ in range(60)]
    assert {c.h for c in crops} == heights
    assert {c.w for c in crops} == widths
    assert all(0 <= c.x0 <= 30 - c.w for c in crops)
    assert all(0 <= c.y0 <= 20 - c.h for c in crops)


def test_large_scale_jitter():
    inputs = T.AugInput(image(), boxes=np.array([[0.0, 0.0, 30.0, 20.0]]))
    tfms = T.AugmentationList([T.ResizeScale(0.5, 0.5, 40, 40), T.FixedSizeCrop((40, 40))])(inputs)
    # The image becomes 20 wide (half of 40), 13 high, then padded with 128.
    assert inputs.image.shape == (40, 40, 3)
    assert np.all(inputs.image[13:] == 128)
    assert np.all(inputs.image[:, 20:] == 128)
    assert np.allclose(inputs.boxes, [[0, 0, 20, 13]])
    assert [type(t) for t in tfms.transforms] == [T.ResizeTransform, T.CropTransform, T.PadTransform]
    crop = T.FixedSizeCrop((10, 10)).get_transform(image())
    assert crop.apply_image(image()).shape == (10, 10, 3)


def test_category_area_constraint():
    labels = np.zeros((20, 20), dtype=np.uint8)
    labels[:, 10:] = 1
    aug = T.RandomCrop_CategoryAreaConstraint("absolute", (8, 8), 0.8)
    for _ in range(20):
        part = aug.get_transform(image(20, 20), labels).apply_segmentation(labels)
        # Ten tries nearly always find a window across the edge.
        assert part.shape == (8, 8)
    windows = [aug.get_transform(image(20, 20), labels).apply_segmentation(labels).mean() for _ in range(40)]
    assert np.mean([0.2 < share < 0.8 for share in windows]) > 0.9


def test_rotation():
    pytest.importorskip("cv2")
    tfm = T.RotationTransform(20, 30, 90)
    assert np.array_equal(tfm.apply_image(image()), np.rot90(image()))
    assert np.allclose(tfm.apply_coords([[0, 0], [30, 20], [15, 10]]), [[0, 30], [20, 0], [10, 15]])
    tilted = T.RotationTransform(20, 30, 17)
    points = np.array([[3.0, 4.0], [25.0, 11.0]])
    assert np.abs(tilted.inverse().apply_coords(tilted.apply_coords(points)) - points).max() < 1
    with pytest.raises(NotImplementedError):
        T.RotationTransform(20, 30, 17, expand=False).inverse()
    assert T.RandomRotation([360.0] * 2).get_transform(image()).apply_image(image()) is not None


@pytest.mark.bundled_only
def test_rotation_chooses_among_centers():
    pytest.importorskip("cv2")
    aug = T.RandomRotation([10, 20], expand=False, center=[[0.5, 0.5], [0.0, 1.0]], sample_style="choice")
    centers = {tuple(map(float, aug.get_transform(image()).center)) for _ in range(20)}
    assert centers == {(15.0, 10.0), (0.0, 20.0)}


def test_extent():
    tfm = T.ExtentTransform((5, 5, 15, 15), (20, 20))
    assert np.allclose(tfm.apply_coords(np.array([[5.0, 5.0], [10.0, 15.0]])), [[0, 0], [10, 20]])
    assert np.array_equal(T.ExtentTransform((5, 6, 15, 16), (10, 10)).apply_image(image()), image()[6:16, 5:15])
    outside = T.ExtentTransform((-10, 0, 0, 10), (10, 10)).apply_image(image())
    assert np.all(outside == 0)


def test_colors():
    pixels = np.full((4, 5, 3), [100, 50, 200], dtype=np.uint8)
    assert np.all(T.RandomBrightness(0.5, 0.5).get_transform(pixels).apply_image(pixels) == [50, 25, 100])
    contrast = T.RandomContrast(0.0, 0.0).get_transform(pixels).apply_image(pixels)
    assert np.all(np.abs(contrast.astype(int) - 116) <= 1)
    grey = T.RandomSaturation(0.0, 0.0).get_transform(pixels).apply_image(pixels)
    assert np.all(np.abs(grey.astype(int) - round(0.299 * 100 + 0.587 * 50 + 0.114 * 200)) <= 1)
    assert np.array_equal(T.RandomLighting(0.0).get_transform(pixels).apply_image(pixels), pixels)
    inverted = T.ColorTransform(lambda x: 255 - x)
    assert np.array_equal(inverted.apply_image(pixels), 255 - pixels)
    assert np.array_equal(inverted.apply_coords(np.ones((1, 2))), np.ones((1, 2)))
    swapped = T.PILColorTransform(lambda im: Image.merge("RGB", im.split()[::-1]))
    assert np.array_equal(swapped.apply_image(pixels), pixels[:, :, ::-1])
    with pytest.raises(ValueError, match="op"):
        T.ColorTransform(3)
    with pytest.raises(AssertionError):
        T.RandomSaturation(0, 1).get_transform(np.zeros((4, 4, 1)))


def test_min_iou_crop_keeps_its_promise():
    boxes = np.array([[2.0, 2.0, 25.0, 18.0]])
    crops = 0
    for _ in range(30):
        tfm = T.MinIoURandomCrop(min_ious=(0.5,)).get_transform(image(), boxes)
        if isinstance(tfm, T.NoOpTransform):
            continue
        crops += 1
        assert tfm.x0 < 13.5 < tfm.x0 + tfm.w + 1
        assert tfm.y0 < 10 < tfm.y0 + tfm.h + 1
    assert crops > 5
    assert isinstance(T.MinIoURandomCrop().get_transform(image(), None), T.NoOpTransform)


def test_random_apply():
    always = T.RandomApply(T.HFlipTransform(30), 1.0)
    inputs = T.AugInput(image())
    always(inputs)
    assert np.array_equal(inputs.image, image()[:, ::-1])
    never = T.RandomApply(T.RandomFlip(1.0), 0.0)
    assert isinstance(never.get_transform(image()), T.NoOpTransform)
    with pytest.raises(AssertionError):
        T.RandomApply(T.RandomFlip(), 1.5)


def test_inputs_of_augmentations():
    class NeedsBoxes(T.Augmentation):
        def get_transform(self, image, boxes):
            assert boxes.shape == (1, 4)
            return T.CropTransform(*boxes[0, :2].astype(int), 5, 5)

    class NeedsMore(T.Augmentation):
        def get_transform(self, image, depth):
            return T.NoOpTransform()

    class Variadic(T.Augmentation):
        def get_transform(self, image, *more):
            return T.NoOpTransform()

    class Wrong(T.Augmentation):
        def get_transform(self, image):
            return 3

    inputs = T.AugInput(image(), boxes=np.array([[4.0, 3.0, 9.0, 8.0]]))
    tfms = inputs.apply_augmentations([NeedsBoxes(), T.HFlipTransform(5)])
    assert len(tfms) == 2
    assert np.array_equal(inputs.image, image()[3:8, 4:9][:, ::-1])
    assert np.array_equal(inputs.boxes, [[0, 0, 5, 5]])
    with pytest.raises(AttributeError, match="depth"):
        NeedsMore()(inputs)
    with pytest.raises(TypeError, match="args"):
        Variadic()(inputs)
    with pytest.raises((AssertionError, TypeError), match="Transform"):
        Wrong()(inputs)
    with pytest.raises((AssertionError, TypeError)):
        T.AugInput([[1, 2]])
    flipped, _ = T.apply_augmentations([T.RandomFlip(1.0)], image())
    assert np.array_equal(flipped, image()[:, ::-1])


def test_printing():
    assert repr(T.RandomFlip(prob=0.25, horizontal=False, vertical=True)) == (
        "RandomFlip(prob=0.25, horizontal=False, vertical=True)"
    )
    assert str(T.RandomContrast(0.5, 2)) == "RandomContrast(intensity_min=0.5, intensity_max=2)"
    assert str(T.AugmentationList([T.RandomFlip(), T.HFlipTransform(3)])) == (
        "AugmentationList[RandomFlip(), HFlipTransform(width=3)]"
    )
