"""Swin-B under the FPN of a CondInst model: what changes in the model, its optimizer (AdamW) and its training."""

from ....configs.common.models.swin import swin_b, use_swin


def use_swin_b(model, optimizer, train):
    """Take the stages of strides 8 to 32, images in RGB, and start from weights of ImageNet-22k; in place."""
    use_swin(model.detector.backbone, swin_b, stages=(1, 2, 3))
    model.detector.update(pixel_mean=[123.675, 116.280, 103.530], pixel_std=[58.395, 57.120, 57.375])
    model.input_format = "RGB"
    optimizer.lr = 1e-4
    optimizer.params.overrides = {"relative_position_bias_table": {"weight_decay": 0.0}}
    train.init_checkpoint = (
        "detectron2://ImageNetPretrained/swin/swin_base_patch4_window7_224_22k.pth?matching_heuristics=True"
    )
    train.recipe.lr = 1e-4
