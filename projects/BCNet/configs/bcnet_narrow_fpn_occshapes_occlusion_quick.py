"""The narrow BCNet on OccShapes, trained further on pasted occlusion, from `bcnet_narrow_fpn_occshapes_quick`."""

from ....configs.common.data.pasted import paste_occlusion as _paste_occlusion
from .bcnet_narrow_fpn_occshapes_quick import dataloader, lr_multiplier, model, optimizer, train

_paste_occlusion(dataloader, probability=0.5)
optimizer.lr = 2e-4
train.update(
    init_checkpoint=f"{train.output_dir}/model_final.pth",
    max_iter=200,
    output_dir="./output/bcnet_narrow_fpn_occshapes_occlusion_quick",
)
train.recipe.lr = 2e-4
