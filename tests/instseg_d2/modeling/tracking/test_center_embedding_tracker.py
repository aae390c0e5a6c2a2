"""The tracker of SipMask-VIS, on detections of which the right answer is known or computed by hand."""

import pytest
import torch

from instseg_d2.modeling.tracking.center_embedding import CenterEmbeddingTracker

# Alike only to themselves.
A, B, C = [9.0, 0.0], [0.0, 9.0], [-9.0, -9.0]
HERE, THERE, ELSEWHERE = [0, 0, 10, 10], [40, 0, 50, 10], [80, 0, 90, 10]


def ids(tracker, frame):
    return tracker.step(frame).tolist()


def test_ids_start_at_1_in_every_video_whatever_the_score(detections):
    tracker = CenterEmbeddingTracker()
    assert ids(tracker, detections([A, B], [0.04, 0.9])) == [2, 1]
    assert ids(tracker, detections([A, B, C])) == [2, 1, 3]
    assert tracker.alive_ids == {1, 2, 3}
    tracker.reset()
    assert tracker.alive_ids == set()
    assert ids(tracker, detections([B])) == [1]


def test_objects_that_cross_keep_their_ids(detections):
    tracker = CenterEmbeddingTracker()
    assert ids(tracker, detections([A, B], boxes=[HERE, THERE])) == [1, 2]
    assert ids(tracker, detections([A, B], boxes=[THERE, HERE])) == [1, 2]
    assert ids(tracker, detections([B, A], boxes=[THERE, HERE])) == [2, 1]


def test_a_video_may_begin_without_detections(detections):
    tracker = CenterEmbeddingTracker()
    assert ids(tracker, detections()) == []
    assert ids(tracker, detections([A, B])) == [1, 2]
    assert ids(tracker, detections()) == []
    assert ids(tracker, detections([B])) == [2]


def test_an_object_is_remembered_to_the_end_of_the_video(detections):
    tracker = CenterEmbeddingTracker()
    ids(tracker, detections([A, B]))
    for _ in range(50):
        assert ids(tracker, detections([B], boxes=[THERE])) == [2]
    assert tracker.alive_ids == {1, 2}
    assert ids(tracker, detections([A])) == [1]


@pytest.mark.parametrize(("absent", "expected"), [(9, 1), (10, 3)])
def test_memory_of_10_frames(detections, absent, expected):
    tracker = CenterEmbeddingTracker(memory_frames=10)
    ids(tracker, detections([A, B]))
    for _ in range(absent):
        ids(tracker, detections([B]))
    assert ids(tracker, detections([B, A])) == [2, expected]


def test_memory_is_bounded_in_an_endless_stream(detections):
    tracker = CenterEmbeddingTracker(memory_frames=4)
    for frame in range(40):
        # Five new objects in every frame: none is of a class that was seen before.
        found = ids(tracker, detections([[0.1, 0.1]] * 5, classes=[frame] * 5))
        assert found == list(range(5 * frame + 1, 5 * frame + 6))
        assert len(tracker.alive_ids) <= 4 * 5


@pytest.mark.parametrize(("product", "expected"), [(0.01, 1), (-0.01, 2)])
def test_a_new_object_has_the_logit_0(detections, product, expected):
    tracker = CenterEmbeddingTracker()
    ids(tracker, detections([[1.0, 0.0]], boxes=[HERE]))
    assert ids(tracker, detections([[product, 1.0]], boxes=[THERE])) == [expected]


@pytest.mark.parametrize(("width", "expected"), [(51, 1), (49, 2)])
def test_overlap_counts_twice(detections, width, expected):
    tracker = CenterEmbeddingTracker()
    ids(tracker, detections([[1.0, 0.0]], boxes=[[0, 0, 100, 10]]))
    # The logit -1 against 0: it takes an IoU above 1/2 to continue the object.
    assert ids(tracker, detections([[-1.0, 0.0]], boxes=[[0, 0, width, 10]])) == [expected]


@pytest.mark.parametrize(("product", "expected"), [(10.1, 1), (9.9, 2)])
def test_another_class_costs_10(detections, product, expected):
    tracker = CenterEmbeddingTracker()
    ids(tracker, detections([[1.0, 0.0]], boxes=[HERE]))
    assert ids(tracker, detections([[product, 0.0]], classes=[1], boxes=[THERE])) == [expected]


def test_the_class_of_an_object_is_that_of_its_first_detection(detections):
    tracker = CenterEmbeddingTracker()
    ids(tracker, detections([[4.0, 0.0]], boxes=[HERE]))
    assert ids(tracker, detections([[4.0, 0.0]], classes=[1], boxes=[HERE])) == [1]
    # Without overlap a logit of 4 is not enough for another class, nor needed for the same.
    assert ids(tracker, detections([[1.0, 0.0]], classes=[1], boxes=[THERE])) == [2]
    assert ids(tracker, detections([[1.0, 0.0]], classes=[0], boxes=[ELSEWHERE])) == [1]


def test_embedding_and_box_are_those_of_the_last_detection(detections):
    tracker = CenterEmbeddingTracker()
    ids(tracker, detections([[1.0, 0.0]], boxes=[HERE]))
    # Continued by its overlap alone.
    assert ids(tracker, detections([[-0.5, 1.0]], boxes=[HERE])) == [1]
    assert ids(tracker, detections([[1.0, 0.0]], boxes=[THERE])) == [2]


def conflict(detections, **settings):
    """Two objects, then two detections that both resemble the first most; of the second, one has the better score."""
    tracker = CenterEmbeddingTracker(**settings)
    ids(tracker, detections([[3.0, 0.0], [2.0, 0.0]], boxes=[HERE, THERE]))
    return ids(tracker, detections([[1.0, 0.0], [1.0, 0.0]], [0.5, 0.9], boxes=[ELSEWHERE, ELSEWHERE]))


def test_who_loses_an_object_takes_the_next_best(detections):
    assert conflict(detections) == [2, 1]


def test_as_released_who_loses_an_object_is_dropped(detections):
    assert conflict(detections, second_choice=False) == [-1, 1]


def test_who_finds_no_other_object_is_dropped(detections):
    tracker = CenterEmbeddingTracker()
    ids(tracker, detections([A]))
    # Three of the same object; "new" is no choice for them.
    assert ids(tracker, detections([A, A, A], [0.7, 0.9, 0.8], boxes=[HERE] * 3)) == [-1, 1, -1]
    assert tracker.alive_ids == {1}


@pytest.mark.parametrize(("product", "expected"), [(1.45, [-1, 1]), (1.48, [1, -1])])
def test_of_two_the_higher_sum_wins(detections, product, expected):
    tracker = CenterEmbeddingTracker()
    ids(tracker, detections([[1.0, 0.0]], boxes=[HERE]))
    # log p + log(score): log(0.45 / (1 + exp(-product))) against log(0.5 / (1 + exp(-1))), equal at 1.464.
    frame = detections([[product, 0.0], [1.0, 0.0]], [0.45, 0.5], boxes=[THERE, ELSEWHERE])
    assert ids(tracker, frame) == expected


def test_a_score_of_0_does_not_confuse(detections):
    tracker = CenterEmbeddingTracker()
    ids(tracker, detections([A, B]))
    assert ids(tracker, detections([B, A], [0.0, 0.0])) == [2, 1]


def test_autocast_computes_in_float32(detections):
    tracker = CenterEmbeddingTracker()
    frame = detections([A, B])
    frame.embeddings = frame.embeddings.to(torch.bfloat16).requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert ids(tracker, frame) == [1, 2]
        assert ids(tracker, detections([B, A])) == [2, 1]
