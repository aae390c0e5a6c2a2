"""Which masks CPMask's recipes train on, and which categories they are measured on."""

import pytest
from detectron2.config import instantiate

from instseg_d2.data import CATEGORY_SPLITS, FewShot, FullSupervision, OnlyCategories, PartialSupervision
from instseg_d2.engine.overrides import apply_overrides
from instseg_d2.model_zoo import get_config
from instseg_d2.modeling.ignored_regions import IgnoringROIHeads, IgnoringRPN

VOC, NONVOC, SEEN, UNSEEN = (
    set(CATEGORY_SPLITS[name]) for name in ("coco_voc", "coco_nonvoc", "occshapes_seen", "occshapes_unseen")
)
HALVES = {"voc": VOC, "nonvoc": NONVOC}
FORTY = set(CATEGORY_SPLITS["coco_seen40"])
COCO = "cpmask_fcos_r101_fpn_coco_{}_2x"
FORTH, BACK = {"seen": VOC, "unseen": NONVOC, **HALVES}, {"seen": NONVOC, "unseen": VOC, **HALVES}


def arguments(**given):
    return given


def measured(cfg):
    """Names of the categories of each subset, as the evaluator gets them."""
    cfg.dataloader.evaluator._target_ = arguments
    cfg.train.output_dir = "out"
    subsets = instantiate(cfg.dataloader.evaluator)["category_subsets"]
    return {key: set(CATEGORY_SPLITS[name] if isinstance(name, str) else name) for key, name in subsets.items()}


@pytest.mark.parametrize(
    ("name", "overrides", "supervision", "chosen", "subsets"),
    [
        (COCO.format("voc"), [], PartialSupervision, VOC, FORTH),
        (COCO.format("nonvoc"), [], PartialSupervision, NONVOC, BACK),
        (COCO.format("oracle"), [], FullSupervision, None, HALVES),
        ("mask_rcnn_r50_fpn_coco_oracle_1x", [], FullSupervision, None, HALVES),
        ("cpmask_cascade_r101_fpn_coco_nonvoc_2x", [], PartialSupervision, NONVOC, BACK),
        ("cpmask_fcos_r50_fpn_coco_base", [], OnlyCategories, NONVOC, HALVES),
        ("cpmask_fcos_r50_fpn_coco_10shot", [], FewShot, VOC, HALVES),
        ("cpmask_fcos_narrow_fpn_occshapes_quick", [], PartialSupervision, SEEN, {"seen": SEEN, "unseen": UNSEEN}),
        ("cpmask_fcos_oracle_narrow_fpn_occshapes_quick", [], FullSupervision, None, {"seen": SEEN, "unseen": UNSEEN}),
        (
            "mask_rcnn_r50_fpn_coco_voc_1x",
            ["dataloader.train.dataset.supervision.seen=coco_seen40"],
            PartialSupervision,
            FORTY,
            {"seen": FORTY, "unseen": (VOC | NONVOC) - FORTY, **HALVES},
        ),
    ],
)
def test_categories_of_training_and_evaluation(name, overrides, supervision, chosen, subsets):
    cfg = apply_overrides(get_config(f"CPMask/{name}"), overrides)
    built = instantiate(cfg.dataloader.train.dataset.supervision)
    assert type(built) is supervision
    if chosen is not None:
        categories = built.seen if supervision is PartialSupervision else built.categories
        assert set(CATEGORY_SPLITS[categories]) == chosen
    assert measured(cfg) == subsets


def test_a_seed_draws_its_own_shots_and_fine_tuning_starts_from_the_base_stage():
    cfg = apply_overrides(get_config("CPMask/cpmask_fcos_r50_fpn_coco_10shot"), ["train.seed=7"])
    assert cfg.dataloader.train.dataset.supervision.seed == 7
    base = get_config("CPMask/cpmask_fcos_r50_fpn_coco_base")
    assert cfg.train.init_checkpoint == f"{base.train.output_dir}/without_classes.pth"
    rcnn = get_config("CPMask/mask_rcnn_r50_fpn_coco_10shot").model
    assert (rcnn.proposal_generator._target_, rcnn.roi_heads._target_) == (IgnoringRPN, IgnoringROIHeads)
    assert [cfg.dataloader[part].mapper.augmentations[0].max_size for part in ("train", "test")] == [1000, 1000]
