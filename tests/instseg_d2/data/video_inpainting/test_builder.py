"""Sets are the same twice, whatever order the files are in, and their masks add up."""

import json
import pickle
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from instseg_d2.data import DatasetError
from instseg_d2.data.media import load_image
from instseg_d2.data.video_inpainting import builder
from instseg_d2.data.video_inpainting.builder import VOIBuild, plan_voi, write_voi_set
from instseg_d2.data.video_inpainting.keys import split_of
from instseg_d2.data.video_inpainting.occlusion import OcclusionRules
from instseg_d2.data.video_inpainting.sources import PaletteMasks, YouTubeVIS
from instseg_d2.data.video_inpainting.tracks import TrackRules
from instseg_d2.data.video_inpainting.voi import check_track, read_voi

REAL = Path(__file__).resolve().parents[5] / "shared/data/video_multiobj"


def hashes(content):
    return {row["folder"]: row["sha256"] for row in content["tracks"]}


def test_masks_add_up_and_hash_as_the_manifest_says(built):
    folder, _ = built
    tracks = read_voi(folder)
    assert len(tracks) >= 8
    assert [problem for track in tracks for problem in check_track(track)] == []
    for track in tracks[:3]:
        for frame in range(len(track)):
            masks = track.masks(frame)
            assert (masks["occ_mask"] | masks["remain_mask"] == masks["full_mask"]).all()
            assert not (masks["occ_mask"] & masks["remain_mask"]).any()
            assert (masks["occ_mask"] == masks["full_mask"] & masks["occ_mask_full"]).all()


def test_manifest_counts_what_is_written(built, manifest):
    folder, report = built
    content = manifest(folder)
    rows = content["tracks"]
    assert sum(report.tracks.values()) == len(rows)
    assert sum(report.frames.values()) == sum(len(row["files"]) for row in rows)
    assert sum(report.degrees.values()) == sum(report.families.values()) == sum(report.motions.values()) == len(rows)
    rules = OcclusionRules()
    for row, track in zip(rows, read_voi(folder), strict=True):
        shares = []
        for frame in range(len(track)):
            masks = track.masks(frame)
            shares.append(masks["occ_mask"].sum() / masks["full_mask"].sum())
        np.testing.assert_allclose(row["covered"], shares, atol=1e-4)
        assert row["degree"] == rules.bin_of(np.mean(shares))
        assert row["split"] == split_of(row["video"]) == track.split
    assert "mean hidden share" in str(report)
    assert {category["name"] for category in content["categories"]} == {row["category"] for row in rows}


def test_same_seed_same_hashes_in_any_order(built, build, occvideo_set, tmp_path, manifest):
    folder, _ = built
    content = json.loads((occvideo_set / "ytvis/annotations.json").read_text())
    rng = np.random.default_rng(0)
    for key in ("videos", "annotations", "categories"):
        content[key] = [content[key][place] for place in rng.permutation(len(content[key]))]
    (tmp_path / "shuffled.json").write_text(json.dumps(content))
    shuffled = YouTubeVIS("occvideo", tmp_path / "shuffled.json", occvideo_set / "ytvis/JPEGImages")
    write_voi_set(tmp_path / "again", replace(build, source=shuffled, appearance=False), progress=False)
    assert hashes(manifest(tmp_path / "again")) == hashes(manifest(folder))
    assert not list((tmp_path / "again").rglob("occluder"))


def test_other_seeds_and_variants_differ(built, build, tmp_path, manifest):
    folder, _ = built
    write_voi_set(tmp_path / "two", replace(build, variants=2, appearance=False), progress=False)
    before, two = hashes(manifest(folder)), hashes(manifest(tmp_path / "two"))
    assert before.items() <= two.items()
    name = next(iter(before))
    assert two[f"{name}_1"]["full_mask"] == before[name]["full_mask"]
    assert two[f"{name}_1"]["occ_mask"] != before[name]["occ_mask"]
    write_voi_set(tmp_path / "other", replace(build, seed=2, appearance=False), progress=False)
    other = hashes(manifest(tmp_path / "other"))
    assert all(other[key]["occ_mask"] != before[key]["occ_mask"] for key in other.keys() & before.keys())


def test_work_can_be_handed_to_processes_in_any_order(palette, tmp_path, manifest, monkeypatch):
    build = VOIBuild(source=PaletteMasks("davis", palette()), targets=TrackRules(frames=4), appearance=False)
    write_voi_set(tmp_path / "here", build, progress=False)

    def elsewhere(task, count, workers):
        """What a process gets and gives is pickled, and it knows nothing of the others."""
        done = {}
        for number in reversed(range(count)):
            builder._targets.cache_clear()
            done[number] = pickle.loads(pickle.dumps(pickle.loads(pickle.dumps(task))(number)))
        return [done[number] for number in range(count)]

    monkeypatch.setattr(builder, "run_all", elsewhere)
    write_voi_set(tmp_path / "there", build, workers=2, progress=False)
    assert manifest(tmp_path / "here") == manifest(tmp_path / "there")


def test_golden_hash(palette, tmp_path, manifest):
    """Raise GENERATOR_VERSION when this changes."""
    build = VOIBuild(source=PaletteMasks("davis", palette()), targets=TrackRules(frames=4), appearance=False)
    write_voi_set(tmp_path / "set", build, progress=False)
    found = {row["folder"]: row["sha256"]["occ_mask_full"][:12] for row in manifest(tmp_path / "set")["tracks"]}
    assert found == GOLDEN


GOLDEN = {
    "tracks/a/1": "f4bbde2928ad",
    "tracks/a/2": "ff5426f3b5a8",
    "tracks/b/1": "dfac95b8d5ac",
    "tracks/b/2": "50cae10c6be8",
}


def test_another_object_brings_its_own_pixels_and_comes_from_the_same_split(built, manifest):
    folder, _ = built
    rows = [row for row in manifest(folder)["tracks"] if row["family"] == "track"]
    assert rows
    tracks = {track.folder: track for track in read_voi(folder)}
    for row in rows[:3]:
        track = tracks[folder / row["folder"]]
        occluder = cv2.imread(str(track.folder / "occluder" / f"{track.stems[4]}.png"), cv2.IMREAD_UNCHANGED)
        assert (occluder[..., 3] == np.where(track.masks(4)["occ_mask_full"], 255, 0)).all()


def test_frames_differ_from_the_clean_ones_under_the_occluder_alone(built):
    track = read_voi(built[0])[0]
    frame = int(np.argmax([track.masks(t)["occ_mask"].sum() for t in range(len(track))]))
    clean, masks = track.clean(frame), track.masks(frame)
    assert (clean == load_image(track.files[frame])).all()
    changed = (track.observed(frame) != clean).any(axis=2)
    assert changed.any()
    assert not (changed & ~masks["occ_mask_full"]).any()
    hole = track.observed(frame, "hole")
    assert (hole[masks["occ_mask"]] == 128).all()
    assert (hole[~masks["occ_mask"]] == clean[~masks["occ_mask"]]).all()


def test_pictures_for_other_programs(palette, tmp_path):
    source = PaletteMasks("davis", palette(videos=["a"]))
    build = VOIBuild(source=source, targets=TrackRules(frames=4), renderings=("composite", "hole"))
    report = write_voi_set(tmp_path / "set", build, progress=False)
    for track in read_voi(tmp_path / "set"):
        for rendering in ("composite", "hole"):
            picture = load_image(track.folder / rendering / f"{track.stems[2]}.png")
            assert (picture == track.observed(2, rendering)).all()
    # One video alone: no other track may hide its objects.
    assert report.alone == 2
    assert "no other object hides them" in str(report)
    assert report.families["track"] == 0


def test_plan_writes_nothing_and_counts_targets(build, built, tmp_path):
    plan = plan_voi(replace(build, variants=3))
    assert sum(plan.tracks.values()) >= 3 * sum(built[1].tracks.values())
    assert plan.degrees == {}
    assert "left out" in str(plan) or not plan.rejected


def test_what_cannot_be_built(build, palette, tmp_path):
    with pytest.raises(DatasetError, match=r"no track of occvideo can be a target \(.* too few frames in a row"):
        write_voi_set(tmp_path / "a", replace(build, targets=TrackRules(frames=99)), progress=False)
    impossible = OcclusionRules(degrees=(0.5, 0.55), most=0.56, frames_hidden=1.0, motions=(0, 0, 1), tries=1)
    source = PaletteMasks("davis", palette(videos=["a"]))
    with pytest.raises(DatasetError, match="none of 2 targets could be hidden"):
        write_voi_set(
            tmp_path / "b",
            VOIBuild(source=source, targets=TrackRules(frames=4), occlusions=impossible),
            progress=False,
        )
    assert not (tmp_path / "a").exists()
    assert not (tmp_path / "b").exists()
    for wrong in (
        {"variants": 0},
        {"seed": -1},
        {"renderings": ("x",)},
        {"appearance": False, "renderings": ("hole",)},
    ):
        with pytest.raises(DatasetError):
            replace(build, **wrong)


def test_foreign_folder_is_not_overwritten(build, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("years of work")
    with pytest.raises(DatasetError, match="not written by this generator"):
        write_voi_set(tmp_path / "mine", build, overwrite=True, progress=False)
    assert (tmp_path / "mine/thesis.txt").exists()


@pytest.mark.skipif(not REAL.is_dir(), reason="the small real videos are not on this machine")
def test_real_videos(tmp_path):
    source = YouTubeVIS("real", REAL / "annotations/ytvis_train.json", REAL / "JPEGImages")
    rules = TrackRules(frames=15, area=(0.005, 0.9), area_ratio=20, at_border=1.0)
    plan = plan_voi(VOIBuild(source=source, targets=rules))
    assert plan.classes.keys() <= {"person", "backpack", "penguin"}
    assert sum(plan.tracks.values()) + sum(plan.rejected.values()) == 12
    small = replace(rules, area=(0.03, 0.9))
    build = VOIBuild(source=source, targets=small, appearance=False)
    report = write_voi_set(tmp_path / "set", build, progress=False)
    assert sum(report.tracks.values()) >= 1
    assert [problem for track in read_voi(tmp_path / "set") for problem in check_track(track)] == []
