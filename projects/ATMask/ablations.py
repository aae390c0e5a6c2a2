"""The tables of ATMask R-CNN; the printed numbers are mask AP, AP50 and AP75 on COCO val2017."""

from dataclasses import replace

from instseg_d2.reproduction import Comparison, Recipe, Row, SharedDetector, Study, Table

_METRICS = (
    "segm/AP",
    "segm/AP75",
    "segm_occ/AP",
    "segm_by_occlusion/AP-0.2-1",
    "given_boxes/IoU",
    "given_boxes/IoU-0.2-1",
)
_PAPER = ("segm/AP", "segm/AP50", "segm/AP75")
_HEAD = "model.roi_heads.mask_head"
_SAME_POOLING = (
    f"{_HEAD}.threshold_in_features=[p2,p3,p4,p5]",
    f"{_HEAD}.threshold_pooler.output_size=14",
    f"{_HEAD}.threshold_pooler.scales=[0.25,0.125,0.0625,0.03125]",
)

# Nothing but the mask head learns, on one trained detector: boxes and features are the same in all rows.
_SHORT = (
    "train.max_iter=180",
    "train.freeze=[backbone,proposal_generator,roi_heads.box_head,roi_heads.box_predictor]",
)

_detector = SharedDetector(
    "narrow Faster R-CNN", quick=Recipe("ATMask/mask_rcnn_narrow_fpn_occshapes_quick", ("train.max_iter=400",))
)


def _printed(*values: float) -> dict[str, float]:
    return dict(zip(_PAPER, values, strict=False))


def _full(name: str, config: str, printed: dict[str, float], *overrides: str) -> Row:
    return Row(name, full=f"ATMask/{config}", overrides=overrides, paper=printed)


def _r50(name: str, printed: dict[str, float], *overrides: str) -> Row:
    return _full(name, "atmask_r50_fpn_coco_90k_batch12", printed, *overrides)


def _quick(name: str, config: str) -> Row:
    return Row(
        name,
        quick=Recipe(f"ATMask/{config}_narrow_fpn_occshapes_quick", _SHORT),
        shared_detector=_detector,
    )


_quick_table = Table(
    "Heads",
    what="Table 1 on OccShapes; heads on one frozen Faster R-CNN",
    metrics=_METRICS,
    rows=(
        _quick("Mask R-CNN", "mask_rcnn"),
        _quick("ATMask R-CNN", "atmask"),
    ),
    comparisons=tuple(Comparison("ATMask R-CNN", "Mask R-CNN", metric, expected=1) for metric in _METRICS),
)
_baseline = _full("Mask R-CNN R50", "mask_rcnn_r50_fpn_coco_90k_batch12", _printed(34.8, 55.6, 37.3))
_table_1 = Table(
    "Tables 1 and 2",
    what="the schedules of the paper",
    metrics=_PAPER,
    rows=(
        _baseline,
        _r50("ATMask R-CNN R50", _printed(36.1, 56.2, 39.0)),
        _full("ATMask R-CNN R50 at the linear rule", "atmask_r50_fpn_coco_90k_batch12_linear", {}),
        _full("ATMask R-CNN R50 at batch 16", "atmask_r50_fpn_coco_1x", {}),
        _full("Mask R-CNN R101", "mask_rcnn_r101_fpn_coco_50k_batch8", _printed(35.9, 58.6, 38.2)),
        _full("ATMask R-CNN R101", "atmask_r101_fpn_coco_50k_batch8", _printed(37.5, 59.4, 40.4)),
        _full("ATMask R-CNN R101 at the linear rule", "atmask_r101_fpn_coco_50k_batch8_linear", {}),
    ),
    comparisons=(
        Comparison("ATMask R-CNN R50", "Mask R-CNN R50", "segm/AP"),
        Comparison("ATMask R-CNN R101", "Mask R-CNN R101", "segm/AP"),
    ),
)
_K1 = f"{_HEAD}.steepness=1"
_branch = _r50(
    "threshold branch",
    _printed(35.0),
    _K1,
    f"{_HEAD}.probability_to_threshold=false",
    f"{_HEAD}.threshold_to_probability=false",
    *_SAME_POOLING,
)
_fusion = _r50("both fusions", _printed(35.7), _K1, *_SAME_POOLING)
_p2 = _r50("threshold features of P2", _printed(35.9), _K1)
_table_345 = Table(
    "Tables 3 to 5",
    what="components, with k = 1",
    metrics=("segm/AP",),
    rows=(
        replace(_baseline, paper=_printed(34.8)),
        _branch,
        _r50(
            "probability to threshold", _printed(35.5), _K1, f"{_HEAD}.threshold_to_probability=false", *_SAME_POOLING
        ),
        _fusion,
        _p2,
    ),
    comparisons=(
        Comparison("threshold branch", "Mask R-CNN R50", "segm/AP"),
        Comparison("both fusions", "threshold branch", "segm/AP"),
        Comparison("threshold features of P2", "both fusions", "segm/AP"),
    ),
)
study = Study(_quick_table, _table_1, _table_345)
