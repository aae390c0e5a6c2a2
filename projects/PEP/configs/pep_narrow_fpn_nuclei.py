"""A narrow PEP on microscope images of cell nuclei, many and small; data in `$DETECTRON2_DATASETS/dsb2018_nuclei`."""

from .pep_narrow_fpn_mandarin import dataloader, lr_multiplier, model, optimizer, train

dataloader.train.dataset.names = "nuclei_train"
dataloader.test.dataset.names = "nuclei_val"
# A nucleus is about 15 px wide in an image of 256.
model.head.grid_numbers = [64, 32, 16, 8]
model.assigner.scale_ranges = [(1, 32), (24, 64), (48, 96), (80, 512)]
model.head.max_originals = 300
model.update(train_originals=60, max_nodes=300)
model.excavating.train_keys_per_image = 30
model.decoder.max_per_image = 300
dataloader.evaluator.max_dets_per_image = 300
train.output_dir = "./output/pep_narrow_fpn_nuclei"
