"""The tables of PEP, and what it leaves open.

The printed numbers are mask AP of ResNet-101 FPN after 36 epochs: Table 2 on COCO val2017, Table 1 on test-dev2017.
"""

from dataclasses import replace

from instseg_d2.reproduction import Comparison, Recipe, Row, SharedDetector, Study, Table

_METRICS = ("segm/AP", "segm_touching_same_class/AP", "segm_by_occlusion/AP-0.2-1")
_PAPER = ("segm/AP", "segm/AP50", "segm/AP75", "segm/APs", "segm/APm", "segm/APl")
_NO_EXCAVATING, _NO_PURIFYING = "model.excavating=null", "model.purifying=null"
_NARROW = "narrow PEP"


def _printed(*values: float) -> dict[str, float]:
    return dict(zip(_PAPER, values, strict=True))


def _full(name: str, printed: dict[str, float], *overrides: str) -> Row:
    return Row(name, full="PEP/pep_r101_fpn_coco_3x", overrides=overrides, paper=printed)


_QUICK = "PEP/pep_narrow_fpn_occshapes_quick"
# Excavating has nothing to start from and purifying nothing to merge until cells find objects.
_perceiving = SharedDetector(
    "perceiving", quick=Recipe(_QUICK, (_NO_EXCAVATING, _NO_PURIFYING, "train.max_iter=1500")), leave_out=()
)


def _quick(name: str, *overrides: str) -> Row:
    return Row(
        name,
        quick=Recipe(_QUICK, ("optimizer.lr=1e-3", "train.recipe.lr=1e-3", *overrides)),
        shared_detector=_perceiving,
    )


def _tested(name: str, row: Row, *overrides: str) -> Row:
    """The weights of a row with other settings of inference."""
    return Row(name, quick=Recipe(_QUICK, (*row.quick.overrides, *overrides)), weights_of=row)


_quick_baseline = _quick("narrow baseline", _NO_EXCAVATING, _NO_PURIFYING)
_quick_purifying = _quick("narrow with purifying", _NO_EXCAVATING)
_pep, _quick_pep = _full("PEP", _printed(40.6, 61.0, 43.2, 17.7, 44.3, 59.8)), _quick(_NARROW)
_table_2 = Table(
    "Table 2",
    what="parts, on COCO val2017; without purifying, matrix NMS removes duplicates",
    metrics=_PAPER,
    rows=(
        _full("Baseline", _printed(38.5, 59.1, 41.4, 17.2, 42.8, 57.4), _NO_EXCAVATING, _NO_PURIFYING),
        _full("Baseline + excavating", _printed(39.8, 60.9, 42.1, 17.5, 43.3, 58.7), _NO_PURIFYING),
        _full("Baseline + purifying", _printed(40.1, 60.8, 42.3, 17.6, 43.9, 58.4), _NO_EXCAVATING),
        _pep,
    ),
    comparisons=(
        Comparison("Baseline + excavating", "Baseline", "segm/AP"),
        Comparison("Baseline + purifying", "Baseline", "segm/AP"),
        Comparison("PEP", "Baseline + excavating", "segm/AP"),
        Comparison("PEP", "Baseline + purifying", "segm/AP"),
    ),
)
_table_1 = Table(
    "Table 1",
    what="the printed numbers are of COCO test-dev",
    metrics=_PAPER,
    rows=(
        Row(
            "SOLOv2",
            full="PEP/solov2_r101_fpn_coco_3x",
            paper=_printed(39.7, 60.7, 42.9, 17.3, 42.9, 57.4),
        ),
        replace(_pep, paper=_printed(40.9, 61.5, 44.3, 18.2, 44.4, 59.7)),
    ),
    comparisons=(Comparison("PEP", "SOLOv2", "segm/AP"),),
)
_quick_table = Table(
    "Parts",
    what="Table 2 on OccShapes; all rows go on from one model that perceives only",
    metrics=_METRICS,
    rows=(
        _quick_baseline,
        _tested("narrow baseline without NMS", _quick_baseline, "model.decoder.matrix_nms=false"),
        _quick("narrow with excavating", _NO_PURIFYING),
        _quick_purifying,
        _quick_pep,
    ),
    comparisons=tuple(
        Comparison(row, baseline, metric, expected=1)
        for row, baseline in (
            ("narrow with excavating", "narrow baseline"),
            ("narrow with purifying", "narrow baseline"),
            ("narrow with purifying", "narrow baseline without NMS"),
            (_NARROW, "narrow with excavating"),
            (_NARROW, "narrow with purifying"),
        )
        for metric in _METRICS
    ),
)
_choices = (
    ("features at key pixels", "model.excavating.sample_feature=true"),
    ("dynamic windows", "model.excavating.interaction=dynamic"),
    ("softened key pixels", "model.excavating.key_loss=gaussian"),
    ("detached descriptors", "model.excavating.detach=true"),
    ("similarity by distance", "model.purifying.similarity=distance"),
    ("similarity with places", "model.purifying.coordinates=true"),
    ("merging in chains", "model.purifying.merge=components"),
    ("cross entropy and dice", "model.dice_weight=1", "model.bce_weight=1"),
    ("classes on whole masks", "model.assigner.semantic_region=mask"),
    ("dense maps", "model.head.grid_numbers=null"),
    ("softmax", "model.head.classifier=softmax"),
    ("a shared tower", "model.head.shared_tower=true"),
)
_KEPT = "+model.purifying.merged=best"
_tests = (
    _tested("matrix NMS behind purifying", _quick_pep, "model.decoder.matrix_nms=true"),
    _tested("at most 30 descriptors", _quick_pep, "model.max_nodes=30"),
    _tested("the best descriptor of a group", _quick_pep, _KEPT),
    _tested("merging from 0.8 on", _quick_pep, "model.purifying.merge_threshold=0.8"),
)
_open = Table(
    "Open choices",
    what="what the paper does not say, on OccShapes; see the argument of the same name",
    metrics=_METRICS,
    rows=(
        _quick_pep,
        *_tests,
        _quick_purifying,
        _tested("with purifying: the best descriptor of a group", _quick_purifying, _KEPT),
        *(_quick(name, *overrides) for name, *overrides in _choices),
    ),
    comparisons=(
        *(Comparison(row.name, _NARROW, "segm/AP") for row in _tests),
        *(Comparison(name, _NARROW, "segm/AP") for name, *_ in _choices),
        Comparison("with purifying: the best descriptor of a group", "narrow with purifying", "segm/AP"),
    ),
)
_readings = Table(
    "Readings",
    what="grids as SOLOv2's, dense maps, and the equations as printed; ResNet-50 on COCO val2017",
    metrics=_PAPER,
    rows=(
        Row("PEP R50", full="PEP/pep_r50_fpn_coco_3x"),
        Row(
            "PEP R50 on dense maps",
            full="PEP/pep_r50_fpn_coco_3x",
            overrides=("model.head.grid_numbers=null", "model.min_mask_areas=[4,8,16,32,64]"),
        ),
        Row("PEP R50 as printed", full="PEP/pep_literal_r50_fpn_coco_3x"),
    ),
    comparisons=(
        Comparison("PEP R50", "PEP R50 on dense maps", "segm/AP"),
        Comparison("PEP R50", "PEP R50 as printed", "segm/AP"),
    ),
)
study = Study(_quick_table, _table_2, _table_1, _open, _readings)
