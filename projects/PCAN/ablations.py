"""The tables of PCAN (thesis chapter 5): AP of tracks on YouTube-VIS 2019, tracking on BDD100K.

The one-stage model stands for SipMask in the tables of YouTube-VIS. Table 5.5, which has no training in its costs, is
measured by `tools/benchmark.py temporal`.
Quick rows train on from one tracker of OccVideo, whose backbone is frozen. What matters in the test alone, the length
of the memory and the propagation of prototypes, is tested with the weights of one row.
"""

from dataclasses import replace

from instseg_d2.reproduction import Comparison, Recipe, Row, SharedDetector, Study, Table

_AP = "segm/AP"
_QUICK = (_AP, "segm/AP50", "segm/AR10", "segm_frames/AP", "mots/mMOTSA", "mots/IDSw")
_NO_FRAMES = "model.frame_attention=null"
_NO_INSTANCES = "model.instance_attention=null"
_start = SharedDetector(
    "narrow tracker",
    quick=Recipe("PCAN/tracking_rcnn_narrow_fpn_occvideo_quick", ("train.max_iter=600",)),
    leave_out=(),
)


def _quick(name: str, *overrides: str, config: str = "pcan") -> Row:
    shared = ("train.max_iter=150", "train.freeze=[backbone]", "optimizer.lr=1e-3", "train.recipe.lr=1e-3")
    recipe = Recipe(f"PCAN/{config}_narrow_fpn_occvideo_quick", (*shared, *overrides))
    return Row(name, quick=recipe, shared_detector=_start)


def _tested(name: str, trained: Row, *overrides: str) -> Row:
    """The weights of a row with other settings."""
    return Row(name, quick=replace(trained.quick, overrides=(*trained.quick.overrides, *overrides)), weights_of=trained)


def _numbers(foreground: int, background: int) -> tuple[str, ...]:
    return (f"model.instance_attention.foreground={foreground}", f"model.instance_attention.background={background}")


def _against(
    baseline: str,
    *rows: str,
    metrics: tuple[str, ...] = (_AP, "segm_frames/AP", "mots/mMOTSA"),
    expected: int | None = 1,
) -> tuple[Comparison, ...]:
    return tuple(Comparison(row, baseline, metric, expected=expected) for row in rows for metric in metrics)


_tracker = _quick("narrow tracker trained on", config="tracking_rcnn")
_frames = _quick("narrow: frame level", _NO_INSTANCES)
_instances = _quick("narrow: instance level", _NO_FRAMES)
_pcan = _quick("narrow: both")
_levels = Table(
    "Levels",
    what="on OccVideo, each trained on from one tracker; mMOTSA, higher is better, and switches of identity",
    metrics=_QUICK,
    rows=(_tracker, _frames, _instances, _pcan),
    comparisons=(
        *_against(_tracker.name, _frames.name, _instances.name, _pcan.name),
        Comparison(_pcan.name, _tracker.name, "mots/IDSw", expected=-1),
    ),
)
_lengths = tuple(_tested(f"narrow: length {n}", _frames, f"model.frame_attention.length={n}") for n in (2, 8))
_narrow_lengths = Table(
    "Table 5.3 on OccVideo",
    what="length of the clip, the current frame included; 1 is the tracker, 4 the frame level above",
    metrics=_QUICK,
    rows=(_tracker, _lengths[0], _frames, _lengths[1]),
    comparisons=_against(_tracker.name, _lengths[0].name, _frames.name, _lengths[1].name, metrics=(_AP,)),
)
_few = tuple(_quick(f"narrow: {n} + {n} prototypes", _NO_FRAMES, *_numbers(n, n)) for n in (1, 5))
_narrow_numbers = Table(
    "Table 5.6 on OccVideo",
    what="prototypes of object and background; none is the tracker, 30 + 30 the instance level above",
    metrics=_QUICK,
    rows=(_tracker, *_few, _instances),
    comparisons=_against(_tracker.name, *(row.name for row in (*_few, _instances)), metrics=(_AP, "segm_frames/AP")),
)
_PROPAGATION = "model.instance_attention.propagation"
_propagated = (
    _tested("narrow: of the current frame", _instances, f"{_PROPAGATION}='none'"),
    _tested("narrow: of the first frame", _instances, f"{_PROPAGATION}=first"),
    _tested("narrow: momentum 0.5", _instances, "model.instance_attention.momentum=0.5"),
)
_narrow_propagation = Table(
    "Table 5.7 on OccVideo",
    what="where an object's prototypes come from; the instance level above has momentum 0.2",
    metrics=_QUICK,
    rows=(*_propagated, _instances),
    comparisons=_against(*(row.name for row in (_propagated[1], _instances)), metrics=(_AP, "segm_frames/AP"))
    + _against(_propagated[0].name, _instances.name, metrics=(_AP, "segm_frames/AP")),
)

_TRACKS = ("segm/AP", "segm/AP50", "segm/AP75", "segm/AR1", "segm/AR10")


def _printed(*values: float) -> dict[str, float]:
    return dict(zip(_TRACKS, values, strict=False))


def _ytvis(name: str, *overrides: str, ap: float | None = None, config: str = "pcan_fcos_r50") -> Row:
    paper = {} if ap is None else {_AP: ap}
    return Row(name, full=f"PCAN/{config}_fpn_ytvis2019", overrides=overrides, paper=paper)


_base = _ytvis("tracker", ap=32.5, config="tracking_fcos_r50")
_table_1 = Table(
    "Table 5.1",
    what="YouTube-VIS 2019, validation; the tracker stands for SipMask",
    metrics=_TRACKS,
    rows=(
        replace(_base, paper=_printed(32.5, 53.0, 33.3, 33.5, 38.9)),
        replace(_ytvis("PCAN R50"), paper=_printed(36.1, 54.9, 39.4, 36.3, 41.6)),
        replace(_ytvis("PCAN R101", config="pcan_fcos_r101"), paper=_printed(37.6, 57.2, 41.3, 37.2, 43.9)),
    ),
    comparisons=(Comparison("PCAN R50", "tracker", _AP), Comparison("PCAN R101", "PCAN R50", _AP)),
)
_MOTS = ("mots/mMOTSA", "mots/mMOTSP", "mots/mIDF1", "mots/IDSw", "segm/AP")


def _bdd(name: str, config: str, *values: float) -> Row:
    return Row(name, full=f"PCAN/{config}_r50_fpn_bdd100k", paper=dict(zip(_MOTS, values, strict=False)))


_table_2 = Table(
    "Table 5.2",
    what="BDD100K MOTS, validation of 32 videos; stages 0 and 1 come first, see above. The tracker is QDTrack-mots-fix",
    metrics=_MOTS,
    rows=(
        replace(
            _bdd("tracker on BDD100K", "pcan", 23.5, 66.3, 44.5, 973, 25.5),
            full="PCAN/tracking_rcnn_r50_fpn_bdd100k_masks",
        ),
        _bdd("PCAN on BDD100K", "pcan", 27.4, 66.7, 45.1, 876, 26.6),
        Row(
            "PCAN as released",
            full="PCAN/pcan_released_r50_fpn_bdd100k",
            paper={"mots/mMOTSA": 28.1, "mots/mIDF1": 45.4, "mots/IDSw": 874},
        ),
    ),
    comparisons=tuple(Comparison("PCAN on BDD100K", "tracker on BDD100K", metric) for metric in _MOTS),
)
_table_3 = Table(
    "Table 5.3",
    what="length of the clip, frame level alone; 1 is the tracker",
    metrics=(_AP,),
    rows=(
        _base,
        *(
            _ytvis(f"length {length}", _NO_INSTANCES, f"model.frame_attention.length={length}", ap=ap)
            for length, ap in {2: 33.7, 4: 33.9, 8: 34.2, 16: 34.6, 32: 35.4}.items()
        ),
    ),
    comparisons=_against(_base.name, *(f"length {n}" for n in (2, 4, 8, 16, 32)), metrics=(_AP,), expected=None),
)
_LEVELS = {"p3": 30.8, "p4": 32.0, "p5": 32.9, "p3,p4": 33.1, "p3,p4,p5": 33.9}
_table_4 = Table(
    "Table 5.4",
    what="levels of the frame level, length 4",
    metrics=(_AP,),
    rows=(
        _base,
        *(
            _ytvis(
                f"levels {levels.replace(',', ' ')}",
                _NO_INSTANCES,
                "model.frame_attention.length=4",
                f"model.frame_attention.in_features=[{levels}]",
                ap=ap,
            )
            for levels, ap in _LEVELS.items()
        ),
    ),
    comparisons=_against(
        _base.name, *(f"levels {levels.replace(',', ' ')}" for levels in _LEVELS), metrics=(_AP,), expected=None
    ),
)
_NUMBERS = {(1, 0): 32.4, (0, 1): 32.1, (1, 1): 32.7, (5, 5): 33.1, (30, 30): 33.9, (50, 50): 33.6}
_table_6 = Table(
    "Table 5.6",
    what="prototypes of object + background, instance level alone; none is the tracker",
    metrics=(_AP,),
    rows=(
        _base,
        *(_ytvis(f"{a} + {b} prototypes", _NO_FRAMES, *_numbers(a, b), ap=ap) for (a, b), ap in _NUMBERS.items()),
    ),
    comparisons=_against(_base.name, *(f"{a} + {b} prototypes" for a, b in _NUMBERS), metrics=(_AP,), expected=None),
)
_table_7 = Table(
    "Table 5.7",
    what="where an object's prototypes come from, instance level alone",
    metrics=(_AP,),
    rows=(
        _ytvis("of the current frame", _NO_FRAMES, f"{_PROPAGATION}='none'", ap=33.5),
        _ytvis("of the first frame", _NO_FRAMES, f"{_PROPAGATION}=first", ap=33.0),
        _ytvis("momentum 0.2", _NO_FRAMES, "model.instance_attention.momentum=0.2", ap=34.3),
        _ytvis("momentum 0.5", _NO_FRAMES, "model.instance_attention.momentum=0.5", ap=34.0),
    ),
    comparisons=_against(
        "of the first frame",
        "of the current frame",
        "momentum 0.2",
        "momentum 0.5",
        metrics=(_AP,),
        expected=None,
    ),
)
study = Study(
    _levels,
    _narrow_lengths,
    _narrow_numbers,
    _narrow_propagation,
    _table_1,
    _table_2,
    _table_3,
    _table_4,
    _table_6,
    _table_7,
)
