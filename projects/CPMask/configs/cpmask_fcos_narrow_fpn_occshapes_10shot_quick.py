"""Quick few-shot row: ten samples of each of the five categories that the base stage did not see."""

from ._cpmask import few_shots as _few_shots
from .cpmask_fcos_narrow_fpn_occshapes_base_quick import dataloader, lr_multiplier, model, optimizer, train

_few_shots(
    dataloader, shots=10, novel="occshapes_unseen", halves={"seen": "occshapes_seen", "unseen": "occshapes_unseen"}
)
optimizer.lr = 1e-3
train.recipe.lr = 1e-3
train.update(
    max_iter=120,
    init_checkpoint=f"{train.output_dir}/model_final.pth",
    output_dir="./output/cpmask_fcos_narrow_fpn_occshapes_10shot_quick",
)
