"""AdamW without weight decay on norms: for models trained from random weights, and for transformers."""

from torch.optim import AdamW

from detectron2.config import LazyCall as L
from detectron2.solver import get_default_optimizer_params

optimizer = L(AdamW)(
    params=L(get_default_optimizer_params)(base_lr="${..lr}", weight_decay_norm=0.0),
    lr=1e-3,
    betas=(0.9, 0.999),
    weight_decay=0.05,
)
