"""What ATMask R-CNN changes in a Mask R-CNN: the mask head, which pools for itself."""

from detectron2.config import LazyCall as L
from detectron2.modeling.poolers import ROIPooler

from instseg_d2.modeling.mask_heads.atmask import ATMaskHead


def give_atmask(model):
    """Put ATMask's head in the place of Mask R-CNN's, in place; the threshold branch pools from P2 alone."""
    heads = model.roi_heads
    plain, pooler = heads.mask_head, heads.mask_pooler
    heads.mask_pooler = None
    heads.mask_head = L(ATMaskHead)(
        in_channels="${...backbone.out_channels}",
        num_classes=plain.num_classes,
        in_features="${..mask_in_features}",
        pooler=pooler,
        threshold_in_features=["p2"],
        threshold_pooler=L(ROIPooler)(output_size=28, scales=(1 / 4,), sampling_ratio=0, pooler_type="ROIAlignV2"),
        conv_dim=plain.conv_dims[-1],
        num_convs=4,
        num_threshold_convs=2,
        probability_to_threshold=True,
        threshold_to_probability=True,
        reduce_first=False,
        steepness=2.0,
        threshold_target="background",
        shared_threshold=False,
        threshold_weight=1.0,
        binary_weight=2.0,
        result="binary",
        keep_aux=False,
    )
