"""SIM in place of a CondInst, and the settings of its released code."""

from detectron2.config import LazyCall as L

from instseg_d2.modeling.meta_arch.sim.losses import FocalMaskLoss
from instseg_d2.modeling.meta_arch.sim.pseudo_masks import AdaptiveThresholds

from ....configs.common.models.sim_fpn import make_sim
from ._boxinst import supervise_by_boxes


def teach_by_boxes(model, dataloader):
    """Train SIM on boxes alone, in place: masks are taken out of the records, and the mapper makes none."""
    supervise_by_boxes(model, dataloader)
    make_sim(model)


def as_released(model):
    """What the released code does, where it differs from the paper; see the README."""
    model.supervision.feature_similarity = True
    model.labeler.prototypes.update(temperature=1.0, assignment="gumbel", normalized="prototypes")
    model.labeler.update(
        thresholds=L(AdaptiveThresholds)(low=0.4, high=(0.7, 0.8), confident=0.7),
        mu=0.0,
        score_by_teacher=True,
        update_per_positive=True,
    )
    model.update(
        pseudo_loss=L(FocalMaskLoss)(alpha=0.25, gamma=2.0, dice_weight=0.0, twice_sigmoid=True),
        pseudo_weight=0.3,
        pseudo_ramp_iters=270000,
        teacher_head_on_student=True,
        feature_upsampling="bilinear",
        paste_into="batch",
        paste_loss=L(FocalMaskLoss)(alpha=0.25, gamma=2.0, dice_weight=1.0, twice_sigmoid=True),
    )
    model.copy_paste.share = 0.5
    model.copy_paste.bank.capacity = 50
