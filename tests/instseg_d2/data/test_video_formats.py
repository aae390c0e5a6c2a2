import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from pycocotools import mask as mask_util

from instseg_d2.data.synthetic import CATEGORIES, Scene, render
from instseg_d2.data.synthetic.folders import encode_png
from instseg_d2.data.synthetic.video import composite, occvideo
from instseg_d2.data.synthetic.video_formats import (
    VOI_MASKS,
    mots_bitmask,
    run_lengths,
    scalabel_frame,
    shown,
    voi_masks,
    voi_tracks,
    write_flow,
    write_layers,
    write_mots,
    write_voi,
    write_ytvis,
    ytvis_records,
)

SAMPLES = Path(__file__).resolve().parents[4] / "shared/data/label_samples/bdd100k"


@pytest.fixture(scope="module")
def video():
    # Two of its six objects are hidden altogether for a time, one leaves the frame and returns.
    return occvideo(0, 4, frames=16, size=96)


@pytest.fixture(scope="module")
def frames(video):
    return [encode_png(image) for image in video.images]


def decoded(segmentation):
    return np.asarray(mask_util.decode([mask_util.frPyObjects(segmentation, *segmentation["size"])]))[..., 0] > 0


def test_run_lengths_by_hand():
    # Columns: (0, 1), (1, 1), (0, 0).
    mask = np.array([[0, 1, 0], [1, 1, 0]], dtype=bool)
    assert run_lengths(mask) == {"size": [2, 3], "counts": [1, 3, 2]}
    assert run_lengths(~mask) == {"size": [2, 3], "counts": [0, 1, 3, 2]}
    assert run_lengths(np.zeros((2, 3), bool))["counts"] == [6]
    assert run_lengths(np.ones((2, 3), bool))["counts"] == [0, 6]


def test_run_lengths_are_read_by_pycocotools():
    rng = np.random.default_rng(0)
    for share in (0.02, 0.5, 0.97):
        mask = rng.random((13, 9)) < share
        np.testing.assert_array_equal(decoded(run_lengths(mask)), mask)


def test_ytvis_masks_are_the_visible_ones(video):
    record, annotations = ytvis_records(4, video)
    assert record["id"] == 5
    assert record["length"] == len(record["file_names"]) == 16
    assert record["file_names"][:2] == ["video_0004/00000.png", "video_0004/00001.png"]
    assert {annotation["video_id"] for annotation in annotations} == {5}
    assert len({annotation["id"] for annotation in annotations}) == len(annotations)
    assert [annotation["depth"] for annotation in annotations] == sorted(a["depth"] for a in annotations)
    seen = shown(video)
    assert len(annotations) == seen.any(axis=0).sum()
    for annotation in annotations:
        number = video.number(annotation["instance_id"])
        assert annotation["category_id"] == video.categories[number] + 1
        assert (annotation["width"], annotation["height"], annotation["iscrowd"]) == (96, 96, 0)
        for frame in range(16):
            entries = [annotation[key][frame] for key in ("segmentations", "bboxes", "areas")]
            assert [entry is None for entry in entries] == [not seen[frame, number]] * 3
            if seen[frame, number]:
                np.testing.assert_array_equal(decoded(entries[0]), video.visible[frame, number])
                encoded = mask_util.encode(np.asfortranarray(video.visible[frame, number], dtype=np.uint8))
                assert entries[1] == mask_util.toBbox(encoded).tolist()
                assert entries[2] == mask_util.area(encoded)
            whole, covered = annotation["amodal_segmentations"][frame], annotation["covered"][frame]
            assert (whole is None) == (covered is None) == (not video.amodal[frame, number].any())
            if whole is not None:
                np.testing.assert_array_equal(decoded(whole), video.amodal[frame, number])
                assert covered == pytest.approx(video.covered[frame, number], abs=1e-4)


def test_a_track_goes_on_after_a_gap(video):
    _, annotations = ytvis_records(0, video)
    hidden = left = 0
    for annotation in annotations:
        present = [mask is not None for mask in annotation["segmentations"]]
        first, last = present.index(True), 15 - present[::-1].index(True)
        gap = [frame for frame in range(first, last) if not present[frame]]
        hidden += any((annotation["covered"][frame] or 0) > 0.9 for frame in gap)
        left += any(annotation["amodal_segmentations"][frame] is None for frame in gap)
    assert hidden >= 1
    assert left >= 1


def test_json_and_frames_of_ytvis(video, frames, tmp_path):
    record, annotations = write_ytvis(tmp_path, 0, video, frames)
    assert json.loads(json.dumps(annotations)) == annotations
    for frame, name in enumerate(record["file_names"]):
        np.testing.assert_array_equal(cv2.imread(str(tmp_path / "JPEGImages" / name)), video.images[frame])


def test_bitmask_holds_category_flags_and_id(video):
    seen = shown(video)
    for frame in (0, 7, 15):
        red, green, blue, alpha = mots_bitmask(video, frame).astype(int).transpose(2, 0, 1)
        identity = (blue << 8) + alpha
        assert set(np.unique(identity)) - {0} == set(video.ids[seen[frame]])
        for number in np.flatnonzero(seen[frame]):
            mask = identity == video.ids[number]
            np.testing.assert_array_equal(mask, video.visible[frame, number])
            assert (red[mask] == video.categories[number] + 1).all()
            flags = np.unique(green[mask])
            assert len(flags) == 1
            # Drawn on a larger canvas, the object shows whether the frame cuts it.
            item = video.plan.objects[number][frame]
            moved = replace(item, center=(item.center[0] + 50, item.center[1] + 50))
            whole = render(Scene(196, 196, (moved,), item.look)).amodal[0]
            cut = whole.sum() > whole[50:-50, 50:-50].sum()
            assert flags[0] in ([8, 12] if cut else [0, 4, 8, 12])
            assert bool(flags[0] & 4) == (video.covered[frame, number] >= 0.05)
        assert (red[identity == 0] == 0).all()


def test_an_object_well_inside_is_not_truncated(video):
    for number, states in enumerate(video.plan.objects):
        for frame, item in enumerate(states):
            box = np.concatenate([item.center, 96 - np.array(item.center)])
            if shown(video)[frame, number] and (box > 2.2 * item.radius).all():
                green = mots_bitmask(video, frame)[..., 1]
                assert (green[video.visible[frame, number]] & 8 == 0).all()
                return
    pytest.fail("no object lies well inside")


def test_ids_beyond_one_byte(video):
    plan = replace(video.plan, ids=tuple(300 + identity for identity in video.plan.ids))
    far = replace(video, plan=plan, ids=video.ids + 300)
    bitmask = mots_bitmask(far, 0).astype(int)
    identity = (bitmask[..., 2] << 8) + bitmask[..., 3]
    assert set(np.unique(identity)) - {0} == set(far.ids[shown(far)[0]])


def test_files_of_bdd100k(video, frames, tmp_path):
    write_mots(tmp_path, 2, video, frames)
    content = json.loads((tmp_path / "rles/video_0002.json").read_text())["frames"]
    assert len(content) == 16
    for number, frame in enumerate(content):
        assert frame["name"] == f"video_0002-{number + 1:07d}.png"
        assert (frame["videoName"], frame["frameIndex"]) == ("video_0002", number)
        image = cv2.imread(str(tmp_path / "images/video_0002" / frame["name"]))
        np.testing.assert_array_equal(image, video.images[number])
        bgra = cv2.imread(str(tmp_path / "bitmasks/video_0002" / frame["name"]), cv2.IMREAD_UNCHANGED).astype(int)
        identity = (bgra[..., 0] << 8) + bgra[..., 3]
        assert len(frame["labels"]) == len(np.unique(identity)) - 1
        for label in frame["labels"]:
            mask = mask_util.decode(label["rle"]).astype(bool)
            np.testing.assert_array_equal(mask, identity == int(label["id"]))
            assert label["category"] == CATEGORIES[bgra[..., 2][mask][0] - 1].name
            flags = bgra[..., 1][mask][0]
            assert label["attributes"] == {
                "crowd": False,
                "occluded": bool(flags & 4),
                "truncated": bool(flags & 8),
            }


@pytest.mark.skipif(not SAMPLES.is_dir(), reason="the samples of BDD100K lie outside the project")
def test_structure_is_that_of_bdd100k(video):
    sample = json.loads((SAMPLES / "seg_track_sample.json").read_text())[0]
    ours = scalabel_frame(0, video, 0)
    for one, other in ((ours, sample), (ours["labels"][0], sample["labels"][0])):
        for key, value in one.items():
            assert type(value) is type(other[key]), key
    assert ours["labels"][0]["attributes"].keys() == sample["labels"][0]["attributes"].keys()
    assert ours["labels"][0]["rle"].keys() == sample["labels"][0]["rle"].keys()
    bitmask = cv2.imread(str(SAMPLES / "bitmask_tests/to_rle_seg_track_masks_0_0-1.png"), cv2.IMREAD_UNCHANGED)
    mine = cv2.imdecode(
        np.frombuffer(encode_png(cv2.cvtColor(mots_bitmask(video, 0), cv2.COLOR_RGBA2BGRA)), np.uint8),
        cv2.IMREAD_UNCHANGED,
    )
    assert (bitmask.dtype, bitmask.shape[2]) == (mine.dtype, mine.shape[2])


def test_voi_masks_are_disjoint_and_complete(video):
    tracks = voi_tracks(0, video)
    assert len(tracks) >= 3
    for track in tracks:
        number = video.number(track["id"])
        assert track["category"] == CATEGORIES[track["category_id"] - 1].name
        assert track["occluders"]
        for frame in range(16):
            masks = voi_masks(video, frame, track["id"])
            assert tuple(masks) == VOI_MASKS
            full, hidden, occluder, remain = masks.values()
            np.testing.assert_array_equal(full, video.amodal[frame, number])
            np.testing.assert_array_equal(remain, video.visible[frame, number])
            np.testing.assert_array_equal(hidden, full & occluder)
            np.testing.assert_array_equal(hidden | remain, full)
            assert not (hidden & remain).any()
            union = np.zeros_like(full)
            for other in track["occluders"]:
                union |= video.amodal[frame, video.number(other)]
            np.testing.assert_array_equal(occluder, union)


def test_objects_that_nothing_hides_make_no_track(video):
    tracks = {track["id"] for track in voi_tracks(0, video)}
    inside = video.amodal.any(axis=(2, 3))
    for number, identity in enumerate(video.ids):
        most = video.covered[inside[:, number], number].max(initial=0)
        assert (identity in tracks) == (most >= 0.05 and shown(video)[:, number].any())
    assert int(video.ids[0]) not in tracks


def test_files_of_voi(video, frames, tmp_path):
    tracks = write_voi(tmp_path, 0, video, frames, flow=False)
    np.testing.assert_array_equal(cv2.imread(str(tmp_path / "JPEGImages/video_0000/00003.png")), video.images[3])
    folder = tmp_path / "tracks/video_0000" / str(tracks[0]["id"])
    assert sorted(path.name for path in folder.iterdir()) == sorted([*VOI_MASKS, "clean"])
    masks = voi_masks(video, 3, tracks[0]["id"])
    for name in VOI_MASKS:
        assert len(list((folder / name).iterdir())) == 16
        image = cv2.imread(str(folder / name / "00003.png"), cv2.IMREAD_UNCHANGED)
        np.testing.assert_array_equal(image, masks[name] * 255)
    clean = cv2.imread(str(folder / "clean/00003.png"))
    np.testing.assert_array_equal(clean, video.without(3, tracks[0]["occluders"]))
    assert len(list((tmp_path / "tracks/video_0000").iterdir())) == len(tracks)


def test_clean_frames_and_their_flow_belong_together(video, frames, tmp_path):
    track = write_voi(tmp_path, 0, video, frames, flow=True)[0]
    folder = tmp_path / "tracks/video_0000" / str(track["id"])
    assert len(list((folder / "forward").iterdir())) == len(list((folder / "backward").iterdir())) == 15
    read = cv2.readOpticalFlow(str(folder / "forward/00004.flo"))
    np.testing.assert_array_equal(read, video.flow(4, 1, track["occluders"]))


def test_flow_files(video, tmp_path):
    write_flow(tmp_path, video)
    for step, direction, start in ((1, "forward", 0), (-1, "backward", 1)):
        files = sorted((tmp_path / direction).iterdir())
        assert [file.name for file in files] == [f"{frame:05d}.flo" for frame in range(start, start + 15)]
        read = cv2.readOpticalFlow(str(tmp_path / direction / "00007.flo"))
        assert read.dtype == np.float32
        np.testing.assert_array_equal(read, video.flow(7, step))
    # Middlebury's own layout: a float tag, width, height, then x and y of each pixel.
    raw = (tmp_path / "forward/00007.flo").read_bytes()
    assert np.frombuffer(raw[:4], "<f4") == np.float32(202021.25)
    assert np.frombuffer(raw[4:12], "<i4").tolist() == [96, 96]
    np.testing.assert_array_equal(np.frombuffer(raw[12:], "<f4").reshape(96, 96, 2), video.flow(7))


def test_written_layers_compose_to_the_frame(video, tmp_path):
    write_layers(tmp_path, video)
    for frame in (0, 9):
        background = cv2.imread(str(tmp_path / f"background/{frame:05d}.png"))
        layers = [
            cv2.imread(str(tmp_path / f"{identity}/{frame:05d}.png"), cv2.IMREAD_UNCHANGED) for identity in video.ids
        ]
        for number, layer in enumerate(layers):
            np.testing.assert_array_equal(layer[..., 3] >= 128, video.amodal[frame, number])
        # The noise of the camera is what is left, and it is known.
        rng = np.random.default_rng([video.plan.noise_seed, frame])
        noise = rng.standard_normal((96, 96, 3), dtype=np.float32) * np.float32(video.plan.noise)
        frame_again = np.clip(np.rint(composite(background, layers) + noise), 0, 255)
        np.testing.assert_array_equal(frame_again, video.images[frame])
