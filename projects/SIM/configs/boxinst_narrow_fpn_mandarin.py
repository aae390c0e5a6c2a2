"""BoxInst on photographs of mandarins: it learns from their boxes alone, and is evaluated by their masks.

The set lies under `$DETECTRON2_DATASETS/mandarin`.
"""

from ....configs.common.data.photographs import dataloader
from ._boxinst import supervise_by_boxes
from .condinst_narrow_fpn_occshapes_quick import lr_multiplier, model, optimizer, train

dataloader.train.dataset.names = "mandarin_train"
dataloader.test.dataset.names = "mandarin_val"
model.detector.num_classes = 1
supervise_by_boxes(model, dataloader)
# The warm-up takes a ninth of the training, as on COCO; boxes of this set are good at the bottom, too.
model.supervision.update(warmup_iters=67, bottom_pixels_removed=0)
train.update(max_iter=600, output_dir="./output/boxinst_narrow_fpn_mandarin")
