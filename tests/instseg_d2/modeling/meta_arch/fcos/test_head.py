"""The head of FCOS: scales of levels, and the extra output."""

import pytest
import torch
from detectron2.layers import ShapeSpec
from torch import nn

from instseg_d2.modeling.meta_arch.fcos.head import FCOSHead


def build(**kwargs):
    torch.manual_seed(0)
    shapes = [ShapeSpec(channels=8, stride=stride) for stride in (8, 16, 32)]
    return FCOSHead(input_shape=shapes, num_classes=3, conv_dims=[8], **kwargs)


def test_scale_per_level_multiplies_and_cuts_at_zero():
    plain, scaled = build(), build(level_scales=True)
    assert set(scaled.state_dict()) - set(plain.state_dict()) == {"level_scales"}
    with torch.no_grad():
        scaled.level_scales.copy_(torch.tensor([1.0, 2.0, 0.5]))
    features = [torch.randn(2, 8, 4, 6) * 20, torch.randn(2, 8, 2, 3) * 20, torch.randn(2, 8, 1, 2) * 20]
    expected, deltas = plain(features)[1], scaled(features)[1]
    for level, factor in enumerate((1.0, 2.0, 0.5)):
        assert (expected[level] < 0).any()
        torch.testing.assert_close(deltas[level], (expected[level] * factor).clamp(min=0))
    sum(x.sum() for x in deltas).backward()
    sums = torch.stack([x.clamp(min=0).sum() for x in expected])
    torch.testing.assert_close(scaled.level_scales.grad, sums)


@pytest.mark.parametrize("tower", ["box", "class"])
def test_extra_output_reads_the_chosen_tower(tower):
    head = build(extra=nn.Conv2d(8, 5, 1), extra_tower=tower)
    features = [torch.randn(2, 8, 12 // 2**i, 16 // 2**i) for i in range(3)]
    outputs = head(features)
    assert [x.shape for x in outputs[3]] == [(2, 5, 12, 16), (2, 5, 6, 8), (2, 5, 3, 4)]
    subnet, other = (head.bbox_subnet, head.cls_subnet) if tower == "box" else (head.cls_subnet, head.bbox_subnet)
    assert all(torch.equal(x, head.extra(subnet(f))) for x, f in zip(outputs[3], features, strict=True))
    assert not torch.equal(outputs[3][0], head.extra(other(features[0])))


@pytest.mark.parametrize("tower", ["box", "class"])
def test_without_classes_the_rest_is_equal(tower):
    head = build(extra=nn.Conv2d(8, 5, 1), extra_tower=tower)
    features = [torch.randn(2, 8, 12 // 2**i, 16 // 2**i) for i in range(3)]
    seen = []
    head.cls_subnet.register_forward_hook(lambda *_: seen.append(1))
    outputs, expected = head(features, classify=False), head(features)
    assert len(seen) == (3 if tower == "box" else 6)
    assert [x.shape for x in outputs[0]] == [(2, 0, 12, 16), (2, 0, 6, 8), (2, 0, 3, 4)]
    for ours, theirs in zip(outputs[1:], expected[1:], strict=True):
        assert all(torch.equal(x, y) for x, y in zip(ours, theirs, strict=True))


def test_unknown_tower_is_named():
    with pytest.raises(ValueError, match="extra_tower='mask'"):
        build(extra_tower="mask")
