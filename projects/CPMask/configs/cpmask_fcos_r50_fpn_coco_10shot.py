"""CPMask on FCOS R50-FPN, ten samples of each of VOC's categories, from the weights of the base stage: Table 4.2."""

from ._cpmask import few_shots, fine_tune
from .cpmask_fcos_r50_fpn_coco_base import dataloader, lr_multiplier, model, optimizer, train

few_shots(dataloader, shots=10)
fine_tune(optimizer, lr_multiplier, train, start=train.output_dir)
train.output_dir = "./output/cpmask_fcos_r50_fpn_coco_10shot"
