"""Swin: against torchvision's, its windows and shapes, freezing, checkpointing and stochastic depth."""

import pytest
import torch
from detectron2.modeling import SwinTransformer
from detectron2.modeling.backbone.swin import window_partition, window_reverse
from torchvision.models.swin_transformer import SwinTransformer as Reference


def tiny(**kwargs):
    settings = {"embed_dim": 8, "depths": (2, 2), "num_heads": (2, 4), "window_size": 4, "drop_path_rate": 0.0}
    return SwinTransformer(**settings | {"out_indices": (0, 1)} | kwargs)


def from_torchvision(reference, ours):
    """Weights of a torchvision Swin under detectron2's names; the final norm is that of the last stage."""
    renamed = {}
    for key, value in reference.state_dict().items():
        parts = key.split(".")
        if parts[:2] == ["features", "0"]:
            parts = ["patch_embed", {"0": "proj", "2": "norm"}[parts[2]], *parts[3:]]
        elif parts[0] == "norm":
            parts[0] = "norm1"
        elif parts[0] == "head":
            continue
        elif int(parts[1]) % 2:
            parts = ["layers", str(int(parts[1]) // 2), "blocks", *parts[2:]]
        else:
            parts = ["layers", str(int(parts[1]) // 2 - 1), "downsample", *parts[2:]]
        name = ".".join(parts).replace("mlp.0.", "mlp.fc1.").replace("mlp.3.", "mlp.fc2.")
        renamed[name] = value.view_as(ours.state_dict()[name])
    return renamed


def test_outputs_equal_torchvision():
    torch.manual_seed(0)
    reference = Reference([4, 4], 8, [2, 2], [2, 4], [4, 4], mlp_ratio=4.0, stochastic_depth_prob=0.0).eval()
    ours = tiny().eval()
    missing = ours.load_state_dict(from_torchvision(reference, ours), strict=False)
    assert set(missing.missing_keys) == {"norm0.weight", "norm0.bias"}
    for parameter in reference.parameters():
        # Away from the small values of the initialisation, so that the attention is not flat.
        parameter.data += 0.3 * torch.randn_like(parameter)
    ours.load_state_dict(from_torchvision(reference, ours), strict=False)

    # 13 x 22 patches: both axes need padding to windows, and merging needs it too.
    x = torch.randn(2, 3, 52, 88)
    with torch.no_grad():
        outputs = ours(x)
        stage0 = reference.features[1](reference.features[0](x))
        last = reference.norm(reference.features(x))
    torch.testing.assert_close(outputs["p0"], ours.norm0(stage0).permute(0, 3, 1, 2), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(outputs["p1"], last.permute(0, 3, 1, 2), rtol=1e-4, atol=1e-5)


def test_shapes_and_keys():
    model = tiny(embed_dim=4, depths=(1, 1, 1, 1), num_heads=(1, 1, 2, 2), out_indices=(1, 3), ape=True, patch_size=4)
    assert {name: (s.channels, s.stride) for name, s in model.output_shape().items()} == {"p1": (8, 8), "p3": (32, 32)}
    outputs = model(torch.zeros(1, 3, 66, 95))
    assert {name: tuple(f.shape) for name, f in outputs.items()} == {"p1": (1, 8, 9, 12), "p3": (1, 32, 3, 3)}
    keys = set(model.state_dict())
    assert {
        "absolute_pos_embed",
        "patch_embed.norm.weight",
        "layers.0.downsample.reduction.weight",
        "norm3.bias",
    } <= keys
    assert {"layers.0.blocks.0.attn.relative_position_index", "layers.0.blocks.0.mlp.fc2.bias"} <= keys
    assert not {"norm0.weight", "layers.3.downsample.reduction.weight", "layers.0.downsample.reduction.bias"} & keys
    assert model.state_dict()["absolute_pos_embed"].shape == (1, 4, 56, 56)
    assert model.state_dict()["layers.0.blocks.0.attn.relative_position_bias_table"].shape == (49, 1)


@pytest.mark.bundled_only
def test_size_divisibility():
    assert tiny().size_divisibility == 32


def test_windows_are_cut_row_by_row():
    x = torch.arange(2 * 4 * 6).view(2, 4, 6, 1)
    windows = window_partition(x, 2)
    assert windows.shape == (12, 2, 2, 1)
    assert windows[1].flatten().tolist() == [2, 3, 8, 9]
    assert windows[3].flatten().tolist() == [12, 13, 18, 19]
    assert torch.equal(window_reverse(windows, 2, 4, 6), x)


@pytest.mark.parametrize(("patch", "pixels"), [(0, 16), (3, 32)])
def test_how_far_one_stage_sees(patch, pixels):
    """
    Windows of 4 patches of 4 pixels, shifted by 2 patches in the second block. Patch 3 sees patches 2 to 5 there, and
    so the first two windows of the first block; patch 0 sees itself and patch 1 there, and so the first window.
    """
    torch.manual_seed(0)
    model = tiny(depths=(2,), num_heads=(2,), out_indices=(0,)).eval()
    x = torch.randn(1, 3, 64, 64, requires_grad=True)
    model(x)["p0"][0, 0, patch, patch].backward()
    influence = x.grad.abs().sum((0, 1))
    assert influence[:pixels, :pixels].min() > 0
    assert influence[pixels:].max() == 0
    assert influence[:, pixels:].max() == 0


def test_frozen_stages():
    model = tiny(frozen_stages=2)
    frozen = {key for key, p in model.named_parameters() if not p.requires_grad}
    expected = {k for k, _ in model.named_parameters() if k.startswith(("patch_embed.", "layers.0."))}
    assert frozen == expected
    assert not model.layers[0].training
    assert model.layers[1].training


def test_checkpointing_changes_nothing():
    torch.manual_seed(0)
    model = tiny(use_checkpoint=True)
    x = torch.randn(1, 3, 32, 40, requires_grad=True)
    grads = []
    for use in (True, False):
        for layer in model.layers:
            layer.use_checkpoint = use
        model.zero_grad()
        sum(f.square().sum() for f in model(x).values()).backward()
        grads.append([p.grad.clone() for p in model.parameters()])
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.bundled_only
def test_stochastic_depth_drops_whole_samples_in_training_only():
    torch.manual_seed(0)
    model = tiny(drop_path_rate=0.6)
    rates = [getattr(block.drop_path, "p", 0.0) for layer in model.layers for block in layer.blocks]
    assert rates == pytest.approx([0.0, 0.2, 0.4, 0.6])
    x = torch.randn(1, 3, 32, 32)
    assert torch.equal(model.eval()(x)["p1"], model(x)["p1"])
    model.train()
    assert len({round(model(x)["p1"].abs().sum().item(), 2) for _ in range(8)}) > 1
    drop = model.layers[1].blocks[1].drop_path
    kept = drop(torch.ones(2000, 3))
    assert sorted(set(kept.flatten().tolist())) == pytest.approx([0.0, 2.5])
    assert torch.equal(kept[:, 0], kept[:, 1])
    assert kept.mean() == pytest.approx(1.0, abs=0.15)


def test_autocast():
    model = tiny(ape=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs = model(torch.randn(1, 3, 36, 52))
        loss = sum(f.float().square().mean() for f in outputs.values())
    loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())
