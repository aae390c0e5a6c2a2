"""Frozen, cyclic and layer norms: equality with torch's own, conversions, and old checkpoints."""

import pytest
import torch
from detectron2.layers import CNNBlockBase, Conv2d, CycleBatchNormList, FrozenBatchNorm2d, get_norm
from torch import nn


def trained_norm(channels=6, **kwargs):
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(channels, **kwargs)
    for tensor in (norm.weight, norm.bias, norm.running_mean):
        tensor.data.normal_()
    norm.running_var.uniform_(0.5, 2)
    return norm.eval()


def test_frozen_norm_equals_batch_norm_with_and_without_gradient():
    norm = trained_norm(eps=1e-3)
    frozen = FrozenBatchNorm2d.convert_frozen_batchnorm(norm)
    x = torch.randn(2, 6, 5, 4)
    torch.testing.assert_close(frozen.train()(x), norm(x))
    leaf, other = x.clone().requires_grad_(), x.clone().requires_grad_()
    out = frozen(leaf)
    torch.testing.assert_close(out, norm(x))
    out.pow(2).sum().backward()
    norm(other).pow(2).sum().backward()
    torch.testing.assert_close(leaf.grad, other.grad)
    assert not list(frozen.parameters())


def test_new_frozen_norm_is_the_identity_in_every_dtype():
    for dtype in (torch.float32, torch.bfloat16):
        x = torch.randn(2, 3, 4, 4, dtype=dtype)
        for needs_grad in (False, True):
            out = FrozenBatchNorm2d(3)(x.clone().requires_grad_(needs_grad))
            assert out.dtype == dtype
            torch.testing.assert_close(out, x)


def test_conversion_reaches_nested_norms_and_back():
    class Block(CNNBlockBase):
        def __init__(self):
            super().__init__(3, 4, 2)
            self.body = nn.Sequential(Conv2d(3, 4, 1, norm=trained_norm(4)), nn.BatchNorm2d(4, affine=False))

    block = Block()
    assert block.freeze() is block
    assert [type(m) for m in (block.body[0].norm, block.body[1])] == [FrozenBatchNorm2d] * 2
    assert not any(p.requires_grad for p in block.parameters())
    assert "body.0.norm.num_batches_tracked" in block.state_dict()
    assert block.state_dict()["body.0.norm.num_batches_tracked"].dtype == torch.int64
    x = torch.randn(2, 3, 4, 4)
    before = block.eval().body(x)
    FrozenBatchNorm2d.convert_frozenbatchnorm2d_to_batchnorm2d(block)
    assert type(block.body[0].norm) is nn.BatchNorm2d
    torch.testing.assert_close(block.eval().body(x), before)


def test_checkpoints_without_statistics():
    frozen = FrozenBatchNorm2d(2)
    state = {"weight": torch.tensor([2.0, 3.0]), "bias": torch.ones(2)}
    report = frozen.load_state_dict(dict(state), strict=False)
    assert not report.missing_keys
    assert frozen.running_mean.tolist() == [0, 0]
    assert frozen.running_var.tolist() == [1, 1]
    x = torch.randn(1, 2, 3, 3)
    torch.testing.assert_close(frozen(x), x * torch.tensor([2.0, 3.0])[:, None, None] + 1, atol=1e-4, rtol=1e-4)
    assert FrozenBatchNorm2d._version == 3


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("BN", nn.BatchNorm2d),
        ("SyncBN", nn.SyncBatchNorm),
        ("FrozenBN", FrozenBatchNorm2d),
        ("GN", nn.GroupNorm),
        ("naiveSyncBN", nn.BatchNorm2d),
    ],
)
def test_norms_by_name(name, kind):
    assert isinstance(get_norm(name, 64), kind)


def test_no_norm_own_norm_and_unknown_norm():
    assert get_norm("", 4) is None
    assert get_norm(None, 4) is None
    assert get_norm(lambda channels: nn.GroupNorm(2, channels), 4).num_groups == 2
    with pytest.raises(KeyError):
        get_norm("BatchNorm", 4)


def test_naive_sync_norm_of_one_process_is_batch_norm():
    x = torch.randn(3, 4, 5, 5)
    ours, torchs = get_norm("naiveSyncBN_N", 4), nn.BatchNorm2d(4)
    torch.testing.assert_close(ours(x), torchs(x))
    torch.testing.assert_close(ours.running_var, torchs.running_var)


def test_cycled_norms_keep_statistics_apart():
    norm = CycleBatchNormList(2, num_features=3, momentum=1.0)
    for _ in range(2):
        norm(torch.randn(8, 3, 4, 4))
        norm(torch.randn(8, 3, 4, 4) + 10)
    means = [bn.running_mean.mean().item() for bn in norm]
    assert means[0] == pytest.approx(0, abs=0.5)
    assert means[1] == pytest.approx(10, abs=0.5)
    assert {"weight", "bias"} <= set(norm.state_dict())
    assert len(list(CycleBatchNormList(2, num_features=3, affine=False).parameters())) == 0


def test_layer_norm_over_channels():
    x = torch.randn(2, 8, 3, 5)
    norm = get_norm("LN", 8)
    nn.init.normal_(norm.weight)
    expected = nn.functional.layer_norm(x.permute(0, 2, 3, 1), (8,), norm.weight, norm.bias, eps=1e-6)
    torch.testing.assert_close(norm(x), expected.permute(0, 3, 1, 2))
