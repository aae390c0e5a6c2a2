"""The recipe of 100 epochs, four times as long."""

from .mask_rcnn_R_50_FPN_100ep_LSJ import dataloader, lr_multiplier, model, optimizer, train

train.max_iter *= 4
lr_multiplier.scheduler.num_updates = train.max_iter
lr_multiplier.scheduler.milestones = [step * 4 for step in lr_multiplier.scheduler.milestones]
