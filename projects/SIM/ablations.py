"""The tables of SIM: mask AP on COCO val2017 with ResNet-50 FPN, 1x, and on test-dev with ResNet-101 FPN.

Quick rows train on from one BoxInst, whose masks stand in for what ten thousand iterations give on COCO: the pseudo
masks of a model that has hardly begun teach nothing. One row is that BoxInst trained on alone; boxes as masks and true
masks are the ends of the ladder.
"""

from dataclasses import replace

from instseg_d2.reproduction import Comparison, Recipe, Row, SharedDetector, Study, Table

_METRICS = (
    "segm/AP",
    "segm/AP50",
    "segm_touching_same_class/AP",
    "segm_touching_same_color/AP",
    "given_boxes/IoU",
    "given_boxes/IoU-0.2-1",
)
_PAPER = ("segm/AP", "segm/AP50", "segm/AP75", "segm/APs", "segm/APm", "segm/APl")
_NO_PASTE = "model.copy_paste=null"
_ALONE = "model.pseudo_weight=0"
_NO_PMW = "model.labeler.mu=0"

_start = SharedDetector(
    "narrow BoxInst",
    quick=Recipe(
        "SIM/boxinst_narrow_fpn_occshapes_quick", ("train.max_iter=1200", "model.supervision.warmup_iters=130")
    ),
    seed=1,
    leave_out=(),
)


def _printed(*values: float) -> dict[str, float]:
    return dict(zip(_PAPER, values, strict=False))


def _full(name: str, *overrides: str, printed: dict[str, float] | None = None, config: str = "sim_r50") -> Row:
    return Row(name, full=f"SIM/{config}_fpn_coco_1x", overrides=overrides, paper=printed or {})


def _quick(name: str, *overrides: str, config: str = "sim") -> Row:
    shared = ["train.max_iter=300", "optimizer.lr=1e-3", "train.recipe.lr=1e-3"]
    if config == "sim":
        # Teacher and prototypes start from weights that may teach at once; the bank of objects fills in the meantime.
        shared += ["model.warmup_iters=30"]
    recipe = Recipe(f"SIM/{config}_narrow_fpn_occshapes_quick", (*shared, *overrides))
    return Row(name, quick=recipe, shared_detector=_start)


def _alpha(value: float) -> str:
    return f"model.labeler.alpha={value}"


def _number(value: int) -> str:
    return f"model.labeler.prototypes.num_prototypes={value}"


def _against(baseline: str, *rows: str, expected: int | None = None, metrics: tuple[str, ...] = _METRICS):
    return tuple(Comparison(row, baseline, metric, expected=expected) for row in rows for metric in metrics)


_narrow = _quick("narrow SIM")
_narrow_parts = Table(
    "Parts",
    what="on OccShapes, each trained on from one BoxInst",
    metrics=_METRICS,
    rows=(
        _quick("narrow boxes as masks", config="boxes_as_masks"),
        _quick("narrow BoxInst trained on", config="boxinst"),
        _quick("narrow SIM without pasting", _NO_PASTE),
        _narrow,
        _quick("narrow CondInst with masks", "model.mask_branch.out_channels=16", config="condinst"),
        _quick("narrow SIM without positive mask weighting", _NO_PMW),
        _quick("narrow SIM with pasting alone", _ALONE),
    ),
    comparisons=(
        *_against("narrow boxes as masks", "narrow BoxInst trained on", expected=1),
        *_against(
            "narrow BoxInst trained on", "narrow SIM without pasting", "narrow SIM with pasting alone", expected=1
        ),
        *_against("narrow BoxInst trained on", "narrow SIM", expected=1),
        *_against("narrow SIM without pasting", "narrow SIM", expected=1),
        *_against("narrow SIM", "narrow CondInst with masks", expected=1),
        *_against("narrow SIM without positive mask weighting", "narrow SIM", expected=1),
    ),
)
_narrow_alpha = Table(
    "Share of the instance map",
    what="on OccShapes, each trained on from one BoxInst; 1 is the teacher alone, 0 the prototypes alone",
    metrics=_METRICS,
    rows=(*(_quick(f"narrow with alpha = {value}", _alpha(value)) for value in (0.0, 0.3, 0.7, 1.0)), _narrow),
    comparisons=_against(
        "narrow SIM",
        *(f"narrow with alpha = {value}" for value in (0.0, 0.3, 0.7, 1.0)),
        expected=-1,
        metrics=("segm/AP", "given_boxes/IoU"),
    ),
)
_narrow_number = Table(
    "Number of prototypes",
    what="on OccShapes, each trained on from one BoxInst",
    metrics=_METRICS,
    rows=(*(_quick(f"narrow with L = {value}", _number(value)) for value in (1, 5, 50)), _narrow),
    comparisons=_against(
        "narrow SIM",
        *(f"narrow with L = {value}" for value in (1, 5)),
        expected=-1,
        metrics=("segm/AP", "given_boxes/IoU"),
    ),
)

_boxinst = _full("BoxInst", config="boxinst_r50", printed=_printed(30.7, 52.2, 31.1, 13.8, 33.1, 45.7))
_pseudo = _full("pseudo masks", _NO_PASTE, printed=_printed(31.9, 54.0, 32.6, 14.7, 34.7, 47.4))
_sim = _full("SIM", printed=_printed(32.2, 54.0, 33.0, 15.8, 34.5, 48.3))
_parts = Table(
    "Losses",
    what="ResNet-50, 1x, COCO val2017",
    metrics=_PAPER,
    rows=(_boxinst, _pseudo, _sim),
    comparisons=(Comparison("pseudo masks", "BoxInst", "segm/AP"), Comparison("SIM", "pseudo masks", "segm/AP")),
)
_alphas = {0.0: 30.5, 0.3: 31.3, 0.7: 32.0, 1.0: 31.4}
_shares = Table(
    "alpha",
    what="share of the instance map in the fused one; 0.5 is SIM's",
    metrics=("segm/AP",),
    rows=(
        *(_full(f"alpha = {value}", _alpha(value), printed={"segm/AP": ap}) for value, ap in _alphas.items()),
        replace(_sim, paper={"segm/AP": 32.2}),
    ),
    comparisons=tuple(Comparison("SIM", f"alpha = {value}", "segm/AP") for value in _alphas),
)
_numbers = {1: 31.6, 5: 32.0, 50: 32.2}
_counts = Table(
    "L",
    what="prototypes of a class; 10 is SIM's",
    metrics=("segm/AP",),
    rows=(
        *(_full(f"L = {value}", _number(value), printed={"segm/AP": ap}) for value, ap in _numbers.items()),
        replace(_sim, paper={"segm/AP": 32.2}),
    ),
    comparisons=tuple(Comparison("SIM", f"L = {value}", "segm/AP") for value in (1, 5)),
)
_readings = Table(
    "Readings",
    what="what the paper does not measure, ResNet-50, 1x: its parts, and the released code's choices",
    metrics=_PAPER,
    rows=(
        _sim,
        _full("without positive mask weighting", _NO_PMW),
        _full("pasted into the batch", "model.paste_into=batch"),
        _full("as released", config="sim_released_r50"),
    ),
    comparisons=(
        Comparison("SIM", "without positive mask weighting", "segm/AP"),
        Comparison("SIM", "pasted into the batch", "segm/AP"),
        Comparison("SIM", "as released", "segm/AP"),
    ),
)
_headline = Table(
    "ResNet-101",
    what="the printed numbers are of COCO test-dev",
    metrics=_PAPER,
    rows=(
        Row("BoxInst R101 3x", full="SIM/boxinst_r101_fpn_coco_3x", paper={"segm/AP": 33.2}),
        Row("SIM R101 1x", full="SIM/sim_r101_fpn_coco_1x", paper=_printed(34.0, 56.8, 35.0, 17.2, 36.8, 45.5)),
        Row("SIM R101 3x", full="SIM/sim_r101_fpn_coco_3x", paper=_printed(35.3, 58.9, 36.4, 18.4, 38.0, 47.5)),
    ),
    comparisons=(Comparison("SIM R101 3x", "BoxInst R101 3x", "segm/AP"),),
)
study = Study(
    _narrow_parts,
    _narrow_alpha,
    _narrow_number,
    _parts,
    _shares,
    _counts,
    _readings,
    _headline,
)
