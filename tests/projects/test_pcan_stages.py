"""PCAN's stages on BDD100K: what each of them trains, and what it starts from."""

import pytest
import torch
from detectron2.config import instantiate

STAGES = {
    "tracking_rcnn_r50_fpn_bdd100k_boxes": ("ImageNet", {"backbone", "proposal_generator", "roi_heads", "track_head"}),
    "tracking_rcnn_r50_fpn_bdd100k_masks": ("tracking_rcnn_r50_fpn_bdd100k_boxes", {"roi_heads"}),
    "pcan_r50_fpn_bdd100k": ("tracking_rcnn_r50_fpn_bdd100k_masks", {"frame_attention", "instance_attention"}),
    "pcan_released_r50_fpn_bdd100k": ("tracking_rcnn_r50_fpn_bdd100k_masks", {"instance_attention"}),
}


@pytest.mark.parametrize("name", STAGES)
def test_each_stage_trains_its_part(recipe, name):
    cfg = recipe(f"PCAN/{name}")
    start, learning = STAGES[name]
    assert start in cfg.train.init_checkpoint
    with torch.device("meta"):
        model = instantiate(cfg.model)
    modules = dict(model.named_modules())
    for part in cfg.train.freeze:
        modules[part].requires_grad_(False)
    names = {part for part, parameter in model.named_parameters() if parameter.requires_grad}
    assert {part.split(".")[0] for part in names} == learning
    if name.endswith("_masks"):
        assert all(part.startswith("roi_heads.mask_head.") for part in names)
    assert model.roi_heads.mask_on == (not name.endswith("_boxes"))
    assert cfg.dataloader.train.mapper.get("use_instance_mask", True) == model.roi_heads.mask_on
