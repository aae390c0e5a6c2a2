"""FCOS with masks that tracks, R50-FPN on YouTube-VIS 2019: the schedule of SipMask-VIS, from Baselines."""

from detectron2.config import LazyCall as L

from instseg_d2.engine.lr_schedule import warmup_multistep

from ....configs.common.data.youtube_vis import dataloader
from ....configs.common.models.tracking_fcos_fpn import model
from ....configs.common.optim.sgd import optimizer
from ....configs.common.train.default import train

model.detector.num_classes = 40
optimizer.lr = 0.005
optimizer.params.update(base_lr="${..lr}", bias_lr_factor=2.0, weight_decay_bias=0.0)
lr_multiplier = L(warmup_multistep)(
    max_iter="${train.max_iter}", drop_at=[8 / 12, 11 / 12], warmup_iters=1000, warmup_factor=1 / 80
)
train.update(
    init_checkpoint="./output/fcos_mask_r50_fpn_coco_1x/model_final.pth",
    # 12 epochs of about 61,800 annotated frames at batch 32.
    max_iter=23200,
    output_dir="./output/tracking_fcos_r50_fpn_ytvis2019",
)
train["recipe"].update(total_batch_size=32, lr=0.005)
