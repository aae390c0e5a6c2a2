"""PEP R50-FPN on COCO 2017 as its equations are printed; the losses are divided by numbers of pixels all the same."""

from ._pep import use_equations as _use_equations
from .pep_r50_fpn_coco_3x import dataloader, lr_multiplier, model, optimizer, train

_use_equations(model)
train.output_dir = "./output/pep_literal_r50_fpn_coco_3x"
