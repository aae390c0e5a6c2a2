from collections import Counter

import pytest
from detectron2.utils import comm
from detectron2.utils.env import seed_all_rng

from instseg_d2.data import (
    DatasetError,
    ReferenceFrames,
    VideoClips,
    WholeVideoSampler,
    build_video_test_loader,
    build_video_train_loader,
)
from instseg_d2.data.videos import video_ranges


def frame(video, index, ids=(1,), **entries):
    annotations = [{"instance_id": number, "iscrowd": 0} for number in ids]
    return {"video_id": video, "frame_index": index, "annotations": annotations, **entries}


def video(number, ids_of_frames):
    return [frame(number, index, ids) for index, ids in enumerate(ids_of_frames)]


def still(ids=2):
    return {"annotations": [{"iscrowd": 0}] * ids}


def places(sample):
    return sample["frame_index"], [reference["frame_index"] for reference in sample["references"]]


def drawn(clips, index, times=200):
    """How often each reference is drawn for one key frame."""
    seed_all_rng(1)
    return Counter(place for _ in range(times) for place in places(clips[index])[1])


def test_videos_of_joined_sets():
    records = [*video(1, [(1,)] * 3), *video(1, [(1,)] * 2), still(), still(), *video(2, [(1,)])]
    # Frames may be missing, as those that a loader has filtered out.
    records += [frame(2, 4), frame(2, 9)]
    assert video_ranges(records) == [range(3), range(3, 5), range(5, 6), range(6, 7), range(7, 10)]
    assert video_ranges([]) == []


def test_references_are_drawn_evenly_within_reach():
    clips = VideoClips(video(1, [(1,)] * 9), ReferenceFrames(reach=3))
    assert len(clips) == 9
    assert places(clips[4])[0] == 4
    counts = drawn(clips, 4, 1200)
    assert set(counts) == {1, 2, 3, 5, 6, 7}
    assert all(150 < count < 250 for count in counts.values())
    assert set(drawn(clips, 0)) == {1, 2, 3}


def test_reach_counts_frames_of_the_video():
    records = [frame(1, index) for index in (0, 2, 5, 6)]
    clips = VideoClips(records, ReferenceFrames(reach=3))
    assert set(drawn(clips, 1)) == {0, 5}
    assert set(drawn(clips, 2)) == {2, 6}


def test_without_reach_any_other_frame_with_annotations():
    clips = VideoClips(video(1, [(1,), (), (2,), (1,)]) + video(2, [(1,)] * 2), ReferenceFrames())
    assert [clips[index]["frame_index"] for index in range(len(clips))] == [0, 2, 3, 0, 1]
    assert set(drawn(clips, 0)) == {2, 3}
    assert set(drawn(clips, 3)) == {1}


def test_common_identity():
    frames = [(1,), (2,), (1, 2), (3,), ()]
    clips = VideoClips(video(1, frames), ReferenceFrames(common_identity=True))
    # Object 3 is seen once.
    assert [clips[index]["frame_index"] for index in range(len(clips))] == [0, 1, 2]
    assert [set(drawn(clips, index)) for index in range(3)] == [{2}, {2}, {0, 1}]
    near = VideoClips(video(1, frames), ReferenceFrames(common_identity=True, reach=1))
    assert [near[index]["frame_index"] for index in range(len(near))] == [1, 2]


def test_crowds_are_no_objects():
    records = video(1, [(1,), (1,), (1,)])
    records[1]["annotations"][0]["iscrowd"] = 1
    clips = VideoClips(records, ReferenceFrames())
    assert [places(clips[index]) for index in range(len(clips))] == [(0, [2]), (2, [0])]


def test_several_references_come_in_the_order_of_time():
    clips = VideoClips(video(1, [(1,)] * 6), ReferenceFrames(count=3))
    found = {tuple(places(clips[2])[1]) for _ in range(300)}
    assert found == {(a, b, c) for a in (0, 1, 3) for b in (1, 3, 4) for c in (3, 4, 5) if a < b < c}
    # With fewer frames than references some occur twice.
    short = VideoClips(video(1, [(1,)] * 3), ReferenceFrames(count=4))
    assert all(len(places(short[0])[1]) == 4 and set(places(short[0])[1]) <= {1, 2} for _ in range(20))


def test_frame_that_is_alone_refers_to_itself():
    records = [still(), *video(1, [(7,)]), *video(2, [(), (5,)]), still(0)]
    for common in (False, True):
        clips = VideoClips(records, ReferenceFrames(count=2, common_identity=common))
        assert len(clips) == 3
        for index in range(3):
            sample = clips[index]
            own = {key: value for key, value in sample.items() if key != "references"}
            assert sample["references"] == [own, own]


def test_key_and_references_are_copies_of_the_records():
    records = video(1, [(1,)] * 2)
    clips = VideoClips(records, ReferenceFrames())
    assert {**clips[0], "references": None} == {**records[0], "references": None}
    assert "references" not in records[0]


@pytest.mark.parametrize(
    ("records", "settings", "words"),
    [
        ([], {}, "none of 0 frames"),
        (video(1, [(), ()]), {}, "none of 2 frames can be trained on: it needs annotations that are no crowd"),
        (video(1, [(1,), (2,)]), {"common_identity": True}, "another frame in reach with an object of it"),
    ],
)
def test_nothing_to_train_on(records, settings, words):
    with pytest.raises(DatasetError, match=words):
        VideoClips(records, ReferenceFrames(**settings))


@pytest.mark.parametrize("settings", [{"count": 0}, {"reach": 0}])
def test_settings_out_of_range(settings):
    with pytest.raises(ValueError, match="must be 1 or more"):
        ReferenceFrames(**settings)


def mapped(record):
    return {**record, "height": 3, "width": 4}


def test_training_loader_repeats_itself_with_a_seed():
    records = video(1, [(1,)] * 12) + video(2, [(1,)] * 7)

    def batches(seed, workers):
        seed_all_rng(seed)
        loader = build_video_train_loader(
            dataset=records,
            references=ReferenceFrames(count=2),
            mapper=mapped,
            total_batch_size=3,
            num_workers=workers,
        )
        stream = iter(loader)
        return [[(sample["video_id"], *places(sample)) for sample in next(stream)] for _ in range(4)]

    for workers in (0, 1):
        first = batches(3, workers)
        assert [len(batch) for batch in first] == [3] * 4
        assert first == batches(3, workers)
        assert first != batches(4, workers)


def positions(records, world_size):
    return [list(WholeVideoSampler(records, rank=rank, world_size=world_size)) for rank in range(world_size)]


def test_processes_get_whole_videos():
    records = [one for number, length in enumerate((5, 30, 2, 8, 8, 7), 1) for one in video(number, [()] * length)]
    for world_size in (1, 2, 3, 4, 8):
        parts = positions(records, world_size)
        assert sum(parts, []) == list(range(60))
        videos = [{records[position]["video_id"] for position in part} for part in parts]
        assert sum(map(len, videos)) == 6
    assert [len(part) for part in positions(records, 2)] == [35, 25]
    assert positions([], 2) == [[], []]


def test_more_processes_than_videos():
    parts = positions(video(1, [()] * 4), 3)
    assert [len(part) for part in parts] == [0, 4, 0]


def test_testing_loaders_of_two_processes(monkeypatch):
    records = [one for number in range(1, 6) for one in video(number, [(1,)] * number)]
    found = []
    monkeypatch.setattr(comm, "get_world_size", lambda: 2)
    for rank in range(2):
        monkeypatch.setattr(comm, "get_rank", lambda rank=rank: rank)
        loader = build_video_test_loader(dataset=records, mapper=mapped)
        found.append([(sample["video_id"], sample["frame_index"]) for (sample,) in loader])
        assert len(loader) == len(found[-1])
    assert found[0] + found[1] == [(number, index) for number in range(1, 6) for index in range(number)]
    assert [{number for number, _ in part} for part in found] == [{1, 2, 3}, {4, 5}]
