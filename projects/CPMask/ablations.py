"""The tables of CPMask (thesis chapter 4), the ablation that it announces without printing it, and the seen categories.

The printed numbers are mask AP on COCO val2017, of ResNet-101 FPN in Table 4.1 and of ResNet-50 FPN in Table 4.2. Tasks
are named after the categories that they measure: `segm_nonvoc` are the unseen ones where VOC's have masks.
Quick rows train nothing but the mask head, on one trained detector, so that boxes and features are the same in all of
them; there `segm_seen` and `segm_unseen` are the halves of OccShapes' ten categories.
"""

from dataclasses import replace

from instseg_d2.reproduction import Comparison, Recipe, Row, SharedDetector, Study, Table

_FIGURES = ("AP", "AP50", "AP75", "APs", "APm", "APl")
_QUICK = ("segm_unseen/AP", "segm_seen/AP", "segm/AP", "segm_unseen_overlap_0.3/AP")
_IOU = ("given_boxes_unseen/IoU", "given_boxes_seen/IoU")
_MODULES = {
    "neither": ("boundary=false", "affinity=false"),
    "boundary": ("affinity=false",),
    "affinity": ("boundary=false",),
    "boundary and affinity": (),
    "affinity loss off": ("affinity_weight=0",),
}
_READINGS = {
    "one softmax over all pairs": ("affinity_form=pairs",),
    "eq. 4.4 as printed": ("affinity_form=literal",),
    "no scale": ("scale=false",),
    "affinity loss x 0.1": ("affinity_weight=0.1",),
    "affinity loss x 0.5": ("affinity_weight=0.5",),
}
_FULL = "boundary and affinity"


def _metrics(half: str) -> tuple[str, ...]:
    return tuple(f"segm_{half}/{figure}" for figure in _FIGURES)


def _printed(half: str, *values: float) -> dict[str, float]:
    return dict(zip(_metrics(half), values, strict=True))


def _head(overrides: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(f"model.mask_head.{entry}" for entry in overrides)


_detector = SharedDetector(
    "narrow FCOS", quick=Recipe("CPMask/fcos_mask_narrow_fpn_occshapes_quick", ("train.max_iter=800",))
)


def _quick(name: str, *overrides: str, config: str = "cpmask_fcos") -> Row:
    return Row(
        name,
        quick=Recipe(
            f"CPMask/{config}_narrow_fpn_occshapes_quick",
            ("train.max_iter=180", "train.freeze=[detector]", *_head(overrides)),
        ),
        shared_detector=_detector,
    )


def _against(baseline: str, rows: tuple[str, ...], metrics: tuple[str, ...], expected: int | None = 1):
    return tuple(Comparison(row, baseline, metric, expected=expected) for row in rows for metric in metrics)


_quick_modules = Table(
    "Modules",
    what="on OccShapes: masks of five of ten categories; heads on one frozen FCOS",
    metrics=(*_QUICK, *_IOU),
    rows=(
        *(_quick(f"quick: {name}", *overrides) for name, overrides in _MODULES.items()),
        _quick("quick oracle: neither", *_MODULES["neither"], config="cpmask_fcos_oracle"),
        _quick(f"quick oracle: {_FULL}", config="cpmask_fcos_oracle"),
    ),
    comparisons=(
        *_against("quick: neither", ("quick: boundary", "quick: affinity", f"quick: {_FULL}"), (_QUICK[0], _IOU[0])),
        *_against("quick: affinity loss off", (f"quick: {_FULL}",), (_QUICK[0], _IOU[0])),
        *_against("quick: neither", ("quick oracle: neither",), (_QUICK[0], _IOU[0])),
        *_against(f"quick: {_FULL}", (f"quick oracle: {_FULL}",), (_QUICK[0], _IOU[0])),
    ),
)
_quick_readings = Table(
    "Readings",
    what="of the affinity loss, on OccShapes",
    metrics=(*_QUICK, *_IOU),
    rows=(
        _quick(f"quick: {_FULL}"),
        *(_quick(f"quick: {name}", *overrides) for name, overrides in _READINGS.items()),
    ),
    comparisons=_against(
        f"quick: {_FULL}", tuple(f"quick: {name}" for name in _READINGS), (_QUICK[0], _IOU[0]), expected=None
    ),
)


# The categories are others: what scores classes starts anew.
_base = SharedDetector(
    "narrow base stage", quick="CPMask/cpmask_fcos_narrow_fpn_occshapes_base_quick", leave_out=("cls_score",)
)
_QUICK_SHOTS = ("segm_unseen/AP", "segm_unseen/AP50", "bbox_unseen/AP")
_PLAIN = " and others as background"
_SHOTS = "dataloader.train.dataset.supervision.shots"


def _quick_shots(shots: int, base: SharedDetector | None, *overrides: str, addition: str = "") -> Row:
    config = "CPMask/cpmask_fcos_narrow_fpn_occshapes_10shot_quick"
    # As in the full table: twice the shots take twice the iterations, and without a base stage three times as many.
    iterations = 120 * shots // 10 * (1 if base else 3)
    schedule = [f"{_SHOTS}={shots}", f"train.max_iter={iterations}"]
    if base is None:
        schedule += ["train.init_checkpoint=''", "optimizer.lr=3e-3", "train.recipe.lr=3e-3"]
    name = f"quick: {shots} shots {'with' if base else 'no'} base{addition}"
    return Row(name, quick=Recipe(config, (*schedule, *overrides)), shared_detector=base)


_quick_few = Table(
    "Few shots",
    what="of five categories of OccShapes; the seed draws the shots as well",
    metrics=_QUICK_SHOTS,
    rows=(
        *(_quick_shots(shots, base) for shots in (10, 20) for base in (_base, None)),
        _quick_shots(10, _base, "dataloader.train.dataset.supervision.ignore=false", addition=_PLAIN),
    ),
    comparisons=(
        *(
            Comparison(f"quick: {shots} shots with base", f"quick: {shots} shots no base", metric, expected=1)
            for shots in (10, 20)
            for metric in _QUICK_SHOTS
        ),
        *(
            Comparison(f"quick: 20 shots {base} base", f"quick: 10 shots {base} base", metric, expected=1)
            for base in ("with", "no")
            for metric in _QUICK_SHOTS
        ),
        *_against(f"quick: 10 shots with base{_PLAIN}", ("quick: 10 shots with base",), _QUICK_SHOTS, expected=None),
    ),
)


def _r101(name: str, config: str, printed: dict[str, float]) -> Row:
    return Row(name, full=f"CPMask/{config}_2x", paper=printed)


_oracle_mask_rcnn = _r101(
    "Oracle Mask R-CNN",
    "mask_rcnn_r101_fpn_coco_oracle",
    _printed("nonvoc", 34.4, 55.2, 36.3, 15.5, 39.0, 52.6),
)
_oracle_cpmask = _r101(
    "Oracle CPMask", "cpmask_fcos_r101_fpn_coco_oracle", _printed("nonvoc", 37.9, 58.5, 40.5, 19.7, 42.5, 54.4)
)


def _table_1(seen: str, unseen: str, rows: tuple[Row, ...]) -> Table:
    mask_rcnn, cpmask, oracle_mask_rcnn, oracle_cpmask = (row.name for row in rows)
    ap = f"segm_{unseen}/AP"
    return Table(
        f"Table 4.1: {seen} to {unseen}",
        what="ResNet-101; oracles have the masks of all categories",
        metrics=_metrics(unseen),
        full_metrics=(f"segm_{seen}/AP", "segm/AP", f"bbox_{unseen}/AP"),
        rows=rows,
        comparisons=(
            Comparison(cpmask, mask_rcnn, ap),
            Comparison(oracle_mask_rcnn, mask_rcnn, ap),
            Comparison(oracle_cpmask, cpmask, ap),
        ),
    )


_voc_to_nonvoc = _table_1(
    "voc",
    "nonvoc",
    (
        _r101("Mask R-CNN: voc", "mask_rcnn_r101_fpn_coco_voc", _printed("nonvoc", 18.5, 34.8, 18.1, 11.3, 23.4, 21.7)),
        _r101("CPMask: voc", "cpmask_fcos_r101_fpn_coco_voc", _printed("nonvoc", 34.4, 53.8, 36.8, 18.8, 39.1, 47.7)),
        _oracle_mask_rcnn,
        _oracle_cpmask,
    ),
)
_nonvoc_to_voc = _table_1(
    "nonvoc",
    "voc",
    (
        _r101(
            "Mask R-CNN: nonvoc", "mask_rcnn_r101_fpn_coco_nonvoc", _printed("voc", 24.7, 43.5, 24.9, 11.4, 25.7, 35.1)
        ),
        _r101(
            "CPMask: nonvoc", "cpmask_fcos_r101_fpn_coco_nonvoc", _printed("voc", 35.9, 59.5, 37.8, 18.1, 37.1, 50.8)
        ),
        replace(_oracle_mask_rcnn, paper=_printed("voc", 39.1, 64.5, 41.4, 16.3, 38.1, 55.1)),
        replace(_oracle_cpmask, paper=_printed("voc", 41.9, 66.5, 45.7, 22.0, 42.1, 58.1)),
    ),
)

# The categories of the base stage are others: what scores classes starts anew.
_cpmask_base = SharedDetector(
    "CPMask base stage", full="CPMask/cpmask_fcos_r50_fpn_coco_base", leave_out=("cls_score",)
)
_mask_rcnn_base = SharedDetector(
    "Mask R-CNN base stage",
    full="CPMask/mask_rcnn_r50_fpn_coco_base",
    leave_out=("box_predictor", "predictor"),
)
_NO_BASE = (
    "train.init_checkpoint=detectron2://ImageNetPretrained/MSRA/R-50.pkl",
    "optimizer.lr=0.01",
    "train.recipe.lr=0.01",
)


def _shots(name: str, config: str, shots: int, printed: tuple[float, ...], base: SharedDetector | None = None) -> Row:
    iterations = 2000 * shots // 10 * (1 if base else 3)
    overrides = (f"{_SHOTS}={shots}", f"train.max_iter={iterations}", *(() if base else _NO_BASE))
    return Row(
        f"{name}: {shots} shots",
        full=f"CPMask/{config}_fpn_coco_10shot",
        overrides=overrides,
        paper=_printed("voc", *printed),
        shared_detector=base,
    )


_table_2 = Table(
    "Table 4.2",
    what="few shots of VOC's categories, ResNet-50; the seed draws the shots as well",
    metrics=_metrics("voc"),
    rows=(
        _shots("Mask R-CNN-ft", "mask_rcnn_r50", 10, (1.9, 4.7, 1.3, 0.2, 1.4, 3.2), _mask_rcnn_base),
        _shots("CPMask", "cpmask_fcos_r50", 10, (7.1, 12.0, 7.2, 0.3, 5.5, 12.2), _cpmask_base),
        _shots("CPMask no base", "cpmask_fcos_r50", 10, (4.2, 9.7, 3.0, 0.1, 3.0, 8.0)),
        _shots("Mask R-CNN-ft", "mask_rcnn_r50", 20, (3.7, 8.5, 2.9, 0.3, 2.5, 5.8), _mask_rcnn_base),
        _shots("CPMask", "cpmask_fcos_r50", 20, (10.3, 16.6, 10.7, 0.7, 8.0, 17.5), _cpmask_base),
        _shots("CPMask no base", "cpmask_fcos_r50", 20, (6.6, 13.5, 5.5, 0.2, 5.3, 12.3)),
    ),
    comparisons=tuple(
        Comparison(f"CPMask: {shots} shots", f"{baseline}: {shots} shots", "segm_voc/AP")
        for shots in (10, 20)
        for baseline in ("Mask R-CNN-ft", "CPMask no base")
    ),
)


def _r50(name: str, *overrides: str, config: str = "cpmask_fcos_r50_fpn_coco_voc_1x") -> Row:
    return Row(name, full=f"CPMask/{config}", overrides=_head(overrides))


_AP = ("segm_nonvoc/AP", "segm_voc/AP", "segm_nonvoc_overlap_0.3/AP")
_modules = Table(
    "Parts",
    what="the ablation that the thesis announces and does not print; ResNet-50, masks of VOC's categories",
    metrics=_AP,
    rows=(
        *(_r50(name, *overrides) for name, overrides in {**_MODULES, **_READINGS}.items()),
        _r50("fully supervised", config="cpmask_fcos_r50_fpn_coco_oracle_1x"),
    ),
    comparisons=(
        *_against("neither", ("boundary", "affinity", _FULL), _AP[:1]),
        *_against("affinity loss off", (_FULL,), _AP[:1]),
        *_against(_FULL, tuple(_READINGS), _AP[:1], expected=None),
        Comparison("fully supervised", _FULL, _AP[0], expected=1),
    ),
)
_detectors = Table(
    "Detectors",
    what="that the head works behind; ResNet-50, masks of VOC's categories",
    metrics=("segm_nonvoc/AP", "segm_voc/AP", "bbox_nonvoc/AP"),
    rows=(
        _r50("class-agnostic Mask R-CNN", config="mask_rcnn_r50_fpn_coco_voc_1x"),
        _r50(_FULL),
        _r50("on Faster R-CNN", config="cpmask_faster_rcnn_r50_fpn_coco_voc_1x"),
        _r50("on Cascade R-CNN", config="cpmask_cascade_r50_fpn_coco_voc_1x"),
    ),
    comparisons=_against("class-agnostic Mask R-CNN", ("on Faster R-CNN",), ("segm_nonvoc/AP",)),
)


def _seeing(count: int, name: str, config: str) -> Row:
    overrides = (
        f"dataloader.train.dataset.supervision.seen=coco_seen{count}",
        "+dataloader.evaluator.category_subsets.never_seen=coco_never_seen",
    )
    return Row(f"{name}: {count} seen", full=f"CPMask/{config}_r50_fpn_coco_voc_1x", overrides=overrides)


_seen = Table(
    "Seen categories",
    what="20 (VOC) to 60 with masks; only what is never seen compares along the column",
    metrics=("segm_never_seen/AP", "segm_unseen/AP", "segm_seen/AP"),
    rows=tuple(
        _seeing(count, name, config)
        for count in (20, 30, 40, 50, 60)
        for name, config in (("Mask R-CNN", "mask_rcnn"), ("CPMask", "cpmask_fcos"))
    ),
    comparisons=tuple(
        Comparison(f"CPMask: {count} seen", f"Mask R-CNN: {count} seen", "segm_never_seen/AP", expected=1)
        for count in (20, 30, 40, 50, 60)
    ),
)
study = Study(
    _quick_modules,
    _quick_readings,
    _quick_few,
    _voc_to_nonvoc,
    _nonvoc_to_voc,
    _table_2,
    _modules,
    _detectors,
    _seen,
)
