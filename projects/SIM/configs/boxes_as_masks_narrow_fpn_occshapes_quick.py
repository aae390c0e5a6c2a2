"""The narrow BoxInst with filled boxes as masks to learn: what SIM and BoxInst are to be better than."""

from detectron2.config import LazyCall as L

from instseg_d2.modeling.meta_arch.sim.box_loss import BoxesAsMasks

from .boxinst_narrow_fpn_occshapes_quick import dataloader, lr_multiplier, model, optimizer, train

model.supervision = L(BoxesAsMasks)()
train.output_dir = "./output/boxes_as_masks_narrow_fpn_occshapes_quick"
