import pytest
import torch

from instseg_d2.inpainting.shape.parts import ClassMaskFusion, FrameEncoder, ShapeDecoder


def test_sizes_of_encoder_and_decoder():
    with torch.device("meta"):
        features = FrameEncoder()(torch.empty(5, 4, 240, 432))
        assert features.shape == (5, 256, 60, 108)
        assert ShapeDecoder()(features).shape == (5, 64, 240, 432)
        widths = [layer.out_channels for layer in FrameEncoder() if hasattr(layer, "out_channels")]
    assert widths == [64, 64, 128, 256]


def fusion(**options):
    torch.manual_seed(0)
    return ClassMaskFusion(in_channels=4, num_classes=3, embedding_dim=8, class_channels=4, hidden=(8, 4), **options)


def test_class_matters_where_the_object_is_seen_alone():
    model = fusion().eval()
    # 1x1 instead of 3x3: what one pixel says stays there.
    for index in (0, 2):
        model.fuse[index].weight.data[:, :, [0, 0, 0, 1, 1, 2, 2, 2], [0, 1, 2, 0, 2, 0, 1, 2]] = 0
    features, visible = torch.randn(1, 2, 4, 6, 6), torch.zeros(1, 2, 1, 6, 6)
    visible[..., :3, :] = 1
    unknown, known = (model(features, visible, torch.tensor([label])) for label in (-1, 2))
    differ = (unknown - known).abs() > 1e-6
    assert differ.equal(visible > 0.5)
    assert model(features, visible, None).equal(unknown)


def test_class_dropout_counts_clips_as_unknown():
    features, visible = torch.randn(1, 1, 4, 4, 4), torch.ones(1, 1, 1, 4, 4)
    classes = torch.tensor([1])
    dropped = fusion(class_dropout=1.0)
    assert dropped(features, visible, classes).equal(dropped(features, visible, None))
    kept = fusion(class_dropout=0.0)
    assert kept(features, visible, classes).equal(kept.eval()(features, visible, classes))
    assert not kept(features, visible, classes).equal(kept(features, visible, None))


def test_share_of_dropped_classes():
    torch.manual_seed(0)
    model = fusion()
    rows = model._rows(torch.full((4000,), 2), torch.zeros(4000, 1))
    assert set(rows.tolist()) == {0, 3}
    assert 0.08 < rows.eq(0).float().mean() < 0.12


def test_without_classes():
    model = ClassMaskFusion(in_channels=4, num_classes=3, class_channels=0)
    assert model.embedding is None
    assert model(torch.randn(1, 2, 4, 5, 5), torch.ones(1, 2, 1, 5, 5), torch.tensor([1])).shape == (1, 2, 1, 5, 5)


def test_class_out_of_range():
    with pytest.raises(ValueError, match=r"\[0, 3\), or -1 for unknown, got \[3\]"):
        fusion()(torch.randn(1, 1, 4, 4, 4), torch.ones(1, 1, 1, 4, 4), torch.tensor([3]))
