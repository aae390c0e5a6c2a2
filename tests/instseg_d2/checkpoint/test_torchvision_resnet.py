import pytest
import torch
from detectron2.modeling.backbone.resnet import BasicStem, ResNet
from torch import nn
from torchvision.models import resnet50

from instseg_d2.checkpoint import load_weights
from instseg_d2.checkpoint.torchvision_resnet import is_torchvision_resnet, rename_torchvision_resnet


def ours():
    stages = ResNet.make_default_stages(50, stride_in_1x1=False, norm="FrozenBN")
    return ResNet(BasicStem(norm="FrozenBN"), stages, out_features=["res5"]).eval()


@pytest.fixture(scope="module")
def theirs():
    torch.manual_seed(0)
    model = resnet50().eval()
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.uniform_(-1, 1)
            layer.running_var.uniform_(0.5, 2)
            nn.init.uniform_(layer.weight, 0.2, 0.5)
    return model


@torch.no_grad()
def test_a_backbone_starts_from_the_file_as_it_is(theirs, tmp_path):
    torch.save(theirs.state_dict(), tmp_path / "resnet50.pth")
    model = nn.ModuleDict({"backbone": nn.ModuleDict({"bottom_up": ours()}), "head": nn.Conv2d(1, 1, 1)})
    load_weights(model, str(tmp_path / "resnet50.pth"), partial=True)
    image = torch.rand(1, 3, 64, 64)
    features = theirs.maxpool(theirs.relu(theirs.bn1(theirs.conv1(image))))
    for layer in (theirs.layer1, theirs.layer2, theirs.layer3, theirs.layer4):
        features = layer(features)
    torch.testing.assert_close(model["backbone"]["bottom_up"](image)["res5"], features, atol=1e-5, rtol=1e-5)


def test_all_names(theirs):
    assert is_torchvision_resnet(theirs.state_dict())
    renamed = rename_torchvision_resnet(theirs.state_dict())
    wanted = {name for name in ours().state_dict() if not name.endswith("num_batches_tracked")}
    assert set(renamed) == wanted
    assert not is_torchvision_resnet(renamed)
