"""The tracker of QDTrack, on detections of which the right answer is known or computed by hand."""

import pytest
import torch

from instseg_d2.modeling.tracking.quasi_dense import QuasiDenseTracker

# Alike only to themselves.
A, B, C = [9.0, 0.0], [0.0, 9.0], [-9.0, 0.0]


def ids(tracker, frame):
    return tracker.step(frame).tolist()


def test_ids_start_at_1_in_every_video(detections):
    tracker = QuasiDenseTracker()
    assert ids(tracker, detections([A, B])) == [1, 2]
    assert ids(tracker, detections([A, B, C])) == [1, 2, 3]
    assert tracker.alive_ids == {1, 2, 3}
    tracker.reset()
    assert tracker.alive_ids == set()
    assert ids(tracker, detections([B])) == [1]


def test_objects_that_cross_keep_their_ids_in_any_order(detections):
    tracker = QuasiDenseTracker()
    left, right = [0, 0, 10, 10], [40, 0, 50, 10]
    assert ids(tracker, detections([A, B], boxes=[left, right])) == [1, 2]
    assert ids(tracker, detections([B, A], boxes=[left, right])) == [2, 1]
    assert ids(tracker, detections([A, B], scores=[0.4, 0.8], boxes=[right, left])) == [1, 2]


@pytest.mark.parametrize(("absent", "expected"), [(9, 1), (10, 3)])
def test_a_lost_object_is_found_again_for_10_frames(detections, absent, expected):
    tracker = QuasiDenseTracker()
    ids(tracker, detections([A, B]))
    for _ in range(absent):
        assert ids(tracker, detections([B])) == [2]
    assert (1 in tracker.alive_ids) == (expected == 1)
    assert ids(tracker, detections([B, A])) == [2, expected]


def test_frames_without_detections_count_as_well(detections):
    tracker = QuasiDenseTracker(memo_tracklet_frames=3)
    assert ids(tracker, detections()) == []
    assert ids(tracker, detections([A])) == [1]
    for _ in range(2):
        assert ids(tracker, detections()) == []
    assert tracker.alive_ids == {1}
    assert ids(tracker, detections()) == []
    assert tracker.alive_ids == set()
    assert ids(tracker, detections([A])) == [2]


def test_duplicates_are_dropped_whatever_their_class(detections):
    tracker = QuasiDenseTracker()
    # Overlaps of 0.8 and 0.6 with the first box; the limit is 0.7.
    boxes = [[0, 0, 10, 10], [0, 0, 10, 8], [0, 4, 10, 10]]
    assert ids(tracker, detections([A, A, B], [0.9, 0.8, 0.75], [0, 1, 0], boxes)) == [1, -1, 2]
    # The better one is kept, wherever it stands.
    assert ids(tracker, detections([A, A], [0.8, 0.9], boxes=boxes[:2])) == [-1, 1]


def test_overlapping_boxes_of_low_score_are_dropped_sooner(detections):
    boxes = [[0, 0, 10, 10], [0, 0, 10, 4]]
    assert ids(QuasiDenseTracker(), detections([A, B], [0.9, 0.29], boxes=boxes)) == [1, -1]
    assert ids(QuasiDenseTracker(), detections([A, B], [0.9, 0.31], boxes=boxes)) == [1, 0]


def test_low_scores_start_no_object_but_may_continue_one(detections):
    tracker = QuasiDenseTracker()
    assert ids(tracker, detections([A, B], [0.69, 0.71])) == [0, 1]
    assert ids(tracker, detections([A, B], [0.69, 0.31])) == [0, 1]
    # Fainter than that, it is neither the object nor a new one, nor remembered as a backdrop.
    assert ids(tracker, detections([B], [0.29])) == [0]
    assert ids(tracker, detections([B], [0.9])) == [1]


def test_an_object_keeps_its_class(detections):
    frames = detections([A, B], classes=[0, 1]), detections([A, B], classes=[1, 1])
    free, bound = QuasiDenseTracker(with_cats=False), QuasiDenseTracker()
    assert [ids(free, frame) for frame in frames] == [[1, 2], [1, 2]]
    assert [ids(bound, frame) for frame in frames] == [[1, 2], [3, 2]]


def test_what_looks_like_a_backdrop_does_not_continue_an_object(detections):
    frames = detections([A, B], [0.9, 0.5]), detections([B], [0.9])
    tracker = QuasiDenseTracker()
    assert [ids(tracker, frame) for frame in frames] == [[1, 0], [2]]
    # Alone with one object in the memory, everything is that object.
    forgetful = QuasiDenseTracker(memo_backdrop_frames=0)
    assert [ids(forgetful, frame) for frame in frames] == [[1, 0], [1]]


@pytest.mark.parametrize(("frames", "expected"), [(1, 1), (2, 2)])
def test_backdrops_are_forgotten(detections, frames, expected):
    tracker = QuasiDenseTracker(memo_backdrop_frames=frames)
    ids(tracker, detections([A, B], [0.9, 0.5]))
    ids(tracker, detections())
    assert ids(tracker, detections([B])) == [expected]


def test_what_overlaps_a_better_box_is_no_backdrop(detections):
    tracker = QuasiDenseTracker()
    # An overlap of 0.4: kept, but not remembered; and of 0.2.
    ids(tracker, detections([A, B], [0.9, 0.5], boxes=[[0, 0, 10, 10], [0, 0, 10, 4]]))
    assert ids(tracker, detections([B])) == [1]
    tracker.reset()
    ids(tracker, detections([A, B], [0.9, 0.5], boxes=[[0, 0, 10, 10], [0, 0, 10, 2]]))
    assert ids(tracker, detections([B])) == [2]


@pytest.mark.parametrize(("match_score", "expected"), [(0.86, 1), (0.87, 3)])
def test_similarity_is_the_mean_of_both_softmaxes(detections, match_score, expected):
    tracker = QuasiDenseTracker(match_score=match_score)
    ids(tracker, detections([[1.0, 0.0], [0.0, 1.0]]))
    # Products 1 and 0: over the memory e / (e + 1) = 0.731, over the detections 1; the mean is 0.866.
    assert ids(tracker, detections([[1.0, 0.0]])) == [expected]


@pytest.mark.parametrize(("match_score", "expected"), [(0.615, [1, 2]), (0.617, [2, 1])])
def test_a_new_embedding_has_the_weight_of_the_momentum(detections, match_score, expected):
    tracker = QuasiDenseTracker(match_score=match_score)
    ids(tracker, detections([[2.0, 0.0]]))
    ids(tracker, detections([[0.0, 2.0]]))
    # The memory is (0.4, 1.6): over the memory 1, over the detections 1 / (1 + exp(1.2)) = 0.231 for the first one,
    # which comes first; the mean is 0.616.
    assert ids(tracker, detections([[1.0, 0.0], [0.0, 1.0]], [0.9, 0.8])) == expected


def test_a_taken_object_is_not_given_twice(detections):
    tracker = QuasiDenseTracker()
    ids(tracker, detections([A, B]))
    frame = detections([A, A, B], [0.75, 0.8, 0.9])
    # Similarities of both As to the object: over the memory 1, over the detections 1/2.
    assert ids(tracker, frame) == [3, 1, 2]


def test_memory_is_bounded_in_an_endless_stream(detections):
    torch.manual_seed(0)
    tracker = QuasiDenseTracker(memo_tracklet_frames=4)
    alive, last = [], 0
    for _ in range(60):
        found = ids(tracker, detections((torch.randn(5, 2) * 20).tolist()))
        last = max(last, *found)
        alive.append(len(tracker.alive_ids))
    assert last > 40
    assert max(alive[30:]) <= 4 * 5


def test_it_remembers_no_graph_and_computes_in_float32(detections):
    tracker = QuasiDenseTracker()
    frame = detections([A, B])
    frame.embeddings = frame.embeddings.to(torch.bfloat16).requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert ids(tracker, frame) == [1, 2]
        assert ids(tracker, detections([B, A])) == [2, 1]
