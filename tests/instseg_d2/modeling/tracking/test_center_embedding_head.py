import math

import pytest
import torch
from detectron2.structures import Boxes, Instances

from instseg_d2.modeling.tracking.center_embedding import CenterEmbeddingHead


def head(**settings):
    torch.manual_seed(0)
    return CenterEmbeddingHead(
        **{"in_channels": 4, "conv_dims": [8], "norm": "", "embedding_dim": 6, "jitter": 0.0, **settings}
    )


def maps(images=2, height=8, width=10):
    return [torch.randn(images, 4, height // 2**level, width // 2**level) for level in range(3)]


def positives(boxes, ids):
    boxes = torch.tensor(boxes, dtype=torch.float32).reshape(len(ids), 4)
    return Instances((64, 80), pred_boxes=Boxes(boxes), gt_ids=torch.tensor(ids, dtype=torch.int64))


def objects(boxes, ids):
    boxes = torch.tensor(boxes, dtype=torch.float32).reshape(len(ids), 4)
    return Instances((64, 80), gt_boxes=Boxes(boxes), gt_ids=torch.tensor(ids, dtype=torch.int64))


def test_sizes_of_sipmask():
    full = head(in_channels=256, conv_dims=[256, 256], norm="GN", embedding_dim=512)
    assert sum(p.numel() for p in full.parameters()) == 2 * (9 * 256 * 256 + 512) + (768 + 1) * 512
    assert full.convs[0].weight.std().item() == pytest.approx(0.01, rel=0.02)


def test_levels_are_brought_to_the_finest():
    model = head()
    # 10 columns, then 5, then 2: the last level is not a quarter.
    assert model(maps(3)).shape == (3, 6, 8, 10)
    # A level that is the same everywhere is the same at any size, but for the border of the convolution.
    torch.nn.init.zeros_(model.embed.weight)
    with torch.no_grad():
        model.embed.weight[0, 8] = 1
        model.embed.bias.zero_()
        model.convs[0].weight[:, :, [0, 0, 0, 1, 1, 2, 2, 2], [0, 1, 2, 0, 2, 0, 1, 2]] = 0
        features = [torch.randn(1, 4, 8, 8), torch.full((1, 4, 4, 4), 2.0), torch.randn(1, 4, 2, 2)]
        expected = torch.relu(2 * model.convs[0].weight[0, :, 1, 1].sum() + model.convs[0].bias[0])
        assert torch.allclose(model(features)[0, 0], expected.expand(8, 8))


def test_an_object_has_the_embedding_at_its_center():
    rows, columns = torch.meshgrid(torch.arange(4.0), torch.arange(5.0), indexing="ij")
    embeddings = torch.stack([torch.stack([rows, columns]), torch.stack([rows, columns]) + 100]).requires_grad_()
    # Centers (x, y): (8, 8), (7.9, 31.9); outside; (39, 0).
    boxes = [
        Boxes(torch.tensor([[0.0, 0, 16, 16], [0, 30, 15.8, 33.8], [60, -40, 100, 0]])),
        Boxes(torch.tensor([[38.0, -1, 40, 1]])),
    ]
    found = head().lookup(embeddings, boxes)
    assert found.tolist() == [[1, 1], [3, 0], [0, 4], [100, 104]]
    found[0].sum().backward()
    assert embeddings.grad.nonzero().tolist() == [[0, 0, 1, 1], [0, 1, 1, 1]]
    assert head(stride=4).lookup(embeddings, boxes)[0].tolist() == [2, 2]
    assert head().lookup(embeddings, [Boxes(torch.zeros(0, 4))] * 2).shape == (0, 2)


def slow_loss(key_map, keys, ref_map, references):
    """Cross entropy of each positive location over "new" and the objects of the reference, one by one."""

    def embedding(embeddings, box):
        x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
        return embeddings[:, int(y // 8), int(x // 8)]

    images = []
    for index, (key, reference) in enumerate(zip(keys, references, strict=True)):
        costs = []
        for box, number in zip(key.pred_boxes.tensor.tolist(), key.gt_ids.tolist(), strict=True):
            logits = [0.0]
            for other in reference.gt_boxes.tensor.tolist():
                logits.append((embedding(key_map[index], box) @ embedding(ref_map[index], other)).item())
            known = reference.gt_ids.tolist()
            target = 1 + known.index(number) if number in known else 0
            costs.append(math.log(sum(math.exp(x) for x in logits)) - logits[target])
        images.append(sum(costs) / max(len(costs), 1))
    return sum(images) / len(images)


def batch():
    keys = [
        positives([[0, 0, 30, 30], [2, 2, 28, 30], [40, 10, 70, 50]], [5, 5, 9]),
        positives([[10, 10, 20, 20]], [1]),
        positives([], []),
    ]
    references = [
        objects([[40, 0, 60, 20], [8, 8, 30, 30]], [4, 5]),
        objects([], []),
        objects([[0, 0, 9, 9]], [3]),
    ]
    return keys, references


def test_loss_equals_the_slow_formula_averaged_over_images():
    torch.manual_seed(3)
    key_map, ref_map = torch.randn(3, 6, 8, 10), torch.randn(3, 6, 8, 10)
    keys, references = batch()
    losses = head(loss_weight=2.0).losses(key_map, keys, ref_map, references)
    assert losses.keys() == {"loss_track"}
    assert losses["loss_track"].item() == pytest.approx(2 * slow_loss(key_map, keys, ref_map, references), rel=1e-5)


def test_boxes_of_up_to_4_square_pixels_do_not_teach():
    torch.manual_seed(3)
    key_map, ref_map = torch.randn(1, 6, 8, 10), torch.randn(1, 6, 8, 10)
    reference = [objects([[8, 8, 30, 30]], [5])]
    both = [positives([[0, 0, 2, 2], [10, 10, 12, 12.1]], [5, 5])]
    large = [positives([[10, 10, 12, 12.1]], [5])]
    assert torch.equal(
        head().losses(key_map, both, ref_map, reference)["loss_track"],
        head().losses(key_map, large, ref_map, reference)["loss_track"],
    )


@pytest.mark.parametrize("case", ["no location", "no object", "neither"])
def test_nothing_to_compare_is_a_zero_that_keeps_the_graph(case):
    model = head()
    keys = [positives([[0, 0, 30, 30]], [5]) if case == "no object" else positives([], [])]
    references = [objects([[0, 0, 30, 30]], [5]) if case == "no location" else objects([], [])]
    (loss,) = model.losses(model(maps(1)), keys, model(maps(1)), references).values()
    loss.backward()
    assert loss.item() == 0
    assert all(p.grad is not None and not p.grad.any() for p in model.parameters())


def test_true_centers_of_the_reference_are_moved_by_up_to_a_twentieth():
    torch.manual_seed(0)
    ref_map = torch.ones(1, 2, 200, 200, requires_grad=True)
    model = head(jitter=0.05, stride=2, embedding_dim=2)
    # The center is (200, 200), the sides are 80 and 400 px: a cell of 2 px is at most 2 and 10 cells away.
    key, reference = positives([[0, 0, 30, 30]], [5]), objects([[160, 0, 240, 400]], [5])
    for _ in range(40):
        model.losses(ref_map.detach(), [key], ref_map, [reference])["loss_track"].backward()
    seen = ref_map.grad[0, 0].nonzero()
    rows, columns = seen.amin(dim=0).tolist(), seen.amax(dim=0).tolist()
    assert 90 <= rows[0] < 95
    assert 105 < columns[0] <= 110
    assert [rows[1], columns[1]] == [98, 101]


def test_loss_trains_key_and_reference_map():
    torch.manual_seed(3)
    key_map, ref_map = torch.randn(3, 6, 8, 10, requires_grad=True), torch.randn(3, 6, 8, 10, requires_grad=True)
    keys, references = batch()
    head().losses(key_map, keys, ref_map, references)["loss_track"].backward()
    # Both of object 5 lie in the same cell, and those of two images have nothing to be compared with.
    assert key_map.grad.abs().sum(dim=1).nonzero().tolist() == [[0, 1, 1], [0, 2, 1], [0, 3, 6]]
    assert ref_map.grad.abs().sum(dim=1).nonzero().tolist() == [[0, 1, 6], [0, 2, 2]]


def test_autocast_computes_the_loss_in_float32():
    torch.manual_seed(3)
    key_map, ref_map = torch.randn(3, 6, 8, 10), torch.randn(3, 6, 8, 10)
    keys, references = batch()
    exact = head().losses(key_map, keys, ref_map, references)["loss_track"]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = head().losses(key_map, keys, ref_map, references)["loss_track"]
    assert found.dtype == torch.float32
    assert found.item() == exact.item()
