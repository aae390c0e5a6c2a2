import math

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.poolers import ROIPooler
from detectron2.structures import Boxes, Instances

from instseg_d2.modeling.tracking.pair_sampling import BACKGROUND, RegionSampler
from instseg_d2.modeling.tracking.quasi_dense import QuasiDenseHead
from instseg_d2.testing import fake_instances


def head(**settings):
    torch.manual_seed(0)
    return QuasiDenseHead(
        pooler=ROIPooler(output_size=7, scales=(1 / 4, 1 / 8), sampling_ratio=0, pooler_type="ROIAlignV2"),
        input_shape=ShapeSpec(channels=4, height=7, width=7),
        sampler=RegionSampler(matcher=Matcher([0.3, 0.7], [0, -1, 1]), regions_per_image=16),
        **{"conv_dims": [8], "conv_norm": "", "fc_dims": [16], "embedding_dim": 6, **settings},
    )


def maps(images=2):
    return [torch.randn(images, 4, 16, 16), torch.randn(images, 4, 8, 8)]


def test_sizes_of_the_paper():
    full = head(conv_dims=[256] * 4, conv_norm="GN", fc_dims=[1024], embedding_dim=256)
    # 3x3 convolutions without bias and norms of 2 * 256; 12544 -> 1024 -> 256.
    convolutions = 9 * 256 * (4 + 3 * 256) + 4 * 512
    linear = (12544 + 1) * 1024 + (1024 + 1) * 256
    assert sum(p.numel() for p in full.parameters()) == convolutions + linear
    assert full.fc_embed.weight.std().item() == pytest.approx(0.01, rel=0.02)
    assert full.fcs[0].weight.abs().max().item() == pytest.approx(math.sqrt(6 / (12544 + 1024)), rel=0.01)


def test_regions_of_all_images_are_embedded_in_their_order():
    model, features = head(), maps()
    boxes = [Boxes(torch.tensor([[0.0, 0, 30, 30], [8, 8, 60, 60]])), Boxes(torch.tensor([[4.0, 4, 20, 40]]))]
    together = model(features, boxes)
    assert together.shape == (3, 6)
    second = model([level[1:] for level in features], boxes[1:])
    assert torch.allclose(together[2:], second, atol=1e-6)


@pytest.mark.parametrize("norm", ["", "GN"])
def test_no_regions_still_reach_every_parameter(norm):
    model = head(conv_dims=[32], conv_norm=norm)
    nothing = [Boxes(torch.zeros(0, 4))] * 2
    found, others = model(maps(), nothing), model(maps(), nothing)
    assert found.shape == (0, 6)
    none = [torch.zeros(0, dtype=torch.int64)] * 2
    losses = model.losses(found, none, others, none)
    assert {name: value.item() for name, value in losses.items()} == {"loss_track": 0, "loss_track_aux": 0}
    sum(losses.values()).backward()
    assert all(p.grad is not None and not p.grad.any() for p in model.parameters())


def slow_losses(keys, key_ids, references, ref_ids):
    """Contrast and cosine loss of one image, pair by pair."""
    rows, positives, negatives = [], [], []
    for key, key_id in zip(keys, key_ids.tolist(), strict=True):
        same, other = [], []
        for reference, ref_id in zip(references, ref_ids.tolist(), strict=True):
            product, cosine = (key @ reference).item(), torch.cosine_similarity(key, reference, dim=0).item()
            if key_id == ref_id:
                same.append(product)
                positives.append((min(max(cosine, 0), 1) - 1) ** 2)
            else:
                other.append(product)
                negatives.append(min(max(cosine - 0.3, 0), 1) ** 2)
        if same:
            rows.append(math.log(1 + sum(math.exp(-s) for s in same) * sum(math.exp(s) for s in other)))
    kept = positives + sorted(negatives, reverse=True)[: 3 * len(positives)]
    return sum(rows) / max(len(rows), 1), sum(kept) / max(len(kept), 1) if positives else 0.0


def test_losses_equal_the_slow_formula_averaged_over_images():
    torch.manual_seed(1)
    keys, references = torch.randn(7, 6), torch.randn(9, 6)
    key_ids = [torch.tensor([1, 1, 2, 5]), torch.tensor([3, 4]), torch.tensor([8])]
    ref_ids = [torch.tensor([2, 1, BACKGROUND, 1]), torch.tensor([4, BACKGROUND, BACKGROUND, 9]), torch.tensor([7])]
    losses = head().losses(keys, key_ids, references, ref_ids)
    expected = [
        slow_losses(key, key_id, reference, ref_id)
        for key, key_id, reference, ref_id in zip(
            keys.split([4, 2, 1]), key_ids, references.split([4, 4, 1]), ref_ids, strict=True
        )
    ]
    assert losses["loss_track"].item() == pytest.approx(0.25 * sum(x for x, _ in expected) / 3, rel=1e-5)
    assert losses["loss_track_aux"].item() == pytest.approx(sum(x for _, x in expected) / 3, rel=1e-5)


def test_backgrounds_are_nobodys_positives():
    same = torch.tensor([BACKGROUND])
    losses = head().losses(torch.ones(1, 6), [same], torch.ones(1, 6), [same])
    assert sum(losses.values()).item() == 0


def test_losses_train_key_and_reference():
    model = head()
    features = [level.requires_grad_() for level in maps()]
    truth = [fake_instances(64, 64, [[4, 4, 30, 30], [20, 20, 60, 60]]) for _ in range(2)]
    for x in truth:
        x.gt_ids = torch.tensor([3, 6])
    proposals = [Instances((64, 64), proposal_boxes=Boxes(torch.tensor([[5.0, 4, 30, 30], [40, 0, 60, 9]])))] * 2
    keys = model.sample(proposals, truth, positives_only=True)
    references = model.sample(proposals, truth)
    assert [x.gt_ids.tolist().count(BACKGROUND) for x in (*keys, *references)] == [0, 0, 1, 1]
    key = model(features, [x.proposal_boxes for x in keys])
    reference = model([level.detach() for level in features], [x.proposal_boxes for x in references])
    losses = model.losses(key, [x.gt_ids for x in keys], reference.requires_grad_(), [x.gt_ids for x in references])
    reference.retain_grad()
    sum(losses.values()).backward()
    assert features[0].grad.abs().sum() > 0
    assert reference.grad.abs().sum() > 0
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_autocast_computes_losses_in_float32():
    torch.manual_seed(2)
    keys, references = torch.randn(4, 6) * 5, torch.randn(5, 6) * 5
    some = [torch.tensor([1, 2, 3, 3])], [torch.tensor([1, 2, 3, BACKGROUND, 4])]
    exact = head().losses(keys, some[0], references, some[1])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = head().losses(keys, some[0], references, some[1])
    for name, value in found.items():
        assert value.dtype == torch.float32
        assert value.item() == exact[name].item()
