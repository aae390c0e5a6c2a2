"""SIM on the CondInst of ResNet-50 FPN; `make_sim` makes it of any other CondInst."""

from detectron2.config import LazyCall as L

from instseg_d2.modeling.meta_arch.sim.box_loss import SIMBoxLoss
from instseg_d2.modeling.meta_arch.sim.copy_paste import CopyPaste
from instseg_d2.modeling.meta_arch.sim.instance_bank import InstanceBank
from instseg_d2.modeling.meta_arch.sim.labeler import PseudoLabeler
from instseg_d2.modeling.meta_arch.sim.losses import BCEDiceLoss
from instseg_d2.modeling.meta_arch.sim.model import SIM
from instseg_d2.modeling.meta_arch.sim.prototypes import Prototypes
from instseg_d2.modeling.meta_arch.sim.pseudo_masks import FixedThresholds

from .condinst_fpn import model


def make_sim(model):
    """Turn a CondInst node into SIM, in place, with the paper's settings."""
    model.mask_branch.out_channels = 16
    model.detector.center_sampling = "box"
    model.update(
        _target_=SIM,
        max_positives=None,
        positives_per_image=64,
        supervision=L(SIMBoxLoss)(
            input_format="${..input_format}",
            warmup_iters=10000,
            color_threshold=0.1,
            neighbor_size=3,
            neighbor_dilation=2,
            bottom_pixels_removed=10,
            feature_similarity=False,
        ),
        labeler=L(PseudoLabeler)(
            prototypes=L(Prototypes)(
                num_classes="${...detector.num_classes}",
                channels="${...mask_branch.out_channels}",
                num_prototypes=10,
                temperature=0.1,
                momentum=0.999,
                epsilon=0.05,
                sinkhorn_iterations=3,
                assignment="argmax",
                normalized="vectors",
            ),
            # Of a temperature of 0.1: the semantic map is near 1 in most of a box, and tells what is not.
            thresholds=L(FixedThresholds)(low=0.65, high=0.8),
            alpha=0.5,
            mu=5.0,
            confident=0.7,
            score_by_teacher=False,
            update_per_positive=False,
        ),
        pseudo_loss=L(BCEDiceLoss)(bce_weight=1.0, dice_weight=1.0),
        pseudo_weight=0.5,
        warmup_iters="${.supervision.warmup_iters}",
        pseudo_ramp_iters=0,
        teacher_momentum=0.9999,
        teacher_head_on_student=False,
        feature_upsampling="aligned",
        copy_paste=L(CopyPaste)(
            bank=L(InstanceBank)(capacity=100),
            probability=0.5,
            share=0.25,
            number=(1, 3),
            score_power=3.0,
            least_visible=0.0,
        ),
        paste_into="copy",
        paste_loss=L(BCEDiceLoss)(bce_weight=1.0, dice_weight=1.0),
        paste_weight=1.0,
        paste_threshold=0.7,
        test_with_teacher=False,
    )


make_sim(model)
