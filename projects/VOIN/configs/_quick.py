"""Optimizer and run settings that the quick recipes of VOIN share."""

from ....configs.common.optim.adam import optimizer
from ....configs.common.optim.schedules import cosine as lr_multiplier
from ....configs.common.train.quick import train

from ._voin import draw_samples

# Small networks and few iterations: a higher rate than the base recipes' 1e-4.
optimizer.lr = 1e-3
train["recipe"].update(total_batch_size=4, lr=1e-3)
train["max_iter"] = 150
lr_multiplier.warmup_iters = 10
draw_samples(train, period=75)
