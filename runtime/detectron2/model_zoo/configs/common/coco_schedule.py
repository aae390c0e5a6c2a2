"""Step schedules by their length in units of 90k iterations of 16 images, about 12 epochs of COCO."""

from fvcore.common.param_scheduler import MultiStepParamScheduler

from detectron2.config import LazyCall as L
from detectron2.solver import WarmupParamScheduler


def default_X_scheduler(num_X):
    """
    Ten times less at two points near the end, after a warm-up of 1000 iterations.

    Up to 2x the steps lie at 2/3 and 8/9 of training, beyond at 60k and 20k iterations before its end.
    """
    length = 90000 * num_X
    milestones = [60000, 80000, 90000] if num_X <= 2 else [length - 60000, length - 20000, length]
    return L(WarmupParamScheduler)(
        scheduler=L(MultiStepParamScheduler)(values=[1.0, 0.1, 0.01], milestones=milestones),
        warmup_method="linear",
        warmup_factor=0.001,
        warmup_length=1000 / length,
    )


lr_multiplier_1x = default_X_scheduler(1)
lr_multiplier_2x = default_X_scheduler(2)
lr_multiplier_3x = default_X_scheduler(3)
lr_multiplier_6x = default_X_scheduler(6)
lr_multiplier_9x = default_X_scheduler(9)
