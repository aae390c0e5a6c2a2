"""Which frames and which regions form a pair."""

import pytest
import torch
from detectron2.structures import Boxes, Instances

from instseg_d2.data.errors import DatasetError
from instseg_d2.modeling.meta_arch.video.pairs import identities, pair_regions, reference_frames


def sample(name, references):
    return {"file_name": name, "references": references}


def test_references_are_arranged_by_place_the_last_ones_where_there_are_more():
    batch = [sample("a", ["a0", "a1", "a2"]), sample("b", ["b0"]), sample("c", ["c0", "c1"])]
    assert reference_frames(batch, 2) == [["a1", "b0", "c0"], ["a2", "b0", "c1"]]
    assert reference_frames(batch, 1) == [["a2", "b0", "c1"]]


@pytest.mark.parametrize("broken", [{"file_name": "b.jpg"}, sample("b.jpg", [])])
def test_a_frame_without_references_is_named(broken):
    with pytest.raises(DatasetError, match=r"b\.jpg.*references"):
        reference_frames([sample("a", ["a0"]), broken], 1)


def test_the_same_object_that_looks_most_alike():
    key = torch.tensor([[1.0, 0.0], [0.0, 2.0], [1.0, 1.0], [-1.0, 0.0]])
    reference = torch.tensor([[0.0, 3.0], [1.0, 0.1], [1.0, 0.0]])
    rows, partners = pair_regions(key, torch.tensor([7, 7, 8, 7]), reference, torch.tensor([7, 7, 9]), threshold=0.5)
    # The third region's object is not in the reference, the fourth looks unlike all of its object.
    assert rows.tolist() == [0, 1]
    assert partners.tolist() == [1, 0]


@pytest.mark.parametrize(("keys", "references"), [(0, 3), (3, 0), (0, 0)])
def test_nothing_to_pair(keys, references):
    rows, partners = pair_regions(
        torch.randn(keys, 4),
        torch.ones(keys, dtype=torch.int64),
        torch.randn(references, 4),
        torch.ones(references, dtype=torch.int64),
        threshold=-2,
    )
    assert len(rows) == len(partners) == 0
    assert rows.dtype == torch.int64


def test_identities_of_an_image_without_objects():
    nothing = Instances((8, 8), gt_boxes=Boxes(torch.zeros(0, 4)))
    assert identities(nothing).tolist() == []
    with pytest.raises(AttributeError, match="gt_ids"):
        identities(Instances((8, 8), gt_boxes=Boxes(torch.zeros(1, 4))))
