"""Mask heads on three detectors; the printed numbers are those of detectron2's model zoo (COCO val2017).

`python tools/reproduce.py --project Baselines` trains the quick rows on OccShapes: equal data, batch and schedule.
"""

from instseg_d2.reproduction import Comparison, Recipe, Row, Study, Table

_METRICS = ("bbox/AP", "segm/AP", "segm/AP50")
_SHORT = ("train.max_iter=180", "train.report=False")


def _quick(detector: str) -> Recipe:
    return Recipe(f"Baselines/{detector}_narrow_fpn_occshapes_quick", _SHORT)


def _full(name: str, config: str, box: float | None = None, mask: float | None = None) -> Row:
    return Row(name, full=f"Baselines/{config}", paper={"bbox/AP": box, "segm/AP": mask})


_detectors = Table(
    "Detectors",
    what="one mask head on three detectors; full: R50-FPN, COCO, 1x",
    metrics=_METRICS,
    rows=(
        Row(
            "Mask R-CNN",
            quick=_quick("mask_rcnn"),
            full="Baselines/mask_rcnn_r50_fpn_coco_1x",
            paper={"bbox/AP": 38.6, "segm/AP": 35.2},
        ),
        Row(
            "Cascade Mask R-CNN",
            quick=_quick("cascade_mask_rcnn"),
            full="Baselines/cascade_mask_rcnn_r50_fpn_coco_1x",
            paper={"bbox/AP": 42.1, "segm/AP": 36.4},
        ),
        Row("FCOS + mask head", quick=_quick("fcos_mask"), full="Baselines/fcos_mask_r50_fpn_coco_1x"),
    ),
    # Mask quality in the true boxes leaves the detectors out; the other is AP over instances hidden to more than 20 %.
    quick_metrics=("given_boxes/IoU", "segm_by_occlusion/AP-0.2-1"),
    comparisons=tuple(
        Comparison(detector, "Mask R-CNN", metric)
        for detector in ("Cascade Mask R-CNN", "FCOS + mask head")
        for metric in ("bbox/AP", "segm/AP", "given_boxes/IoU")
    ),
)
_longer = Table(
    "Longer schedules and other backbones",
    what="COCO",
    metrics=_METRICS,
    rows=(
        _full("Mask R-CNN R50 3x", "mask_rcnn_r50_fpn_coco_3x", 41.0, 37.2),
        _full("Mask R-CNN R101 3x", "mask_rcnn_r101_fpn_coco_3x", 42.9, 38.6),
        _full("Mask R-CNN R50 DCN 1x", "mask_rcnn_r50_dcn_fpn_coco_1x", 41.5, 37.5),
        _full("Mask R-CNN R50 DCN 3x", "mask_rcnn_r50_dcn_fpn_coco_3x", 42.7, 38.5),
        _full("Cascade Mask R-CNN R50 3x", "cascade_mask_rcnn_r50_fpn_coco_3x", 44.3, 38.5),
        _full("FCOS + mask head R50 3x", "fcos_mask_r50_fpn_coco_3x"),
    ),
    comparisons=(
        Comparison("Mask R-CNN R101 3x", "Mask R-CNN R50 3x", "segm/AP"),
        Comparison("Cascade Mask R-CNN R50 3x", "Mask R-CNN R50 3x", "segm/AP"),
        Comparison("Mask R-CNN R50 DCN 3x", "Mask R-CNN R50 3x", "segm/AP"),
    ),
)
study = Study(_detectors, _longer)
