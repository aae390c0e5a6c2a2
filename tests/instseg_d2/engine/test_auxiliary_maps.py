import pytest
import torch
from detectron2.config import LazyCall as L
from detectron2.config import instantiate
from detectron2.layers import ShapeSpec
from detectron2.layers.mask_ops import paste_masks_in_image
from detectron2.modeling.poolers import ROIPooler
from detectron2.modeling.roi_heads import MaskRCNNConvUpsampleHead

from instseg_d2.engine.auxiliary_maps import keep_auxiliary_maps
from instseg_d2.modeling.mask_heads.atmask import ATMaskHead
from instseg_d2.modeling.mask_heads.bcnet import BCNetHead
from instseg_d2.modeling.mask_heads.mask_rcnn import MaskRCNNHead
from instseg_d2.testing import (
    TINY_CHANNELS,
    fake_instances,
    put_mask_head,
    tiny_fcos_mask_config,
    tiny_mask_rcnn_config,
)

_SHAPE = L(ShapeSpec)(channels=TINY_CHANNELS, width=14, height=14)


def _pooler(size):
    return L(ROIPooler)(output_size=size, scales=[1 / 4], sampling_ratio=0, pooler_type="ROIAlignV2")


_ATMASK = L(ATMaskHead)(
    in_channels=TINY_CHANNELS,
    num_classes=3,
    in_features=["p2"],
    pooler=_pooler(14),
    threshold_in_features=["p2"],
    threshold_pooler=_pooler(28),
    conv_dim=16,
)
_BCNET = L(BCNetHead)(input_shape=_SHAPE, conv_dim=TINY_CHANNELS, num_convs=2)
_PLAIN = {"input_shape": _SHAPE, "num_classes": 3, "conv_dims": [16, 16]}
_OCCLUSION = {"pred_contours", "pred_occluder_masks", "pred_occluder_contours"}


@pytest.mark.parametrize(
    ("config", "head", "pooled", "maps"),
    [
        (tiny_mask_rcnn_config, L(MaskRCNNHead)(**_PLAIN), True, set()),
        (tiny_mask_rcnn_config, L(MaskRCNNConvUpsampleHead)(**_PLAIN), True, set()),
        (tiny_mask_rcnn_config, _ATMASK, False, {"pred_thresholds", "pred_probabilities"}),
        (tiny_mask_rcnn_config, _BCNET, True, _OCCLUSION),
        (tiny_fcos_mask_config, _BCNET, True, _OCCLUSION),
    ],
)
def test_heads_attach_all_they_have(config, head, pooled, maps):
    torch.manual_seed(0)
    model = instantiate(put_mask_head(config(), head, pooled=pooled)).eval()
    for module in model.modules():
        if hasattr(module, "test_score_thresh"):
            module.test_score_thresh = 0.0
    batch = [{"image": torch.randint(0, 256, (3, 64, 96), dtype=torch.uint8), "height": 128, "width": 192}]

    def predict():
        with torch.no_grad():
            return model(batch)[0]["instances"]

    before = predict()
    names = keep_auxiliary_maps(model)
    after = predict()
    assert [name.rpartition(".")[2] for name in names] == (["mask_head"] if maps else [])
    assert len(before) > 0
    assert torch.equal(before.pred_masks, after.pred_masks)
    assert set(after.get_fields()) - set(before.get_fields()) == maps | {"pred_soft_masks"}
    for name in (*maps, "pred_soft_masks"):
        values = after.get(name)
        assert values.shape == (len(after), 1, 28, 28)
        assert ((values >= 0) & (values <= 1)).all()
    pasted = paste_masks_in_image(after.pred_soft_masks[:, 0], after.pred_boxes, (128, 192))
    assert torch.equal(pasted, after.pred_masks)


def test_training_is_left_alone():
    model = instantiate(put_mask_head(tiny_mask_rcnn_config(), _BCNET))
    keep_auxiliary_maps(model)
    regions = fake_instances(64, 96, [])
    regions.proposal_boxes = regions.gt_boxes
    losses = model.roi_heads.mask_head(torch.rand(0, TINY_CHANNELS, 14, 14), [regions])
    assert set(losses) >= {"loss_mask", "loss_occluder"}
