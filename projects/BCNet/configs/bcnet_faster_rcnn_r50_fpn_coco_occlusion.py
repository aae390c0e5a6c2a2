"""BCNet on Faster R-CNN R50-FPN, trained further on pasted occlusion: 31.71 -> 32.89 AP on COCO-OCC in the thesis.

Neither its images nor its schedule were published. Ours: from the weights of `bcnet_faster_rcnn_r50_fpn_coco_1x`, a
third of its iterations at a tenth of its learning rate, with one or two objects pasted into every other image.
`dataloader.train.mapper.paste.probability=0` is the same training without them, the control of a comparison.
"""

from ....configs.common.data.pasted import paste_occlusion as _paste_occlusion
from .bcnet_faster_rcnn_r50_fpn_coco_1x import dataloader, lr_multiplier, model, optimizer, train

_paste_occlusion(dataloader, probability=0.5)
optimizer.lr = 0.002
train.update(
    init_checkpoint=f"{train.output_dir}/model_final.pth",
    max_iter=30000,
    output_dir="./output/bcnet_faster_rcnn_r50_fpn_coco_occlusion",
)
train.recipe.lr = 0.002
