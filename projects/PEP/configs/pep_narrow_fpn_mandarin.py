"""A narrow PEP on photographs of piled mandarins; data in `$DETECTRON2_DATASETS/mandarin`."""

from ....configs.common.data.photographs import dataloader
from .pep_narrow_fpn_occshapes_quick import lr_multiplier, model, optimizer, train

dataloader.train.dataset.names = "mandarin_train"
dataloader.test.dataset.names = "mandarin_val"
model.num_classes = 1
train.update(max_iter=600, output_dir="./output/pep_narrow_fpn_mandarin")
