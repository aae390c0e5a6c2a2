"""Labels of predictions by their quality, and the random sample of them."""

import pytest
import torch
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.sampling import subsample_labels


def test_labels_change_at_the_thresholds():
    matcher = Matcher([0.3, 0.5], [0, -1, 1])
    quality = torch.tensor([[0.0, 0.299, 0.3, 0.499, 0.5, 1.0], [0.1, 0.0, 0.0, 0.0, 0.0, 0.0]])
    matches, labels = matcher(quality)
    assert labels.tolist() == [0, 0, -1, -1, 1, 1]
    assert matches.tolist() == [1, 0, 0, 0, 0, 0]
    assert (matches.dtype, labels.dtype) == (torch.int64, torch.int8)


def test_low_quality_matches():
    matcher = Matcher([0.3, 0.7], [0, -1, 1], allow_low_quality_matches=True)
    quality = torch.tensor([[0.9, 0.1, 0.2, 0.2, 0.0], [0.4, 0.0, 0.25, 0.25, 0.1]])
    matches, labels = matcher(quality)
    # The second ground truth is best matched by prediction 0, which stays with the first.
    assert labels.tolist() == [1, 0, 0, 0, 0]
    assert matches.tolist() == [0, 0, 1, 1, 1]
    quality[1, 0] = 0.0
    matches, labels = matcher(quality)
    # Now predictions 2 and 3 tie for it.
    assert labels.tolist() == [1, 0, 1, 1, 0]


def test_by_loops():
    torch.manual_seed(0)
    matcher = Matcher([0.4, 0.6], [0, -1, 1], allow_low_quality_matches=True)
    quality = torch.rand(7, 40).square()
    matches, labels = matcher(quality)
    table = quality.tolist()
    for j in range(40):
        column = [row[j] for row in table]
        best = max(column)
        assert matches[j] == column.index(best)
        wins = any(row[j] == max(row) for row in table)
        assert labels[j] == (1 if wins or best >= 0.6 else -1 if best >= 0.4 else 0)


def test_without_ground_truth_or_predictions():
    matches, labels = Matcher([0.5], [-1, 1])(torch.zeros(0, 3))
    assert matches.tolist() == [0, 0, 0]
    assert labels.tolist() == [-1, -1, -1]
    matches, labels = Matcher([0.5], [0, 1], allow_low_quality_matches=True)(torch.zeros(3, 0))
    assert (matches.shape, labels.shape) == ((0,), (0,))


@pytest.mark.parametrize(
    "wrong",
    [([0.0], [0, 1]), ([0.5, 0.3], [0, -1, 1]), ([0.5], [0, 2]), ([0.5], [0, 1, 1])],
)
def test_refusals(wrong):
    with pytest.raises(AssertionError):
        Matcher(*wrong)


def test_quality_must_not_be_negative():
    with pytest.raises(AssertionError):
        Matcher([0.5], [0, 1])(torch.tensor([[0.1, -0.1]]))


@pytest.mark.parametrize(
    ("positives", "negatives", "expected"),
    [(50, 100, (16, 48)), (5, 100, (5, 59)), (5, 7, (5, 7)), (50, 7, (16, 7)), (0, 100, (0, 64)), (0, 0, (0, 0))],
)
def test_sample_sizes(positives, negatives, expected):
    labels = torch.tensor([3] * positives + [80] * negatives + [-1] * 9)[torch.randperm(positives + negatives + 9)]
    chosen_positive, chosen_negative = subsample_labels(labels, 64, 0.25, 80)
    assert (len(chosen_positive), len(chosen_negative)) == expected
    assert (labels[chosen_positive] == 3).all()
    assert (labels[chosen_negative] == 80).all()
    assert len(set(chosen_positive.tolist() + chosen_negative.tolist())) == sum(expected)


def test_sample_follows_one_permutation_per_pool():
    labels = torch.tensor([0, 1, 0, -1, 1, 0, 1, 0])
    torch.manual_seed(3)
    positive, negative = (
        torch.tensor([1, 4, 6])[torch.randperm(3)][:2],
        torch.tensor([0, 2, 5, 7])[torch.randperm(4)][:2],
    )
    following = torch.rand(1)
    torch.manual_seed(3)
    got = subsample_labels(labels, 4, 0.5, 0)
    assert torch.equal(got[0], positive)
    assert torch.equal(got[1], negative)
    assert torch.equal(torch.rand(1), following)
