"""SIM in place of a Mask2Former."""

from detectron2.config import LazyCall as L

from instseg_d2.modeling.meta_arch.sim.mask2former import SIMMask2Former

from ....configs.common.models.sim_fpn import model as _sim
from ._mask2former_box import supervise_by_boxes

# What is the same whatever the model: all but what comes from its detector and mask branch.
_SHARED = ("labeler", "pseudo_loss", "teacher_momentum", "copy_paste", "paste_loss", "paste_threshold")


def teach_by_boxes(model, dataloader):
    """Train SIM on boxes alone, in place: masks are taken out of the records, and the mapper makes none."""
    supervise_by_boxes(model, dataloader)
    model.supervision.color_threshold = _sim.supervision.color_threshold
    model.update(_target_=SIMMask2Former, **{key: _sim[key] for key in _SHARED})
    model.update(
        warmup_iters="${.supervision.warmup_iters}",
        # Mask2Former multiplies its mask losses by 5.
        pseudo_weight=5 * _sim.pseudo_weight,
        paste_weight=5 * _sim.paste_weight,
        test_with_teacher=False,
    )
    model.labeler.prototypes.update(num_classes="${...num_classes}", channels="${...pixel_decoder.mask_channels}")
