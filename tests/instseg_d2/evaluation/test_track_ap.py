import contextlib
import copy
import io
import json
import math

import numpy as np
import pytest
from pycocotools import mask as mask_util

from instseg_d2.data.synthetic.video_formats import run_lengths
from instseg_d2.evaluation.track_ap import TRACK_METRICS, track_ap, track_ious
from instseg_d2.evaluation.video_selection import VideoSelection

BOX, ELSEWHERE = (10, 10, 30, 20), (40, 30, 60, 40)  # 200 pixels each
THRESHOLDS = np.linspace(0.5, 0.95, 10)


def test_iou_by_hand(tracks):
    found = [tracks.masks([BOX, BOX, None, None]), tracks.masks([None, None, None, ELSEWHERE])]
    shifted = (20, 10, 40, 20)  # shares 100 pixels with BOX
    truth = [tracks.masks([BOX, shifted, BOX, None]), tracks.masks([None] * 4)]
    # 200 + 100 of 200 + 300 + 200; nothing in common; nothing at all on one side
    np.testing.assert_allclose(track_ious(found, truth), [[300 / 700, 0], [0, 0]], rtol=0, atol=1e-15)
    nothing = tracks.masks([None, (5, 5, 5, 9)])
    assert track_ious([nothing], [nothing]).tolist() == [[0.0]]
    assert track_ious([], truth).shape == (0, 2)
    assert track_ious(found, []).shape == (2, 0)


def test_perfect_tracks(tracks):
    scene = tracks(4, 2)
    for video, boxes in ((1, [BOX, BOX, None, BOX]), (2, [ELSEWHERE, BOX])):
        scene.annotate(boxes, video=video)
        scene.find(boxes, video=video)
    figures = track_ap(scene.results, scene.truth)
    assert tuple(figures)[: len(TRACK_METRICS)] == TRACK_METRICS
    expected = {"AP": 100, "AP50": 100, "AP75": 100, "APs": 100, "AR1": 100, "AR10": 100, "AP-cup": 100}
    assert {name: figures[name] for name in expected} == pytest.approx(expected)
    # no track is of these sizes or categories
    assert all(math.isnan(figures[name]) for name in ("APm", "APl", "AP-pear", "AP-leaf"))


def test_switch_of_identity(tracks):
    """Each half overlaps the object by 2 of 4 frames, and only one may be its match: right at 0.5 alone."""
    scene = tracks(4)
    scene.annotate([BOX] * 4)
    scene.find([BOX, BOX, None, None], score=0.9)
    scene.find([None, None, BOX, BOX], score=0.8)
    figures = track_ap(scene.results, scene.truth)
    expected = {"AP": 10, "AP50": 100, "AP75": 0, "AR1": 10, "AR10": 10}
    assert {name: figures[name] for name in expected} == pytest.approx(expected)


def test_missed_frame(tracks):
    """An IoU of 3 / 4 is enough for the thresholds 0.5, 0.55, ..., 0.75: 6 of 10."""
    scene = tracks(4)
    scene.annotate([BOX] * 4)
    scene.find([BOX, None, BOX, BOX])
    figures = track_ap(scene.results, scene.truth)
    expected = {"AP": 60, "AP50": 100, "AP75": 100, "AR1": 60, "AR10": 60}
    assert {name: figures[name] for name in expected} == pytest.approx(expected)


def test_duplicate(tracks):
    """The second best is false. Precision is 1 up to recall 0.5, of 51 recalls, and 2/3 at the 50 beyond."""
    scene = tracks(2)
    scene.annotate([BOX, BOX])
    scene.annotate([ELSEWHERE, ELSEWHERE])
    scene.find([BOX, BOX], score=0.9)
    scene.find([BOX, BOX], score=0.8)
    scene.find([ELSEWHERE, ELSEWHERE], score=0.7)
    figures = track_ap(scene.results, scene.truth)
    expected = {"AP": 100 * (51 + 50 * 2 / 3) / 101, "AR1": 50, "AR10": 100}
    assert {name: figures[name] for name in expected} == pytest.approx(expected)


def test_nothing_found_and_nothing_to_find(tracks):
    scene = tracks(2)
    scene.annotate([BOX, BOX])
    figures = track_ap([], scene.truth)
    assert {name: figures[name] for name in ("AP", "AP50", "APs", "AR1", "AR10", "AP-cup")} == dict.fromkeys(
        ("AP", "AP50", "APs", "AR1", "AR10", "AP-cup"), 0
    )
    scene.find([BOX, BOX], category=8)
    figures = track_ap(scene.results, scene.truth)
    assert (figures["AP"], figures["AP-cup"]) == (0, 0)
    assert math.isnan(figures["AP-pear"])
    scene.truth["annotations"].clear()
    assert all(math.isnan(value) for value in track_ap(scene.results, scene.truth).values())


def test_crowds_are_ignored_and_match_any_number(tracks):
    scene = tracks(2)
    scene.annotate([BOX, BOX], iscrowd=1)
    scene.annotate([ELSEWHERE, ELSEWHERE])
    scene.find([BOX, BOX], score=0.9)
    scene.find([BOX, BOX], score=0.8)
    scene.find([ELSEWHERE, ELSEWHERE], score=0.7)
    assert track_ap(scene.results, scene.truth)["AP"] == pytest.approx(100)


def test_sizes_are_means_over_the_frames_with_a_mask(tracks):
    """128 x 128 pixels are both small and medium: limits belong to both sides."""
    scene = tracks(3)
    for video in scene.truth["videos"]:
        video.update(height=300, width=300)

    def masks(*sides):
        made = []
        for side in sides:
            mask = np.zeros((300, 300), np.uint8, order="F")
            mask[:side, :side] = 1
            made.append(mask_util.encode(mask) if side else None)
        return [one and {"size": one["size"], "counts": one["counts"].decode()} for one in made]

    def with_sides(*sides):
        scene.truth["annotations"] = [{"id": 1, "video_id": 1, "category_id": 3, "segmentations": masks(*sides)}]
        scene.results = [{"video_id": 1, "category_id": 3, "score": 0.5, "segmentations": masks(*sides)}]
        figures = track_ap(scene.results, scene.truth)
        return [name for name in ("APs", "APm", "APl") if figures[name] == pytest.approx(100)]

    assert with_sides(127, 0, 0) == ["APs"]
    assert with_sides(128, 0, 128) == ["APs", "APm"]
    assert with_sides(0, 256, 0) == ["APm", "APl"]
    assert with_sides(300, 0, 300) == ["APl"]


def test_only_the_best_hundred_count(tracks):
    scene = tracks(1)
    scene.annotate([BOX])
    for _ in range(100):
        scene.find([ELSEWHERE], score=0.9)
    scene.find([BOX], score=0.1)
    assert track_ap(scene.results, scene.truth)["AP"] == 0
    scene.results.pop(0)
    assert track_ap(scene.results, scene.truth)["AP"] == pytest.approx(1)


def test_the_second_half_alone(tracks):
    scene = tracks(4, 4)
    scene.annotate([BOX] * 4)
    scene.annotate([BOX, BOX, None, None], category=8)  # takes no part in the second half
    scene.annotate([BOX] * 4, video=2)
    scene.find([ELSEWHERE, ELSEWHERE, BOX, BOX])
    scene.find([ELSEWHERE, ELSEWHERE, None, None], score=0.99)  # nor does this
    whole, half = (
        track_ap(scene.results, scene.truth, VideoSelection((first, 1), videos=["clip1"])) for first in (0, 0.5)
    )
    assert (whole["AP"], half["AP"]) == pytest.approx((0, 100))
    assert math.isnan(half["AP-pear"])
    assert track_ap(scene.results, scene.truth, VideoSelection((0.5, 1)))["AR1"] == pytest.approx(50)


def random_volumes(seed, videos=5, frames=4, size=(200, 300)):
    """Objects of all sizes that come and go, tracks near them with many equal scores, false ones, crowds.

    Returns:
        Annotations (video, category, crowd, volume) and tracks (video, category, score, volume); a volume is
        (T, H, W) bool.
    """
    rng = np.random.default_rng(seed)

    def volume(corner, extent, jitter=0):
        made = np.zeros((frames, *size), dtype=bool)
        for mask in made:
            moved = np.clip(corner + rng.integers(-jitter, jitter + 1, 2), 0, None)
            mask[moved[0] : moved[0] + extent[0], moved[1] : moved[1] + extent[1]] = rng.random() < 0.85
        return made

    truth, found = [], []
    for video in range(1, videos + 1):
        for _ in range(rng.integers(1, 6)):
            extent = rng.integers(10, size) if rng.random() < 0.5 else rng.integers(10, 110, 2)
            corner = rng.integers(0, np.array(size) - extent + 1)
            category, crowd, shown = int(rng.integers(1, 4)), int(rng.random() < 0.2), volume(corner, extent)
            if not shown.any():
                continue
            truth.append((video, category, crowd, shown))
            for _ in range(1 if crowd else rng.integers(0, 4)):
                near = shown if rng.random() < 0.3 else volume(corner, extent, jitter=8)
                found.append((video, category if rng.random() < 0.9 else int(rng.integers(1, 4)), score(rng), near))
        found.append(
            (video, int(rng.integers(1, 4)), score(rng), volume(np.array((5, 5)), rng.integers(10, 190, 2), 5))
        )
    rng.shuffle(found)
    return truth, found


def score(rng):
    return float(rng.choice([0.3, 0.5, 0.7, rng.random()]))


def as_files(truth, found):
    """What `random_volumes` gives, as the two files of YouTube-VIS."""
    frames, height, width = truth[0][-1].shape
    videos = {video for video, *_ in (*truth, *found)}

    def compressed(mask):
        encoded = mask_util.encode(np.asfortranarray(mask.astype(np.uint8)))
        return {"size": encoded["size"], "counts": encoded["counts"].decode()}

    def entry(video, category, volume, encode):
        masks = [encode(mask) if mask.any() else None for mask in volume]
        return {"video_id": video, "category_id": category, "segmentations": masks}

    annotations = [
        {
            **entry(video, category, volume, run_lengths),
            "id": number,
            "iscrowd": crowd,
            "height": height,
            "width": width,
            "areas": [int(mask.sum()) or None for mask in volume],
        }
        for number, (video, category, crowd, volume) in enumerate(truth, start=1)
    ]
    content = {
        "videos": [
            {"id": key, "height": height, "width": width, "file_names": [f"v{key}/{at}.jpg" for at in range(frames)]}
            for key in sorted(videos)
        ],
        "categories": [{"id": number, "name": f"c{number}"} for number in range(1, 4)],
        "annotations": annotations,
    }
    results = [
        {**entry(video, category, volume, compressed), "score": value} for video, category, value, volume in found
    ]
    return content, results


def outside(volume, area):
    shown = volume.sum(axis=(1, 2))
    return not area[0] <= (shown[shown > 0].mean() if shown.any() else 0) <= area[1]


def iou_of(one, other, computed):
    key = id(one), id(other)
    if key not in computed:
        union = (one | other).sum()
        computed[key] = (one & other).sum() / union if union else 0
    return computed[key]


def judged(known, found, ious, threshold, area):
    """(score, right) of the tracks of one video and category that count, one comparison at a time."""
    ignored = [bool(crowd) or outside(volume, area) for *_, crowd, volume in known]
    taken, curve = set(), []
    for *_, value, volume in found:
        best, best_iou = None, threshold
        for number in sorted(range(len(known)), key=ignored.__getitem__):
            if (number in taken and not known[number][2]) or (best is not None and ignored[best] < ignored[number]):
                continue
            iou = iou_of(volume, known[number][3], ious)
            if iou >= best_iou:
                best, best_iou = number, iou
        taken.add(best)
        if not (outside(volume, area) if best is None else ignored[best]):
            curve.append((value, best is not None))
    return curve, ignored.count(False)


def by_pixels(truth, found, ious, threshold, area=(0, 1e10), most=100):
    """AP and AR in percent by another way: volumes of pixels, and the formula of precision at each recall."""
    precisions, recalls = [], []
    for category in range(1, 4):
        curve, objects = [], 0
        for video in sorted({one[0] for one in truth}):
            of_video = [[one for one in all_ if one[:2] == (video, category)] for all_ in (truth, found)]
            of_video[1] = sorted(of_video[1], key=lambda one: -one[2])[:most]
            part, count = judged(*of_video, ious, threshold, area)
            curve += part
            objects += count
        if objects:
            right = np.cumsum([hit for _, hit in sorted(curve, key=lambda one: -one[0])] or [0])
            reached = [(hits / at, hits / objects) for at, hits in enumerate(right, start=1)]
            levels = np.linspace(0, 1, 101)
            precisions.append(np.mean([max((p for p, r in reached if r >= level), default=0) for level in levels]))
            recalls.append(right[-1] / objects)
    return 100 * np.mean(precisions or np.nan), 100 * np.mean(recalls or np.nan)


def test_equals_a_second_implementation():
    volumes = random_volumes(0)
    truth, results = as_files(*volumes)
    volumes = (*volumes, {})
    figures = track_ap(results, truth)
    expected = {"AP50": by_pixels(*volumes, 0.5)[0], "AP75": by_pixels(*volumes, 0.75)[0]}
    areas = {"APs": (0, 128**2), "APm": (128**2, 256**2)}
    of_sizes = {name: [by_pixels(*volumes, value, area)[0] for value in THRESHOLDS] for name, area in areas.items()}
    expected |= {name: np.mean(values) for name, values in of_sizes.items()}
    for most in (1, 10):
        expected[f"AR{most}"] = np.mean([by_pixels(*volumes, value, most=most)[1] for value in THRESHOLDS])
    assert {name: figures[name] for name in expected} == pytest.approx(expected)
    assert all(0 < value < 100 for value in expected.values())


def reference(results, truth, folder):
    """trackeval's figures. It takes detection 0 for no match at all, hence its first number is made 1."""
    trackeval = pytest.importorskip("trackeval")
    (folder / "gt" / "youtube_vis_x").mkdir(parents=True)
    (folder / "found" / "youtube_vis_x" / "a" / "data").mkdir(parents=True)
    (folder / "gt" / "youtube_vis_x" / "truth.json").write_text(json.dumps(truth))
    (folder / "found" / "youtube_vis_x" / "a" / "data" / "found.json").write_text(json.dumps(results))
    quiet = dict.fromkeys(
        ("PRINT_RESULTS", "PRINT_CONFIG", "TIME_PROGRESS", "OUTPUT_SUMMARY", "OUTPUT_DETAILED", "PLOT_CURVES"), False
    )
    figures = {}
    for most in (1, 10, 100):
        with contextlib.redirect_stdout(io.StringIO()):
            places = {"GT_FOLDER": f"{folder}/gt/", "TRACKERS_FOLDER": f"{folder}/found/", "SPLIT_TO_EVAL": "x"}
            dataset = trackeval.datasets.YouTubeVIS({**places, "PRINT_CONFIG": False})
            dataset.global_tid_counter = 1
            metric = trackeval.metrics.TrackMAP(
                {
                    "AREA_RANGES": [[0, 128**2], [128**2, 256**2], [256**2, 1e10]],
                    "USE_TIME_RANGES": False,
                    "MAX_DETECTIONS": most,
                    "IOU_THRESHOLDS": THRESHOLDS,
                    "PRINT_CONFIG": False,
                }
            )
            found, _ = trackeval.Evaluator({"USE_PARALLEL": False, **quiet}).evaluate([dataset], [metric])
        mean = found["YouTubeVIS"]["a"]["COMBINED_SEQ"]["cls_comb_cls_av"]["TrackMAP"]
        if most < 100:
            figures[f"AR{most}"] = mean["AR_all"].mean()
            continue
        figures |= {"AP": mean["AP_all"].mean(), "AP50": mean["AP_all"][0], "AP75": mean["AP_all"][5]}
        figures |= {f"AP{size}": mean[f"AP_area_{size}"].mean() for size in "sml"}
    return {name: 100 * value if value >= 0 else float("nan") for name, value in figures.items()}


@pytest.mark.parametrize("seed", range(3))
def test_equals_trackeval(seed, tmp_path):
    """With scores that are equal, crowds and frames without masks; a crowd has one track near it.

    Of several, trackeval calls all but one false, unlike the evaluation of YouTube-VIS.
    """
    truth, results = as_files(*random_volumes(seed))
    expected = reference(copy.deepcopy(results), copy.deepcopy(truth), tmp_path)
    figures = track_ap(results, truth)
    np.testing.assert_allclose([figures[name] for name in TRACK_METRICS], [expected[name] for name in TRACK_METRICS])
    assert sum(not math.isnan(value) and 0 < value < 100 for value in expected.values()) >= 6
