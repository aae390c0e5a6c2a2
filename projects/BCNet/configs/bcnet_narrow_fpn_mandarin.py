"""BCNet on the narrow Faster R-CNN, on photographs of piled mandarins; data in `$DETECTRON2_DATASETS/mandarin`."""

from ....configs.common.data.photographs import dataloader
from ._bcnet import give_bcnet
from .mask_rcnn_narrow_fpn_occshapes_quick import lr_multiplier, model, optimizer, train

dataloader.train.dataset.names = "mandarin_train"
dataloader.test.dataset.names = "mandarin_val"
model.roi_heads.num_classes = 1
give_bcnet(model.roi_heads, dataloader)
train.update(max_iter=600, output_dir="./output/bcnet_narrow_fpn_mandarin")
