"""BoxInst on microscope images of cell nuclei (Data Science Bowl 2018): many small objects an image.

The set lies under `$DETECTRON2_DATASETS/dsb2018_nuclei`.
"""

from .boxinst_narrow_fpn_mandarin import dataloader, lr_multiplier, model, optimizer, train

dataloader.train.dataset.names = "nuclei_train"
dataloader.test.dataset.names = "nuclei_val"
# Nuclei images hold up to some hundreds of objects.
model.detector.max_detections_per_image = 300
dataloader.evaluator.max_dets_per_image = 300
train.output_dir = "./output/boxinst_narrow_fpn_nuclei"
