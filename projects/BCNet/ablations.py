"""The tables of BCNet (thesis chapter 3).

The printed numbers are AP on COCO val2017 (`segm`) and on COCO-OCC (`segm_occ`), its 1,005 images with much overlap.
Quick rows train nothing but the mask head, on one trained detector, so that boxes and features are the same in all of
them; `given_boxes` compares the heads with the true boxes given, as figure 3.2 does, which is far less noisy than AP.
"""

from dataclasses import replace

from instseg_d2.reproduction import Comparison, Recipe, Row, SharedDetector, Study, Table

_METRICS = ("segm/AP", "segm_occ/AP", "segm_by_occlusion/AP-0.2-1", "given_boxes/IoU", "given_boxes/IoU-0.2-1")
_PAPER = ("segm/AP", "segm/AP50", "segm_occ/AP", "segm_occ/AP50")
_SHORT = (
    "train.max_iter=180",
    "train.freeze=[backbone,proposal_generator,roi_heads.box_head,roi_heads.box_predictor]",
)

_detector = SharedDetector(
    "narrow Faster R-CNN", quick=Recipe("BCNet/mask_rcnn_narrow_fpn_occshapes_quick", ("train.max_iter=400",))
)


def _printed(occ: float, occ50: float, coco: float, coco50: float) -> dict[str, float]:
    return {"segm/AP": coco, "segm/AP50": coco50, "segm_occ/AP": occ, "segm_occ/AP50": occ50}


def _full(name: str, config: str, printed: dict[str, float], *overrides: str) -> Row:
    return Row(name, full=f"BCNet/{config}", overrides=overrides, paper=printed)


def _fcos(name: str, printed: dict[str, float], *overrides: str) -> Row:
    return _full(name, "bcnet_fcos_r50_fpn_coco_1x", printed, *(f"model.mask_head.{entry}" for entry in overrides))


def _quick(name: str, *overrides: str, config: str = "bcnet") -> Row:
    return Row(
        name,
        quick=Recipe(
            f"BCNet/{config}_narrow_fpn_occshapes_quick",
            (*_SHORT, *(f"model.roi_heads.mask_head.{entry}" for entry in overrides)),
        ),
        shared_detector=_detector,
    )


_heads = Table(
    "Heads",
    what="Table 3.3 on OccShapes; class-agnostic heads on one frozen Faster R-CNN",
    metrics=_METRICS,
    rows=(
        _quick("single FCN", config="mask_rcnn"),
        _quick("single GCN", "bilayer=false", "contour_weight=0"),
        _quick("bilayer FCN", "graph=null"),
        _quick("bilayer GCN"),
    ),
    comparisons=tuple(
        Comparison(row, "single FCN", metric, expected=1)
        for row in ("single GCN", "bilayer FCN", "bilayer GCN")
        for metric in _METRICS
    ),
)
_amodal = Table(
    "Amodal",
    what="whole objects of OccShapes on one frozen Faster R-CNN, as Tables 3.5 and 3.6 measure on COCOA and KINS",
    metrics=("segm/AP", "segm_occ/AP", "segm_by_occlusion/AP-0.2-1", "given_boxes/IoU", "given_boxes/IoU-0.2-1"),
    rows=tuple(
        replace(
            _quick(name),
            quick=Recipe(f"BCNet/{config}_narrow_fpn_occshapes_amodal_quick", _SHORT),
            shared_detector=SharedDetector(
                "narrow amodal Faster R-CNN",
                quick=Recipe("BCNet/mask_rcnn_narrow_fpn_occshapes_amodal_quick", ("train.max_iter=400",)),
            ),
        )
        for name, config in (("amodal Mask R-CNN", "mask_rcnn"), ("amodal BCNet", "bcnet"))
    ),
    comparisons=tuple(
        Comparison("amodal BCNet", "amodal Mask R-CNN", metric, expected=1)
        for metric in ("segm/AP", "given_boxes/IoU", "given_boxes/IoU-0.2-1")
    ),
)
_joint = _fcos("occluder contour and mask", _printed(30.37, 50.40, 33.43, 53.12), "contour_weight=0")
_table_1 = Table(
    "Table 3.1",
    what="what the first layer learns; the second predicts masks alone",
    metrics=_PAPER,
    rows=(
        _fcos(
            "no occluder",
            _printed(29.04, 49.22, 32.65, 52.39),
            "contour_weight=0",
            "occluder_weight=0",
            "occluder_contour_weight=0",
        ),
        _fcos("occluder mask", _printed(29.65, 49.42, 33.25, 52.82), "contour_weight=0", "occluder_contour_weight=0"),
        _fcos("occluder contour", _printed(30.18, 49.94, 33.41, 53.02), "contour_weight=0", "occluder_weight=0"),
        _joint,
    ),
    comparisons=(
        Comparison("occluder mask", "no occluder", "segm_occ/AP"),
        Comparison("occluder contour", "no occluder", "segm_occ/AP"),
        Comparison("occluder contour and mask", "no occluder", "segm_occ/AP"),
    ),
)
_bcnet_fcos = _fcos("BCNet", _printed(30.68, 50.62, 33.62, 53.26))
_table_2 = Table(
    "Table 3.2",
    what="what the second layer learns",
    metrics=_PAPER,
    rows=(
        _fcos(
            "neither guidance nor contour", _printed(29.45, 49.73, 32.56, 52.21), "guidance=false", "contour_weight=0"
        ),
        _joint,
        _bcnet_fcos,
    ),
    comparisons=(
        Comparison("occluder contour and mask", "neither guidance nor contour", "segm_occ/AP"),
        Comparison("BCNet", "occluder contour and mask", "segm_occ/AP"),
    ),
)
_fcos_baseline = _full("FCOS + Mask R-CNN head", "fcos_mask_r50_fpn_coco_1x", _printed(28.43, 48.24, 33.01, 52.62))
_table_3 = Table(
    "Table 3.3",
    what="graph or plain convolutions, one layer or two",
    metrics=_PAPER,
    rows=(
        _fcos_baseline,
        _fcos("one layer of GCN", _printed(29.63, 49.59, 33.14, 52.81), "bilayer=false", "contour_weight=0"),
        _fcos("two layers of FCN", _printed(30.12, 49.04, 33.16, 52.80), "graph=null"),
        _bcnet_fcos,
    ),
    comparisons=(
        Comparison("BCNet", "two layers of FCN", "segm_occ/AP"),
        Comparison("BCNet", "one layer of GCN", "segm_occ/AP"),
        Comparison("BCNet", "FCOS + Mask R-CNN head", "segm_occ/AP"),
    ),
)
_table_4 = Table(
    "Table 3.4 and 3.7",
    what="detectors",
    metrics=_PAPER,
    rows=(
        _fcos_baseline,
        _bcnet_fcos,
        _full(
            "BCNet as released",
            "bcnet_released_fcos_r50_fpn_coco_1x",
            {},
        ),
        _full("Mask R-CNN", "mask_rcnn_r50_fpn_coco_1x", _printed(29.67, 49.95, 33.45, 53.70)),
        _full("Faster R-CNN + BCNet", "bcnet_faster_rcnn_r50_fpn_coco_1x", _printed(31.71, 51.15, 34.61, 54.41)),
        replace(
            _full(
                "further trained on pasted occlusion",
                "bcnet_faster_rcnn_r50_fpn_coco_occlusion",
                {"segm_occ/AP": 32.89, "segm_occ/AP50": 53.25},
            ),
            shared_detector=SharedDetector(
                "BCNet before the occlusion", full="BCNet/bcnet_faster_rcnn_r50_fpn_coco_1x", leave_out=()
            ),
        ),
        _full("Cascade R-CNN + BCNet", "bcnet_cascade_r50_fpn_coco_1x", {}),
    ),
    comparisons=(
        Comparison("BCNet", "FCOS + Mask R-CNN head", "segm_occ/AP"),
        Comparison("Faster R-CNN + BCNet", "Mask R-CNN", "segm_occ/AP"),
        Comparison("further trained on pasted occlusion", "Faster R-CNN + BCNet", "segm_occ/AP"),
    ),
)
_table_56 = Table(
    "Tables 3.5 and 3.6",
    what="amodal: COCOA (all, things, stuff) and KINS (boxes, masks)",
    metrics=("bbox/AP", "segm/AP", "segm_things/AP", "segm_stuff/AP"),
    rows=(
        _full("COCOA: Mask R-CNN", "mask_rcnn_r50_fpn_cocoa", {}),
        _full(
            "COCOA: BCNet",
            "bcnet_faster_rcnn_r50_fpn_cocoa",
            {"segm/AP": 23.09, "segm_things/AP": 22.72, "segm_stuff/AP": 9.53},
        ),
        _full("KINS: Mask R-CNN", "mask_rcnn_r50_fpn_kins", {"bbox/AP": 26.97, "segm/AP": 24.93}),
        _full("KINS: BCNet", "bcnet_faster_rcnn_r50_fpn_kins", {"bbox/AP": 28.87, "segm/AP": 27.30}),
    ),
    comparisons=(Comparison("KINS: BCNet", "KINS: Mask R-CNN", "segm/AP"),),
)
_table_8 = Table(
    "Table 3.8",
    what="the printed numbers are of COCO test-dev",
    metrics=("segm/AP", "segm/AP50"),
    rows=(
        _full("Faster R-CNN R50", "bcnet_faster_rcnn_r50_fpn_coco_2x", {"segm/AP": 38.4, "segm/AP50": 59.6}),
        _full("Faster R-CNN R101", "bcnet_faster_rcnn_r101_fpn_coco_2x", {"segm/AP": 39.8, "segm/AP50": 61.5}),
        _full("FCOS R101", "bcnet_fcos_r101_fpn_coco_2x", {"segm/AP": 39.6, "segm/AP50": 61.2}),
        _full("FCOS X101", "bcnet_fcos_x101_fpn_coco_2x", {"segm/AP": 41.2, "segm/AP50": 63.4}),
    ),
)
study = Study(_heads, _amodal, _table_1, _table_2, _table_3, _table_4, _table_56, _table_8)
