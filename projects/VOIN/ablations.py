"""The table of VOIN (thesis chapter 5, Table 5.8), and what each of its parts is worth.

The paper prints Table 5.8 alone; the other tables take parts away. Quick rows learn on OccVideo, whose truth is exact.
What needs no network is scored on the clips of a row's test (`weights_of`), and costs no training.
"""

from dataclasses import replace

from instseg_d2.reproduction import Comparison, Recipe, Row, Study, Table

_EPE = ("inpainting/EPE", "inpainting/EPE_complete")
_IMAGE = ("inpainting/PSNR", "inpainting/SSIM", "inpainting/PSNR_hole", "inpainting/warp")
_PSNR, _SSIM, _HOLE = _IMAGE[:3]
_IOU = ("inpainting/IoU", "inpainting/IoU_hidden")
_HIDDEN = _IOU[1]
_LPIPS = "inpainting/LPIPS"
_NO_FLOW = ("dataloader.train.mapper.along=null", "dataloader.test.mapper.along=null")
_NO_STAM = "model.critics.by_class=null"


def _stage(kind: str, name: str, *overrides: str) -> Row:
    """A stage in both budgets."""
    return Row(
        name, quick=f"VOIN/voin_{kind}_tiny_occvideo_quick", full=f"VOIN/voin_{kind}_base_ytvoi", overrides=overrides
    )


def _instead(name: str, trained: Row, baseline: str) -> Row:
    """What needs no network, on the clips that a row is tested on."""
    overrides = (*trained.overrides, f"dataloader.evaluator.instead='{baseline}'")
    return replace(trained, name=name, overrides=overrides, weights_of=trained)


def _against(
    baseline: str, *rows: str, metrics: tuple[str, ...], expected: int | None = None
) -> tuple[Comparison, ...]:
    return tuple(Comparison(row, baseline, metric, expected=expected) for row in rows for metric in metrics)


_flow = _stage("flow", "flow completion")
_dis = _instead("DIS", _flow, "observed flow")
_harmonic = _instead("harmonic", _flow, "harmonic flow")
_motion = Table(
    "Motion",
    what="EPE in the hidden part and in the complete mask, px; lower is better",
    metrics=_EPE,
    rows=(_dis, _harmonic, _flow),
    comparisons=(
        *_against(_dis.name, _harmonic.name, _flow.name, metrics=_EPE, expected=-1),
        *_against(_harmonic.name, _flow.name, metrics=_EPE, expected=-1),
    ),
)
_without = tuple(
    _stage("flow", f"without the {name}", f"model.loss.{weight}_weight=0")
    for name, weight in {
        "gradient loss": "gradient",
        "Laplacian loss": "laplacian",
        "warping loss": "warp",
        "contour's guidance": "smoothness",
    }.items()
)
_losses = Table(
    "Losses of flow completion",
    what="each left out; EPE, px, lower is better",
    metrics=_EPE,
    rows=(_flow, *_without),
    comparisons=_against(_flow.name, *(row.name for row in _without), metrics=_EPE[:1], expected=1),
)

_content = _stage("content", "VOIN with flow")
_no_flow = _stage("content", "VOIN without flow", *_NO_FLOW)
_weight_free = _instead("weight-free", _content, "weight-free")
_appearance = Table(
    "Appearance",
    what="with true complete masks; pixels are propagated along the harmonic flow",
    metrics=_IMAGE,
    rows=(_weight_free, _no_flow, _content),
    comparisons=(
        *_against(_no_flow.name, _content.name, metrics=(_PSNR, _SSIM, _HOLE), expected=1),
        *_against(_weight_free.name, _no_flow.name, _content.name, metrics=(_PSNR, _SSIM)),
    ),
)
_plain = _stage("content", "plain gate", "model.painter.network.gate=plain")
_ungated = _stage("content", "no gate", "model.painter.network.gate='none'")
_no_stam = _stage("content", "without the class discriminator", _NO_STAM)
_parts = Table(
    "Parts of content completion",
    what="a gate that does not know the hole, no gate (TSM), and T-PatchGAN alone",
    metrics=_IMAGE,
    rows=(_content, _plain, _ungated, _no_stam),
    comparisons=_against(_content.name, _plain.name, _ungated.name, _no_stam.name, metrics=(_PSNR, _HOLE), expected=-1),
)

_shape = _stage("shape", "shape completion")
_no_class = _stage("shape", "without the class embedding", "model.network.fusion.class_channels=0")
_visible = _instead("visible mask", _shape, "visible")
_hull = _instead("convex hull", _shape, "convex hull")
# The base recipe's test has no flow.
_union = replace(_instead("flow-aligned union", _shape, "flow-aligned union"), full=None)
_masks = Table(
    "Shape",
    what="IoU of complete masks and of their hidden parts; the union is told where the occluder is",
    metrics=_IOU,
    rows=(_visible, _hull, _union, _shape, _no_class),
    comparisons=(
        *_against(_visible.name, _shape.name, metrics=_IOU, expected=1),
        *_against(_hull.name, _shape.name, metrics=(_HIDDEN,), expected=1),
        *_against(_union.name, _shape.name, metrics=(_HIDDEN,)),
        *_against(_shape.name, _no_class.name, metrics=(_HIDDEN,), expected=-1),
    ),
)

# Pixels at the width of the paper's frames, 432, and at that of the quick rows, 96.
_GROWN = {5: 1, 10: 2, 15: 3}
_ERRORS = "instseg_d2.data.video_inpainting.mask_errors.MaskErrors"


def _with_errors(trained: Row, name: str, quick: str, full: str) -> Row:
    """A row tested on visible masks with errors."""
    recipes = {
        budget: Recipe(config, (f"+dataloader.test.dataset.clips.errors={{_target_: {_ERRORS}, {error}}}",))
        for budget, config, error in (("quick", trained.quick, quick), ("full", trained.full, full))
    }
    return replace(trained, name=f"{trained.name}: {name}", weights_of=trained, **recipes)


def _robustness(trained: Row, metrics: tuple[str, ...]) -> Table:
    rows = [trained]
    for sign, word in ((1, "dilated"), (-1, "eroded")):
        rows += [
            _with_errors(trained, f"{word} by {full} px", f"grow: {sign * quick}", f"grow: {sign * full}")
            for full, quick in _GROWN.items()
        ]
    rows += [
        _with_errors(trained, name, error, error)
        for name, error in (("half of the parts missing", "lose: 0.5"), ("a part too much", "add: 1.0"))
    ]
    return Table(
        f"Mask errors of {trained.name}",
        what="in the visible masks of the test (Fig. 5.13); pixels at a width of 432, of quick rows a fifth",
        metrics=metrics,
        rows=tuple(rows),
        comparisons=_against(trained.name, *(row.name for row in rows[1:]), metrics=metrics[-1:]),
    )


_shape_errors = _robustness(_shape, _IOU)
_content_errors = _robustness(_content, (_PSNR, _SSIM, _HOLE))


def _printed(row: Row, psnr: float, ssim: float, lpips: float) -> Row:
    return replace(row, paper={_PSNR: psnr, _SSIM: ssim, _LPIPS: lpips})


_lgtsm = Row(
    "gated TSM without flow",
    full="VOIN/voin_content_base_ytvoi",
    overrides=(*_NO_FLOW, "model.painter.network.gate=plain", _NO_STAM),
    what="stands for LGTSM",
)
_table_8 = Table(
    "Table 5.8",
    what=(
        "YouTube-VOI; not comparable with print, whose occluders, regions and averages are not published. Printed "
        "beside: DFVI 4.79 / 44.91 / 0.952 / 0.099, FGVC 3.69 / 43.90 / 0.924 / 0.065 and STTN - / 45.97 / 0.986 / "
        "0.020 (EPE / PSNR / SSIM / LPIPS)"
    ),
    metrics=("inpainting/EPE", _PSNR, _SSIM, _LPIPS),
    rows=(
        _printed(_lgtsm, 45.19, 0.979, 0.024),
        _printed(_no_flow, 46.33, 0.989, 0.013),
        _printed(_content, 48.99, 0.994, 0.008),
        replace(_flow, paper={"inpainting/EPE": 3.11}),
    ),
    comparisons=(
        *_against(_lgtsm.name, _no_flow.name, metrics=(_PSNR, _SSIM, _LPIPS)),
        *_against(_no_flow.name, _content.name, metrics=(_PSNR, _SSIM, _LPIPS)),
    ),
)
study = Study(_motion, _losses, _appearance, _parts, _masks, _shape_errors, _content_errors, _table_8)
