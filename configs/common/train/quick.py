"""Run settings of the quick recipes: minutes on two CPU cores, from random weights."""

from .default import train

train.update(
    max_iter=500,
    clip_grad_norm=5.0,
    eval_period=0,
    log_period=10,
)
train["checkpointer"].update(period=100, max_to_keep=2)
train["recipe"].update(total_batch_size=8, lr=1e-3)
