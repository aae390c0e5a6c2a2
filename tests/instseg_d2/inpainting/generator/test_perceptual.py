import pytest
import torch
from torch import nn
from torchvision.models import vgg16

from instseg_d2.inpainting.errors import InpaintingError
from instseg_d2.inpainting.generator.perceptual import PerceptualLoss, vgg16_features


def identity_loss(**options):
    """Compares the normalized colours themselves."""
    return PerceptualLoss(features=nn.Sequential(nn.Identity()), layers=(0,), **options)


def test_values_by_hand():
    composed, clean = torch.full((1, 2, 3, 4, 4), 1.0), torch.full((1, 2, 3, 4, 4), -1.0)
    losses = identity_loss()(composed, clean)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    assert losses["loss_inpaint_content"].item() == pytest.approx((1 / std).mean().item(), rel=1e-5)
    white, black = (1 - mean) / std, -mean / std
    gram = (white[:, None] * white - black[:, None] * black).abs().mean() / 3
    assert losses["loss_inpaint_style"].item() == pytest.approx(10 * gram.item(), rel=1e-4)


def test_gradient_reaches_the_clip_but_not_the_features():
    features = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), nn.Conv2d(4, 4, 3), nn.ReLU(inplace=True))
    criterion = PerceptualLoss(features=features, layers=(0, 3))
    composed = torch.rand(1, 2, 3, 8, 8, requires_grad=True)
    losses = criterion(composed, torch.rand(1, 2, 3, 8, 8))
    sum(losses.values()).backward()
    assert composed.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in criterion.parameters())
    same = criterion(composed, composed)
    assert [loss.item() for loss in same.values()] == [0, 0]


def test_layers_beyond_the_last_are_not_run():
    features = nn.Sequential(nn.Identity(), nn.Conv2d(7, 7, 1))
    assert len(PerceptualLoss(features=features, layers=(0,)).features) == 1


def test_missing_and_wrong_files(tmp_path):
    with pytest.raises(InpaintingError, match="no such file; the perceptual loss needs"):
        vgg16_features(tmp_path / "vgg16.pth")
    torch.save({"weight": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(InpaintingError, match="not a state dict of torchvision's vgg16"):
        vgg16_features(tmp_path / "other.pth")


def test_default_layers_are_the_last_before_poolings():
    with torch.device("meta"):
        layers = vgg16().features
    for index in (3, 8, 15):
        assert isinstance(layers[index], nn.ReLU)
        assert isinstance(layers[index + 1], nn.MaxPool2d)
