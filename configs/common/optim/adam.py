"""Adam without weight decay, for networks that are trained from random weights at a constant or stepped rate."""

from torch.optim import Adam

from detectron2.config import LazyCall as L
from detectron2.solver import get_default_optimizer_params

optimizer = L(Adam)(
    params=L(get_default_optimizer_params)(base_lr="${..lr}", weight_decay=0.0, weight_decay_norm=0.0),
    lr=1e-4,
    betas=(0.9, 0.999),
)
