"""The tables of Teacher-Student mask heads; the printed numbers are mask AP on the unseen categories of COCO val2017.

"voc": masks of VOC's 20 categories, tested on the other 60; "nonvoc": the opposite.
"""

from dataclasses import replace

from instseg_d2.reproduction import Comparison, Recipe, Row, SharedDetector, Study, Table

_AP = "segm_unseen/AP"
_PAPER = tuple(f"segm_unseen/{name}" for name in ("AP", "AP50", "AP75", "APs", "APm", "APl"))
_OVERLAPPED = "segm_unseen_overlap_0.3/AP"
_HEAD = "model.roi_heads.mask_head"
_SEE_NONVOC = "dataloader.train.dataset.supervision.seen=coco_nonvoc"
_R101 = "train.init_checkpoint=detectron2://ImageNetPretrained/MSRA/R-101.pkl"
_CRF = "{_target_: instseg_d2.layers.mean_field.DenseCRF}"


def _printed(*values: float) -> dict[str, float]:
    return dict(zip(_PAPER, values, strict=False))


def _overrides(base: str, depth: int, seen: str) -> tuple[str, ...]:
    backbone = "model.detector.backbone" if base == "boxinst" else "model.backbone"
    deeper = (f"{backbone}.bottom_up.stages.depth=101", _R101) if depth == 101 else ()
    return (*deeper, *((_SEE_NONVOC,) if seen == "nonvoc" else ()))


_NAMES = {"mask_rcnn": "Mask R-CNN", "opmask": "OPMask", "boxinst": "BoxInst"}


def _pair(base: str, depth: int, seen: str, alone: tuple[float, ...], taught: tuple[float, ...]) -> tuple[Row, Row]:
    """A row of Table 1, and the same with a student."""
    overrides = _overrides(base, depth, seen)
    name = f"{_NAMES[base]} R{depth} {seen}"
    config = f"{base}_r50_fpn_coco_voc_1x"
    return (
        Row(name, full=f"TeacherStudent/{config}", overrides=overrides, paper=_printed(*alone)),
        Row(f"{name} + TS", full=f"TeacherStudent/ts_{config}", overrides=overrides, paper=_printed(*taught)),
    )


def _oracle(depth: int, seen: str, printed: dict[str, float]) -> tuple[Row, Row]:
    """Masks of all categories, with one channel and with one a class; the paper does not say which its oracle has."""
    tested = ("dataloader.evaluator.category_subsets.unseen=coco_voc",) if seen == "nonvoc" else ()
    overrides = (*_overrides("mask_rcnn", depth, "voc"), *tested)
    config = "TeacherStudent/oracle_mask_rcnn_r50_fpn_coco_1x"
    return (
        Row(f"Oracle R{depth} {seen}", full=config, overrides=overrides, paper=printed),
        Row(f"Oracle class-agnostic R{depth} {seen}", full=config, overrides=(*overrides, f"{_HEAD}.num_classes=1")),
    )


def _gains(rows: tuple[Row, ...], *metrics: str, expected: int | None = None) -> tuple[Comparison, ...]:
    names = [row.name for row in rows]
    pairs = [(f"{name} + TS", name) for name in names if f"{name} + TS" in names]
    return tuple(Comparison(*pair, metric, expected=expected) for pair in pairs for metric in metrics)


# Base, depth, printed without and with a student.
_VOC = (
    ("mask_rcnn", 50, (19.2, 36.4, 18.4, 11.5, 23.3, 24.4), (21.6, 37.1, 19.1, 12.7, 16.5, 33.1)),
    ("opmask", 50, (29.7, 48.7, 31.7, 13.3, 33.8, 42.3), (30.9, 50.4, 32.8, 14.5, 35.3, 44.6)),
    ("boxinst", 50, (30.4, 51.2, 31.8, 14.3, 34.2, 44.7), (31.4, 50.6, 32.8, 14.7, 35.1, 45.8)),
    ("opmask", 101, (31.9, 51.7, 33.8, 14.7, 36.2, 46.4), (32.2, 52.0, 34.0, 14.3, 36.9, 47.0)),
    ("boxinst", 101, (31.9, 52.1, 33.7, 14.2, 35.9, 46.5), (32.6, 52.4, 33.7, 14.0, 36.1, 46.9)),
)
_NONVOC = (
    ("mask_rcnn", 50, (23.9, 42.9, 23.5, 11.6, 24.3, 33.7), (25.1, 43.4, 23.9, 11.7, 25.9, 34.3)),
    ("opmask", 50, (35.0, 60.6, 36.1, 15.4, 34.8, 48.1), (35.4, 61.0, 36.1, 15.9, 34.3, 48.8)),
    ("boxinst", 50, (33.9, 59.6, 34.8, 13.5, 32.9, 48.6), (34.4, 60.3, 34.6, 14.6, 33.3, 47.7)),
    ("opmask", 101, (35.0, 59.7, 35.7, 16.9, 34.7, 47.3), (35.6, 60.6, 36.1, 15.4, 34.8, 48.1)),
    ("boxinst", 101, (35.5, 60.5, 36.7, 15.6, 33.8, 50.3), (35.9, 61.0, 36.9, 15.6, 34.0, 50.6)),
)


def _cpmask(seen: str, printed: float) -> tuple[Row, Row]:
    """CPMask, and a student of it, which the paper leaves out."""
    taught = "TeacherStudent/ts_cpmask_fcos_r50_fpn_coco_voc_1x"
    return (
        Row(f"CPMask R50 {seen}", full=f"CPMask/cpmask_fcos_r50_fpn_coco_{seen}_1x", paper={_AP: printed}),
        Row(f"CPMask R50 {seen} + TS", full=taught, overrides=_overrides("cpmask", 50, seen)),
    )


_voc = tuple(row for base, depth, *printed in _VOC for row in _pair(base, depth, "voc", *printed))
_nonvoc = tuple(row for base, depth, *printed in _NONVOC for row in _pair(base, depth, "nonvoc", *printed))
_cpmask_voc, _cpmask_nonvoc = _cpmask("voc", 28.8), _cpmask("nonvoc", 34.9)
_table_1 = Table(
    "Table 1 voc",
    what="masks of VOC's categories; the printed oracles of ResNet-50 have their halves swapped here, see the README",
    metrics=_PAPER,
    rows=(
        *_voc,
        *_cpmask_voc,
        *_oracle(50, "voc", _printed(33.0, 53.7, 35.0, 15.1, 37.0, 49.9)),
        *_oracle(101, "voc", _printed(34.3, 54.7, 36.3, 18.6, 39.1, 47.9)),
    ),
    comparisons=_gains((*_voc, *_cpmask_voc), _AP),
)
_table_1_back = Table(
    "Table 1 nonvoc",
    what="masks of the categories that VOC lacks",
    metrics=_PAPER,
    rows=(
        *_nonvoc,
        *_cpmask_nonvoc,
        *_oracle(50, "nonvoc", _printed(37.5, 63.1, 38.9, 15.1, 36.0, 53.1)),
        *_oracle(101, "nonvoc", _printed(38.5, 64.4, 40.4, 18.9, 39.4, 51.4)),
    ),
    comparisons=_gains((*_nonvoc, *_cpmask_nonvoc), _AP),
)
_mask_rcnn, _ts_mask_rcnn, _opmask, _ts_opmask, _boxinst, _ts_boxinst = _voc[:6]
_overlapped = tuple(
    replace(row, paper={_OVERLAPPED: value})
    for row, value in zip((_mask_rcnn, _ts_mask_rcnn, _opmask, _ts_opmask), (16.2, 17.3, 27.4, 28.7), strict=True)
)
_table_2 = Table(
    "Table 2",
    what="unseen objects whose box another object's mask fills to 0.3 or more; the others are ignored",
    metrics=(_OVERLAPPED,),
    rows=_overlapped,
    comparisons=_gains(_overlapped, _OVERLAPPED),
)


def _teacher(name: str, *overrides: str, **printed: float) -> tuple[Row, Row]:
    """A teacher in both directions."""
    rows = (replace(row, name=f"{name} {seen}") for row, seen in ((_ts_mask_rcnn, "voc"), (_nonvoc[1], "nonvoc")))
    return tuple(
        replace(row, overrides=(*row.overrides, *overrides), paper={_AP: printed[seen]})
        for row, seen in zip(rows, ("voc", "nonvoc"), strict=True)
    )


_DEEP = ",".join(["256"] * 13)
_FINE = "instseg_d2.modeling.mask_heads.teacher_student.FineMaskRCNNHead"
_fine = _teacher("teacher of 56 x 56", f"{_HEAD}.teacher._target_={_FINE}", voc=22.1, nonvoc=25.7)
_deep = _teacher("teacher of 12 convolutions", f"{_HEAD}.teacher.conv_dims=[{_DEEP}]", voc=26.3, nonvoc=29.4)
_alone = tuple(
    replace(
        row, name=f"12 convolutions alone {seen}", overrides=(*row.overrides, f"{_HEAD}.conv_dims=[{_DEEP}]"), paper={}
    )
    for row, seen in ((_mask_rcnn, "voc"), (_nonvoc[0], "nonvoc"))
)
_table_3 = Table(
    "Table 3",
    what="stronger teachers on Mask R-CNN R50, and a deep head without a student, which the paper leaves out",
    metrics=(_AP,),
    rows=(replace(_ts_mask_rcnn, paper={_AP: 21.6}), replace(_nonvoc[1], paper={_AP: 25.1}), *_fine, *_deep, *_alone),
    comparisons=(
        *(Comparison(row.name, _ts_mask_rcnn.name, _AP) for row in (_fine[0], _deep[0])),
        *(Comparison(row.name, _nonvoc[1].name, _AP) for row in (_fine[1], _deep[1])),
        *(Comparison(deep.name, alone.name, _AP) for deep, alone in zip(_deep, _alone, strict=True)),
    ),
)
_RULES = f"{_HEAD}.pseudo_masks"
_NO_RULES = (f"{_RULES}.without_seen=false", f"{_RULES}.inside_box=false")
_RAW = (f"{_RULES}.method=soft", *_NO_RULES)
_raw = replace(_ts_mask_rcnn, name="TS without post-processing", overrides=_RAW, paper={_AP: 20.2})
_no_rules = replace(_ts_mask_rcnn, name="TS without background rules", overrides=_NO_RULES, paper={})
_control = Row("class-agnostic on its own masks", full="TeacherStudent/self_taught_mask_rcnn_r50_fpn_coco_voc_1x")
_table_4 = Table(
    "Table 4",
    what="Mask R-CNN R50 voc; the control is the class-agnostic model of Fig. 3",
    metrics=(_AP,),
    rows=(
        replace(_mask_rcnn, paper={_AP: 19.2}),
        _raw,
        _no_rules,
        replace(_ts_mask_rcnn, paper={_AP: 21.6}),
        _control,
    ),
    comparisons=(
        Comparison(_raw.name, _mask_rcnn.name, _AP),
        Comparison(_ts_mask_rcnn.name, _raw.name, _AP),
        Comparison(_ts_mask_rcnn.name, _control.name, _AP, expected=1),
    ),
)


def _post_processing(name: str, voc: float, nonvoc: float, *overrides: str) -> tuple[Row, Row]:
    return tuple(
        replace(row, name=f"{name} {seen}", overrides=(*row.overrides, *overrides), paper={_AP: value})
        for row, seen, value in ((_ts_boxinst, "voc", voc), (_nonvoc[5], "nonvoc", nonvoc))
    )


_table_5 = Table(
    "Table 5",
    what="post-processing on BoxInst R50; interaction is the row of Table 1",
    metrics=(_AP,),
    rows=(
        *_post_processing("CRF", 31.4, 34.5, "model.pseudo_masks.method=crf", f"model.pseudo_masks.crf={_CRF}"),
        *_post_processing("threshold", 31.1, 34.2, "model.pseudo_masks.method=threshold"),
        replace(_ts_boxinst, paper={_AP: 31.4}),
        replace(_nonvoc[5], paper={_AP: 34.4}),
    ),
    comparisons=(
        Comparison(_ts_boxinst.name, "threshold voc", _AP),
        Comparison(_nonvoc[5].name, "threshold nonvoc", _AP),
    ),
)


def _with_seen(row: Row, count: int) -> Row:
    split = f"dataloader.train.dataset.supervision.seen=coco_seen{count}"
    name = row.name.replace(" voc", f" {count} seen")
    return replace(row, name=name, overrides=(*row.overrides, split), paper={})


_sweep = tuple(
    _with_seen(row, count) for count in (30, 40, 50, 60) for row in (_mask_rcnn, _ts_mask_rcnn, _opmask, _ts_opmask)
)
_NEVER = "segm_never/AP"
_figure_8 = Table(
    "Figure 8",
    what="number of seen categories; `never` are the 20 that are unseen in every row. 20 seen are the rows of Table 1",
    metrics=(_AP, _NEVER),
    rows=(*(replace(row, paper={}) for row in _voc[:4]), *_sweep),
    comparisons=_gains((*_voc[:4], *_sweep), _NEVER),
)

_QUICK = (_AP, "segm_unseen/AP75", _OVERLAPPED, "segm_seen/AP")
# R-CNN: nothing but the mask heads learns, on one trained detector, so boxes and features are the same in all rows.
_SHORT = (
    "train.max_iter=180",
    "train.freeze=[backbone,proposal_generator,roi_heads.box_head,roi_heads.box_predictor]",
)

# OPMask's head, deeper and with a norm, takes twice as long as Mask R-CNN's.
_LONGER = "train.max_iter=360"


def _quick(name: str, config: str, *overrides: str, detector: SharedDetector) -> Row:
    recipe = Recipe(f"TeacherStudent/{config}_narrow_fpn_occshapes_quick", (*_SHORT, *overrides))
    return Row(name, quick=recipe, shared_detector=detector)


def _quick_boxinst(name: str, config: str) -> Row:
    # CondInst's masks come from the detector's own towers, so nothing is frozen here.
    recipe = Recipe(f"TeacherStudent/{config}_narrow_fpn_occshapes_quick", ("train.max_iter=240",))
    return Row(name, quick=recipe, shared_detector=_boxinst_detector)


def _shared(name: str, config: str, iterations: int = 400, leave_out: str = "mask_head") -> SharedDetector:
    recipe = Recipe(f"TeacherStudent/{config}_narrow_fpn_occshapes_quick", (f"train.max_iter={iterations}",))
    return SharedDetector(name, quick=recipe, leave_out=(leave_out,))


_OTHER_WAY = "dataloader.train.dataset.supervision.seen=occshapes_unseen"
_detector, _opmask_detector = _shared("narrow Faster R-CNN", "mask_rcnn"), _shared("narrow OPMask", "opmask")
# What predicts the weights of its mask networks starts anew: a teacher's has another name than that of BoxInst alone.
_boxinst_detector = _shared("narrow FCOS of BoxInst", "boxinst", iterations=600, leave_out="extra")
_fcos_detector = SharedDetector(
    "narrow FCOS", quick=Recipe("CPMask/fcos_mask_narrow_fpn_occshapes_quick", ("train.max_iter=800",))
)
_BEHIND_FCOS = ("train.max_iter=180", "train.freeze=[detector]")
_quick_bases = (
    _quick("narrow Mask R-CNN", "mask_rcnn", detector=_detector),
    _quick("narrow Mask R-CNN + TS", "ts_mask_rcnn", detector=_detector),
    _quick("narrow OPMask", "opmask", _LONGER, detector=_opmask_detector),
    _quick("narrow OPMask + TS", "ts_opmask", _LONGER, detector=_opmask_detector),
    _quick_boxinst("narrow BoxInst", "boxinst"),
    _quick_boxinst("narrow BoxInst + TS", "ts_boxinst"),
    Row(
        "narrow CPMask",
        quick=Recipe("CPMask/cpmask_fcos_narrow_fpn_occshapes_quick", _BEHIND_FCOS),
        shared_detector=_fcos_detector,
    ),
    Row(
        "narrow CPMask + TS",
        quick=Recipe("TeacherStudent/ts_cpmask_fcos_narrow_fpn_occshapes_quick", _BEHIND_FCOS),
        shared_detector=_fcos_detector,
    ),
    _quick("reversed Mask R-CNN", "mask_rcnn", _OTHER_WAY, detector=_detector),
    _quick("reversed Mask R-CNN + TS", "ts_mask_rcnn", _OTHER_WAY, detector=_detector),
)
_quick_table_1 = Table(
    "Bases",
    what="Tables 1 and 2 on OccShapes, masks of five of ten categories; reversed: of the other five",
    metrics=_QUICK,
    rows=_quick_bases,
    comparisons=_gains(_quick_bases, _AP, _OVERLAPPED, expected=1),
)
# Hearts and arrows are unseen; the hue of each lies between those of two seen categories.
_EIGHT = "dataloader.train.dataset.supervision.seen=[disc,triangle,star,ring,cross,crescent,blossom,bolt]"
_quick_eight = (
    _quick("8 seen Mask R-CNN", "mask_rcnn", _EIGHT, detector=_detector),
    _quick("8 seen Mask R-CNN + TS", "ts_mask_rcnn", _EIGHT, detector=_detector),
)
_quick_figure_8 = Table(
    "Seen categories",
    what="Figure 8 on OccShapes: masks of eight of ten categories, tested on the other two",
    metrics=_QUICK,
    rows=_quick_eight,
    comparisons=_gains(_quick_eight, _AP, expected=1),
)
_NARROW_DEEP = ",".join(["64"] * 13)
_quick_teachers = (
    _quick("fine teacher", "ts_mask_rcnn", f"{_HEAD}.teacher._target_={_FINE}", detector=_detector),
    _quick("deep teacher", "ts_mask_rcnn", f"{_HEAD}.teacher.conv_dims=[{_NARROW_DEEP}]", detector=_detector),
    _quick("deep head alone", "mask_rcnn", f"{_HEAD}.conv_dims=[{_NARROW_DEEP}]", detector=_detector),
)
_quick_rules = (
    _quick("no post-processing", "ts_mask_rcnn", *_RAW, detector=_detector),
    _quick("no background rules", "ts_mask_rcnn", *_NO_RULES, detector=_detector),
    _quick("threshold", "ts_mask_rcnn", f"{_RULES}.method=threshold", detector=_detector),
    _quick(
        "CRF",
        "ts_mask_rcnn",
        f"{_RULES}.method=crf",
        f"{_RULES}.crf={_CRF}",
        "dataloader.train.mapper.extra_fields=[gt_seen,gt_image]",
        detector=_detector,
    ),
    _quick("all channels", "ts_mask_rcnn", f"{_HEAD}.all_channels=true", detector=_detector),
    _quick("self-taught", "self_taught_mask_rcnn", detector=_detector),
)
_quick_parts = Table(
    "Parts",
    what="Tables 3 to 5 and the control on OccShapes, Mask R-CNN",
    metrics=_QUICK,
    rows=(*_quick_bases[:2], *_quick_teachers, *_quick_rules),
    comparisons=(
        Comparison("narrow Mask R-CNN + TS", "self-taught", _AP, expected=1),
        Comparison("narrow Mask R-CNN + TS", "no post-processing", _AP, expected=1),
        Comparison("deep teacher", "narrow Mask R-CNN + TS", _AP, expected=1),
        Comparison("deep teacher", "deep head alone", _AP),
        *(Comparison(row.name, "narrow Mask R-CNN + TS", _AP) for row in _quick_rules[1:5]),
    ),
)
study = Study(
    _quick_table_1,
    _quick_parts,
    _quick_figure_8,
    _table_1,
    _table_1_back,
    _table_2,
    _table_3,
    _table_4,
    _table_5,
    _figure_8,
)
