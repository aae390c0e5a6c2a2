"""Pasted occlusion: the truth of hand-drawn and of generated scenes, and what the settings mean."""

import copy
import json
from functools import partial

import numpy as np
import pytest
from detectron2.config import LazyCall, instantiate

from instseg_d2.data import write_occshapes
from instseg_d2.data.cutouts import Cutout, CutoutPool, place
from instseg_d2.data.media import load_image
from instseg_d2.data.occlusion_paste import PasteOcclusion, find_corner
from instseg_d2.data.run_lengths import decode_mask, encode_mask
from instseg_d2.data.synthetic.occshapes import AMODAL_FILE, ANNOTATION_FILE, IMAGE_FOLDER

SIZE = (40, 60)


def filled(x0, y0, x1, y1, size=SIZE):
    mask = np.zeros(size, dtype=bool)
    mask[y0:y1, x0:x1] = True
    return mask


def decoded(encoded, size=SIZE):
    return decode_mask(encoded, *size)


def box_of(mask):
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return [columns[0], rows[0], columns[-1] + 1 - columns[0], rows[-1] + 1 - rows[0]]


def annotation(key, *corners, **more):
    """An instance before all others, with everything that OccShapes says of one."""
    mask = filled(*corners)
    encoded = encode_mask(mask)
    return {
        "id": key,
        "category_id": key,
        "bbox": box_of(mask),
        "area": int(mask.sum()),
        "iscrowd": 0,
        "segmentation": encoded,
        "amodal_segmentation": encoded,
        "visible_segmentation": encoded,
        "covered": 0.0,
        "depth": 0,
        "occluders": [],
        **more,
    }


def plain(key, *corners, **more):
    """As a COCO file has it."""
    keys = ("id", "category_id", "bbox", "area", "iscrowd", "segmentation")
    return {**{name: annotation(key, *corners)[name] for name in keys}, **more}


# Two that do not touch.
SCENE = [annotation(1, 5, 5, 25, 25), annotation(2, 40, 10, 55, 35, depth=1)]
SQUARE = Cutout(np.full((12, 12, 3), 200, dtype=np.uint8), np.ones((12, 12), dtype=bool))
IMAGE = np.full((*SIZE, 3), 50, dtype=np.uint8)


def give(cutout=SQUARE, source=SCENE[0]):
    return lambda: (cutout, source)


def run(settings=None, scene=SCENE, draw=None, seed=0):
    paste = PasteOcclusion(**{"probability": 1, "number": (1, 1), **(settings or {})})
    return paste(IMAGE, scene, draw or give(), np.random.default_rng(seed))


RING = filled(4, 4, 30, 30) & ~filled(9, 9, 25, 25)


@pytest.mark.parametrize("seen", [filled(5, 5, 25, 25), RING, filled(0, 0, 60, 6), filled(3, 3, 4, 4)])
@pytest.mark.parametrize("mask", [np.ones((20, 30), dtype=bool), np.eye(24, dtype=bool), np.ones((40, 60), dtype=bool)])
def test_corner_covers_a_share_within_the_limits(seen, mask):
    shares = []
    for seed in range(20):
        corner = find_corner(seen, mask, (0.3, 1.0), np.random.default_rng(seed))
        if corner is not None:
            there = place(mask, corner, SIZE)
            shares.append((there & seen).sum() / seen.sum())
            assert there.sum() >= mask.sum() / 2
    assert all(0.3 <= share <= 1 for share in shares)
    # A diagonal never covers so much of anything but a dot; all others do.
    assert bool(shares) == (seen.sum() == 1 or not (mask == np.eye(*mask.shape)).all())


def test_corners_are_spread_over_the_limits():
    seen, mask = filled(20, 10, 40, 30), np.ones((20, 20), dtype=bool)
    corners = [find_corner(seen, mask, (0.1, 0.6), np.random.default_rng(seed)) for seed in range(200)]
    shares = np.array([(place(mask, corner, SIZE) & seen).sum() / seen.sum() for corner in corners])
    counts, _ = np.histogram(shares, bins=5, range=(0.1, 0.6))
    assert (counts > 20).all()
    # From all sides.
    assert {(x < 20, y < 10) for x, y in corners} == {(False, False), (False, True), (True, False), (True, True)}


def test_no_corner():
    dot = np.ones((1, 1), dtype=bool)
    assert find_corner(filled(5, 5, 25, 25), dot, (0.1, 0.6), np.random.default_rng(0)) is None
    assert find_corner(filled(5, 5, 25, 25), ~dot, (0.1, 0.6), np.random.default_rng(0)) is None


@pytest.mark.parametrize("seed", range(10))
def test_truth_follows_one_paste(seed):
    before = copy.deepcopy(SCENE)
    image, annotations, done = run(seed=seed)
    assert (done, len(annotations)) == (1, 3)
    new = annotations[-1]
    front = decoded(new["segmentation"])
    assert (image[front] != 50).all()
    assert (image[~front] == 50).all()
    assert (new["id"], new["category_id"], new["depth"], new["covered"], new["occluders"]) == (-1, 1, 0, 0, [])
    assert (new["bbox"], new["area"]) == (box_of(front), front.sum())
    met = 0
    for one, after in zip(SCENE, annotations, strict=False):
        whole = decoded(one["segmentation"])
        left = whole & ~front
        assert (decoded(after["segmentation"]) == left).all()
        assert after["visible_segmentation"] == after["segmentation"]
        assert after["amodal_segmentation"] == one["amodal_segmentation"]
        assert (after["bbox"], after["area"]) == (box_of(left), left.sum())
        assert after["covered"] == pytest.approx((whole & front).sum() / whole.sum(), abs=1e-4)
        assert after["depth"] == one["depth"] + 1
        assert after["occluders"] == ([-1] if (whole & front).any() else [])
        met += (whole & front).any()
    assert met >= 1
    assert before == SCENE
    assert (IMAGE == 50).all()


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    """Records of generated images, with visible and with amodal masks."""
    folder = tmp_path_factory.mktemp("shapes") / "set"
    write_occshapes(folder, images=3, seed=0, size=96, progress=False)

    def records(file):
        content = json.loads((folder / file).read_text())
        return [
            {
                **image,
                "file_name": str(folder / IMAGE_FOLDER / image["file_name"]),
                "annotations": [one for one in content["annotations"] if one["image_id"] == image["id"]],
            }
            for image in content["images"]
        ]

    return {"visible": records(ANNOTATION_FILE), "amodal": records(AMODAL_FILE)}


def read(record):
    return load_image(record["file_name"])


@pytest.mark.parametrize("masks", ["visible", "amodal"])
def test_visible_masks_lose_all_that_is_pasted_before_them(shapes, masks):
    paste = PasteOcclusion(probability=1, number=(2, 4), masks=masks, least_pixels=1, coverage=(0.1, 0.9))
    pool = paste.pool(shapes[masks])
    pasted = 0
    for index, record in enumerate(shapes[masks]):
        rng = np.random.default_rng(index)
        image = read(record)
        size = image.shape[:2]
        seen_before = {one["id"]: decoded(one["visible_segmentation"], size) for one in record["annotations"]}
        changed, annotations, done = paste(image, record["annotations"], partial(pool.draw, rng, read), rng)
        pasted += done
        front = np.zeros(size, dtype=bool)
        for one in sorted(annotations, key=lambda one: one["depth"]):
            whole, seen = (decoded(one[f"{kind}_segmentation"], size) for kind in ("amodal", "visible"))
            assert (seen == seen_before.get(one["id"], whole) & ~front).all()
            assert one["segmentation"] == one[f"{masks}_segmentation"]
            assert one["covered"] == pytest.approx(1 - seen.sum() / whole.sum(), abs=1e-4)
            front |= whole if one["id"] < 0 else False
        assert (changed[~front] == image[~front]).all()
    assert pasted >= 6


def test_number_and_probability():
    draw = give(SQUARE, plain(9, 0, 0, 12, 12))
    assert [run({"number": (3, 3)}, draw=draw, seed=seed)[2] for seed in range(4)] == [3] * 4
    done = [run({"number": (1, 3), "probability": 0.5}, draw=draw, seed=seed)[2] for seed in range(60)]
    assert set(done) == {0, 1, 2, 3}
    assert 20 <= done.count(0) <= 40


def test_ids_of_pasted_instances_are_their_own():
    _, annotations, _ = run({"number": (3, 3), "least_pixels": 1}, scene=[annotation(-7, 5, 5, 25, 25)])
    ids = [one["id"] for one in annotations]
    assert ids[0] == -7
    assert len(set(ids)) == len(ids)
    assert max(ids) == -7
    draw = give(source={**SCENE[0], "instance_id": 5})
    _, annotations, _ = run(scene=[{**SCENE[0], "instance_id": 30}], draw=draw)
    assert [one["instance_id"] for one in annotations] == [30, 31]


def test_scale_is_relative_to_what_is_covered():
    settings, scene = {"scale": (1, 1), "coverage": (0.1, 0.3)}, [plain(1, 20, 10, 40, 30)]
    # Some are cut by the border.
    assert max(run(settings, scene, seed=seed)[1][-1]["area"] for seed in range(10)) == 400
    # Enlarged to twice its size at most.
    small = Cutout(SQUARE.image[:5, :5], SQUARE.mask[:5, :5])
    assert run(settings, scene, give(small))[1][-1]["area"] == 100


def test_objects_are_mirrored():
    image = np.zeros((12, 12, 3), dtype=np.uint8)
    image[:, 6:] = 255
    for probability, dark_on_the_left in ((0, True), (1, False)):
        settings = {"mirror_probability": probability, "scale": (0.6, 0.6), "coverage": (0.3, 0.4)}
        pasted, annotations, _ = run(settings, [plain(1, 20, 10, 40, 30)], give(Cutout(image, SQUARE.mask)))
        x, y, w, h = map(int, annotations[-1]["bbox"])
        middle = pasted[y + h // 2].mean(axis=1)
        assert (middle[x + 1] < middle[x + w - 2]) == dark_on_the_left


def test_what_is_too_small_afterwards_is_dropped():
    # The small one lies in the middle of the large one, and is too small to be covered on purpose.
    scene = [plain(1, 20, 10, 40, 30), plain(2, 29, 19, 31, 21)]
    settings = {"scale": (1, 1), "coverage": (0.8, 1), "least_pixels": 5}
    for seed in range(5):
        _, annotations, done = run(settings, scene, seed=seed)
        assert done == 1
        assert [one["id"] for one in annotations] in ([1, -1], [-1])
        assert all(one["area"] >= 5 for one in annotations)


@pytest.mark.parametrize(
    ("scene", "draw"),
    [
        ([], give()),
        ([plain(1, 5, 5, 25, 25, iscrowd=1)], give()),
        ([{"id": 1, "bbox": [5, 5, 20, 20], "category_id": 0}], give()),
        ([{**SCENE[0], "has_mask": False}], give()),
        ([plain(1, 5, 5, 8, 8)], give()),
        (SCENE, lambda: None),
        (SCENE, give(Cutout(SQUARE.image[:3, :3], SQUARE.mask[:3, :3]))),
    ],
)
def test_an_image_where_nothing_fits_stays(scene, draw):
    image, annotations, done = run(scene=scene, draw=draw)
    assert (image is IMAGE, annotations, done) == (True, scene, 0)


def test_probability_zero_draws_nothing():
    image, annotations, done = run({"probability": 0}, draw=pytest.fail)
    assert (image is IMAGE, annotations, done) == (True, SCENE, 0)


def test_the_seed_decides():
    settings = {"number": (1, 3)}
    (image, *truth), (again, *same), (other, *_) = (run(settings, seed=seed) for seed in (4, 4, 5))
    assert (image == again).all()
    assert truth == same
    assert (image != other).any()


def test_with_amodal_masks_what_has_no_visible_mask_is_left_alone():
    unknown = annotation(1, 5, 5, 25, 25)
    del unknown["visible_segmentation"]
    _, annotations, done = run({"masks": "amodal"}, [unknown, SCENE[1]], give(source=SCENE[1]))
    assert (done, len(annotations)) == (1, 3)
    assert annotations[0]["segmentation"] == unknown["segmentation"]
    assert run({"masks": "amodal"}, [unknown])[2] == 0
    assert len(PasteOcclusion(masks="amodal").pool([{"annotations": [unknown, SCENE[1]]}])) == 1


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"probability": 1.5}, r"probability=1\.5: must be in \[0, 1\]"),
        ({"mirror_probability": -0.1}, "mirror_probability"),
        ({"most_covered": 2}, "most_covered"),
        ({"number": (0, 2)}, "number=.*two whole numbers in order, 1 or more"),
        ({"number": (2, 1)}, "number"),
        ({"number": (2,)}, "number"),
        ({"number": (1, 1.5)}, "number"),
        ({"scale": (0, 1)}, "scale=.*above 0"),
        ({"scale": (float("nan"), 1)}, "scale"),
        ({"coverage": (0.5, 0.5)}, "coverage=.*not equal"),
        ({"coverage": (0, 0.5)}, "coverage"),
        ({"coverage": (0.5, 1.1)}, "coverage"),
        ({"least_pixels": 0}, "least_pixels"),
        ({"tries": 1.5}, "tries=1.5: must be a whole number"),
        ({"masks": "modal"}, "masks='modal'"),
    ],
)
def test_settings_out_of_bounds(settings, words):
    with pytest.raises(ValueError, match=words):
        PasteOcclusion(**settings)


def test_settings_as_a_config_gives_them():
    node = LazyCall(PasteOcclusion)(number=[2, 3], scale=[1, 2], coverage=[0.2, 0.4])
    assert instantiate(node) == PasteOcclusion(number=(2, 3), scale=(1, 2), coverage=(0.2, 0.4))


def test_objects_that_their_image_cuts_off_are_pasted_on_request():
    annotations = [plain(1, 1, 5, 25, 25), plain(2, 2, 2, 58, 38)]
    for at_border, ids in ((False, {2}), (True, {1, 2})):
        pool = PasteOcclusion(at_border=at_border).pool([{"height": 40, "width": 60, "annotations": annotations}])
        drawn = [pool.draw(np.random.default_rng(seed), lambda record: IMAGE) for seed in range(20)]
        assert {one["id"] for _, one in filter(None, drawn)} == ids


def test_pool_counts_what_may_be_pasted():
    hidden = {**SCENE[0], "covered": 0.4}
    records = [{"annotations": [SCENE[0], hidden, {**SCENE[0], "iscrowd": 1}]}]
    pool = PasteOcclusion().pool(records)
    assert isinstance(pool, CutoutPool)
    assert len(pool) == 1
    assert len(PasteOcclusion(most_covered=0.5).pool(records)) == 2
