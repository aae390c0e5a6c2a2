"""Which positives learn masks, and where boxes from elsewhere belong."""

import pytest
import torch
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.structures import Boxes, Instances

from instseg_d2.modeling.meta_arch.instance_locations import best_rows, place_boxes, random_rows

STRIDES = (8, 16, 32)


def positives(gt_inds, scores=None):
    scores = torch.arange(float(len(gt_inds))) if scores is None else torch.tensor(scores)
    return Instances((64, 64), gt_inds=torch.tensor(gt_inds, dtype=torch.int64), scores=scores)


@pytest.mark.parametrize(
    ("limit", "kept"),
    [
        (64, [0, 1, 2, 3, 4, 5]),
        (6, [0, 1, 3, 4, 5]),  # three objects, two each: the worst of object 7 goes
        (5, [1, 4, 5]),  # one each
        (1, [1, 4, 5]),  # never less than one
    ],
)
def test_quota_of_each_object(limit, kept):
    x = positives([2, 2, 7, 7, 7, 4], [0.1, 0.3, 0.2, 0.4, 0.6, 0.5])
    assert best_rows(x, limit).tolist() == kept


def test_no_positives():
    assert best_rows(positives([]), 64).tolist() == []
    assert [rows.tolist() for rows in random_rows([positives([]), positives([])], 3)] == [[], []]


def test_random_limit_of_the_batch():
    batch = [positives([0] * 40), positives([]), positives([1] * 60)]
    torch.manual_seed(0)
    rows = random_rows(batch, 50)
    assert sum(len(part) for part in rows) == 50
    assert all(part.tolist() == sorted(set(part.tolist())) for part in rows)
    assert 10 < len(rows[0]) < 30
    assert len(rows[2]) == 0 or rows[2].max() < 60
    torch.manual_seed(1)
    assert random_rows(batch, 50)[0].tolist() != rows[0].tolist()
    assert [part.tolist() for part in random_rows(batch, 100)] == [list(range(40)), [], list(range(60))]


def placed(boxes, image=1):
    """Extra maps that tell image, level, row and column."""
    sizes = [(64 // stride, 96 // stride) for stride in STRIDES]
    maps = []
    for level, (height, width) in enumerate(sizes):
        rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        one = torch.stack([torch.full_like(rows, level), rows, columns]).float()
        maps.append(torch.stack([one, one + 100]))
    generator = DefaultAnchorGenerator(
        sizes=[[stride] for stride in STRIDES], aspect_ratios=[1.0], strides=STRIDES, offset=0.5
    )
    given = Instances((64, 96), pred_boxes=Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)))
    given.pred_classes = torch.arange(len(given))
    return given, place_boxes(given, generator(maps), maps, image)


def test_boxes_go_to_the_location_at_their_center_on_the_level_of_their_size():
    """Sides up to 8 strides away: 40 px belongs to the first level, 90 px with 66 px to a side to the second."""
    given, result = placed(
        [[10, 20, 50, 40], [0, 0, 96, 64], [0, 0, 130, 60], [-300, -300, 300, 300], [94, 62, 96, 64]]
    )
    assert result.fpn_levels.tolist() == [0, 0, 1, 2, 0]
    assert result.locations.tolist() == [[28, 28], [52, 36], [72, 24], [16, 16], [92, 60]]
    for vector, level, location in zip(result.extra, result.fpn_levels, result.locations, strict=True):
        column, row = ((location - STRIDES[level] / 2) / STRIDES[level]).tolist()
        assert (vector - 100).tolist() == [level, row, column]
    assert result.pred_classes.tolist() == [0, 1, 2, 3, 4]
    result.pred_boxes.scale(2, 2)
    assert given.pred_boxes.tensor[0].tolist() == [10, 20, 50, 40]
    assert set(given.get_fields()) == {"pred_boxes", "pred_classes"}


def test_no_boxes():
    assert placed([])[1].extra.shape == (0, 3)
