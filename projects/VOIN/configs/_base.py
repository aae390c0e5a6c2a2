"""Optimizer and run settings that the base recipes of VOIN share: STTN's rate and drops (arXiv:2007.10247)."""

from detectron2.config import LazyCall as L

from instseg_d2.engine.lr_schedule import warmup_multistep

from ....configs.common.optim.adam import optimizer
from ....configs.common.train.default import train

from ._voin import draw_samples

# 500,000 iterations at batch 8, ten times slower from 150,000 on and again from 300,000 on.
lr_multiplier = L(warmup_multistep)(
    max_iter="${train.max_iter}", drop_at=[150000 / 500000, 300000 / 500000], warmup_iters=10, warmup_factor=1.0
)
train.update(max_iter=500000, eval_period=20000)
train["recipe"].update(total_batch_size=8, lr=1e-4)
draw_samples(train, period=5000)
