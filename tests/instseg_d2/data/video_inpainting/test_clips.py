import cv2
import numpy as np
import pytest
import torch
from detectron2.config import LazyCall, instantiate

from instseg_d2.data import DatasetError
from instseg_d2.data.video_inpainting.clips import (
    AS_BUILT,
    AS_PUBLISHED,
    SELF_SUPERVISED,
    Erasing,
    InpaintingClips,
    _spoil,
)
from instseg_d2.data.video_inpainting.exact import occvideo_tracks
from instseg_d2.data.video_inpainting.keys import generator_of
from instseg_d2.data.video_inpainting.voi import read_voi
from instseg_d2.inpainting.clips import check_clip, from_bytes
from instseg_d2.inpainting.flow.warp import warp


@pytest.fixture(scope="module")
def exact():
    return occvideo_tracks(videos=3, seed=1, frames=6, size=(64, 96))


def clips(tracks, **options):
    arguments = {"length": 4, "size": (64, 96), "erasing": AS_BUILT, "consecutive": 1.0, "flip": 0.0, "seed": 0}
    return InpaintingClips(tracks, **{**arguments, **options})


def batch(item, *names):
    return {name: item[name][None] for name in names}


def test_item_fits_the_conventions(exact):
    item = clips(exact, flow=True)[0]
    masks = batch(item, "visible", "complete", "hole", "eraser", "forward_flow", "backward_flow")
    check_clip(item["frames"][None], **masks)
    check_clip(item["clean"][None])
    for name in ("visible", "complete", "hole", "eraser"):
        assert set(item[name].unique().tolist()) <= {0.0, 1.0}
        assert item[name].dtype == torch.float32
    assert item["frames"].min() >= -1
    assert item["frames"].max() <= 1
    assert torch.equal(item["visible"] + item["hole"], item["complete"])
    assert item["class_index"].dtype == item["case"].dtype == torch.int64
    assert item["case"] == 1


def test_frames_are_rgb_of_the_track(exact):
    dataset = clips(exact, length=6)
    item = dataset[0]
    for time in (0, 3):
        rgb = torch.from_numpy(exact[0].observed(time)[..., ::-1].copy()).permute(2, 0, 1)
        assert torch.equal(item["frames"][time], from_bytes(rgb))
        clean = torch.from_numpy(exact[0].clean(time)[..., ::-1].copy()).permute(2, 0, 1)
        assert torch.equal(item["clean"][time], from_bytes(clean))
        assert torch.equal(item["complete"][time, 0] > 0, torch.from_numpy(exact[0].masks(time)["full_mask"]))


def test_case_2_shows_the_object_complete(exact):
    dataset = clips(exact, erasing=Erasing(behind=1.0, fills=(1, 0, 0)))
    for item in (dataset[0], dataset[1]):
        assert item["case"] == 2
        assert torch.equal(item["visible"], item["complete"])
        assert not item["hole"].any()
        assert not (item["eraser"] * item["complete"]).any()
        inside = item["complete"].expand_as(item["frames"]) > 0
        assert torch.equal(item["frames"][inside], item["clean"][inside])


def test_cases_and_fills_have_their_chances(exact):
    cases, grey = [], 0
    for seed in range(60):
        item = clips(exact, length=1, erasing=SELF_SUPERVISED, seed=seed)[seed % len(exact)]
        cases.append(int(item["case"]))
        under = item["frames"][(item["eraser"] > 0).expand_as(item["frames"])]
        grey += bool(len(under)) and bool((under == under[0]).all())
    assert 4 <= cases.count(2) <= 24  # 12 expected
    assert 5 <= grey <= 28  # 15 expected


def test_grey_and_texture_lie_in_the_eraser_alone(exact):
    for fills in ((0, 1, 0), (0, 0, 1)):
        item = clips(exact, erasing=Erasing(behind=0.0, fills=fills))[0]
        changed = (item["frames"] != item["clean"]).any(dim=1, keepdim=True).float()
        assert changed.any()
        assert not (changed * (1 - item["eraser"])).any()


def test_published_masks_give_grey_holes(built, exact):
    for tracks in (exact, read_voi(built[0])):
        item = clips(tracks, erasing=AS_PUBLISHED)[0]
        inside = item["hole"].expand_as(item["frames"]) > 0
        assert inside.any()
        assert (item["frames"][inside] == from_bytes(torch.tensor(128, dtype=torch.uint8))).all()
        assert torch.equal(item["frames"][~inside], item["clean"][~inside])
    own = clips(exact, erasing=Erasing(behind=0.0, fills=(1, 0, 0), clipped=True))[0]
    as_built = clips(exact)[0]
    assert torch.equal(own["frames"], torch.where(own["hole"] > 0, as_built["frames"], own["clean"]))


def test_lists_of_a_config_are_fine():
    clips = instantiate(
        LazyCall(InpaintingClips)(
            tracks=LazyCall(occvideo_tracks)(videos=1, seed=1, frames=6, size=[64, 96]),
            length=2,
            size=[32, 48],
            erasing=LazyCall(Erasing)(fills=[0.5, 0.25, 0.25]),
        )
    )
    assert clips[0]["frames"].shape == (2, 3, 32, 48)


def test_seed_fixes_items_and_no_seed_follows_torch(exact):
    first, second = (clips(exact, erasing=SELF_SUPERVISED, flip=0.5)[1] for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    free = clips(exact, erasing=SELF_SUPERVISED, seed=None, flip=0.5)
    torch.manual_seed(3)
    once, more = free[1], [free[1] for _ in range(4)]
    assert any(not torch.equal(once["frames"], other["frames"]) for other in more)
    torch.manual_seed(3)
    assert torch.equal(free[1]["frames"], once["frames"])


def test_clips_in_a_row_and_scattered(exact):
    dataset = clips(exact)
    for number in range(20):
        rng = generator_of(number)
        row = dataset._draw_frames(rng, 9)
        assert row == list(range(row[0], row[0] + 4))
    scattered = clips(exact, consecutive=0.0)
    drawn = [scattered._draw_frames(generator_of(number), 9) for number in range(20)]
    assert all(frames == sorted(set(frames)) and len(frames) == 4 for frames in drawn)
    assert any(np.diff(frames).max() > 1 for frames in drawn)


def test_mirror_turns_pictures_masks_and_flow(exact):
    plain, mirrored = (clips(exact, flow=True, flip=flip)[0] for flip in (0.0, 1.0))
    for name in ("frames", "clean", "complete", "eraser"):
        assert torch.equal(mirrored[name], plain[name].flip(-1))
    for name in ("forward_flow", "backward_flow"):
        x, y = plain[name].flip(-1).unbind(1)
        assert torch.equal(mirrored[name], torch.stack([-x, y], dim=1))


@pytest.mark.parametrize("size", [(64, 96), (32, 48)])
@pytest.mark.parametrize("flip", [0.0, 1.0])
def test_flow_leads_to_the_same_point(exact, size, flip):
    track = max(exact, key=lambda one: one.masks(0)["full_mask"].sum())
    item = clips([track], flow=True, size=size, flip=flip)[0]
    clean = item["clean"]
    pulled = warp(clean[1:], item["forward_flow"])
    inside = item["complete"][:-1].expand_as(pulled) > 0
    moved = (pulled - clean[:-1]).abs()[inside].mean()
    still = (clean[1:] - clean[:-1]).abs()[inside].mean()
    assert moved < 0.6 * still


def test_masks_take_the_nearest_pixel_in_another_size(exact):
    item = clips(exact, size=(32, 48))[0]
    expected = cv2.resize(exact[0].masks(0)["full_mask"].astype(np.uint8), (48, 32), interpolation=cv2.INTER_NEAREST)
    whole = clips(exact, size=(32, 48), length=6)[0]
    assert torch.equal(whole["complete"][0, 0], torch.from_numpy(expected).float())
    assert item["frames"].shape == (4, 3, 32, 48)


def test_built_set(built):
    tracks = read_voi(built[0])
    dataset = clips(tracks, erasing=SELF_SUPERVISED, length=8)
    assert dataset.tracks == [track for track in tracks if len(track) == 8]
    assert 1 < len(dataset) < len(tracks)
    item = dataset[len(dataset) - 1]
    assert int(item["class_index"]) == dataset.tracks[-1].category_index >= 0
    assert item["hole"].any() == (item["case"] == 1)
    loader = torch.utils.data.DataLoader(dataset, batch_size=2)
    assert next(iter(loader))["frames"].shape == (2, 8, 3, 64, 96)
    with pytest.raises(DatasetError, match="no forward flow"):
        clips(tracks, flow=True)[0]


def test_jitter_and_drop():
    masks = np.zeros((5, 30, 30), dtype=bool)
    masks[:, 10:20, 10:20] = True
    areas = [_spoil(generator_of(n), masks, Erasing(jitter=3)).sum(axis=(1, 2)) for n in range(40)]
    assert min(area.min() for area in areas) == 4 * 4
    assert max(area.max() for area in areas) > 14 * 14
    assert all((area == area[0]).all() for area in areas)
    dropped = [_spoil(generator_of(n), masks, Erasing(drop=0.5)).any(axis=(1, 2)) for n in range(40)]
    assert {int(seen.sum()) for seen in dropped} == {4, 5}
    # The only frame of a clip is never dropped.
    assert _spoil(generator_of(0), masks[:1], Erasing(drop=1.0)).any()


def test_one_frame(exact):
    item = clips(exact, length=1, flow=True)[0]
    assert item["frames"].shape == (1, 3, 64, 96)
    assert item["forward_flow"].shape == (0, 2, 64, 96)


def test_short_tracks(exact):
    with pytest.raises(DatasetError, match="none of .* has 9 frames, the longest has 6"):
        clips(exact, length=9)
    with pytest.raises(DatasetError, match="none of 0 tracks"):
        clips([])
    longer = occvideo_tracks(videos=1, seed=1, frames=9, size=(64, 96))
    assert len(clips([*exact, *longer], length=9)) == len(longer)


@pytest.mark.parametrize(
    "wrong", [{"length": 0}, {"flip": 2}, {"flow": True, "consecutive": 0.5}, {"size": (0, 4)}], ids=str
)
def test_wrong_arguments(exact, wrong):
    with pytest.raises(ValueError, match="must be"):
        clips(exact, **wrong)
    with pytest.raises(ValueError, match="must"):
        Erasing(fills=(1, 1, 1))
    with pytest.raises(ValueError, match="must be"):
        Erasing(behind=2)
