"""Quick few-shot row: ten samples of each of the five categories that the base stage did not see."""

from ._cpmask import few_shots as _few_shots
from .cpmask_fcos_narrow_fpn_occshapes_base_quick import dataloader, lr_multiplier, model, optimizer, train

_few_shots(
    dataloader, shots=10, novel="occshapes_unseen", halves={"seen": "occshapes_seen", "unseen": "occshapes_unseen"}
)
# Half the usual batch: the rows of the table take up to six times these iterations.
dataloader.train.total_batch_size = 4
optimizer.lr = 1e-3
train.recipe.update(total_batch_size=4, lr=1e-3)
train.update(
    max_iter=120,
    init_checkpoint=f"{train.output_dir}/without_classes.pth",
    output_dir="./output/cpmask_fcos_narrow_fpn_occshapes_10shot_quick",
)
