"""SGD with momentum: detectron2's default for ResNet models at batch 16."""

from torch.optim import SGD

from detectron2.config import LazyCall as L
from detectron2.solver import get_default_optimizer_params

optimizer = L(SGD)(
    params=L(get_default_optimizer_params)(weight_decay_norm=0.0),
    lr=0.02,
    momentum=0.9,
    weight_decay=1e-4,
)
