import pytest
import torch

from instseg_d2.evaluation.inpainting import InpaintingEvaluator
from instseg_d2.evaluation.inpainting_stages import BASELINES, StageEvaluator
from instseg_d2.evaluation.shape_baselines import convex_hulls
from instseg_d2.inpainting.errors import InpaintingError
from instseg_d2.inpainting.flow.backends import DISFlow
from instseg_d2.inpainting.shape.union import flow_aligned_union
from instseg_d2.inpainting.stages.mapper import ClipMapper


@pytest.fixture
def clips(hidden_clips):
    mapper = ClipMapper(flow=DISFlow(), harmonic=True, along="truth")
    return [mapper(item) for item in hidden_clips(2)]


def scored(items, outputs, **settings):
    evaluator = StageEvaluator(evaluator=InpaintingEvaluator(distributed=False), **settings)
    evaluator.reset()
    for item, output in zip(items, outputs, strict=True):
        evaluator.process([item], [output])
    return evaluator.evaluate()["inpainting"]


def test_the_truth_is_perfect(clips):
    truths = [
        {"frames": item["clean"], "complete": item["complete"], "flows": (item["forward_flow"], item["backward_flow"])}
        for item in clips
    ]
    figures = scored(clips, truths)
    assert (figures["PSNR"], figures["SSIM"], figures["EPE"], figures["IoU"]) == (100, 1, 0, 1)
    assert figures["tracks"] == 2
    filled = [item["propagated_visible"] - item["visible"] for item in clips]
    shares = [part.sum((1, 2, 3)) / item["hole"].sum((1, 2, 3)) for part, item in zip(filled, clips, strict=True)]
    assert figures["propagated"] == pytest.approx(torch.stack(shares).mean().item())


def test_errors_of_the_masks_that_a_stage_is_shown_are_none_of_the_truth(clips):
    spoiled = [{**item, "visible": torch.zeros_like(item["visible"])} for item in clips]
    frames = [{"frames": item["frames"]} for item in clips]
    before, after = scored(clips, frames), scored(spoiled, frames)
    assert before["PSNR_hole"] == after["PSNR_hole"]


def test_baselines_are_scored_in_the_place_of_predictions(clips):
    nothing = [{}, {}]
    seen = scored(clips, [{"complete": item["visible"]} for item in clips])
    assert scored(clips, nothing, instead="visible") == seen
    assert seen["IoU_hidden"] == 0
    hull = scored(clips, [{"complete": convex_hulls(item["visible"])} for item in clips])
    assert scored(clips, nothing, instead="convex hull") == hull
    # The bar cuts a rectangle in two, so the hull is right.
    assert hull["IoU_hidden"] > 0.95
    observed, harmonic = (scored(clips, nothing, instead=f"{kind} flow")["EPE"] for kind in ("observed", "harmonic"))
    names = ("observed_forward_flow", "observed_backward_flow")
    direct = scored(clips, [{"flows": tuple(item[name] for name in names)} for item in clips])
    assert observed == direct["EPE"]
    assert harmonic < observed
    painted = scored(clips, nothing, instead="weight-free")
    assert scored(clips, [{"frames": item["frames"]} for item in clips])["PSNR"] < painted["PSNR"] < 100
    parts = ("visible", "eraser", *names)
    unions = [flow_aligned_union(*(item[name][None] for name in parts))[0] for item in clips]
    union = scored(clips, [{"complete": union} for union in unions])
    assert scored(clips, nothing, instead="flow-aligned union") == union


def test_unknown_baselines_and_missing_parts_are_named(hidden_clips):
    with pytest.raises(ValueError, match="weight-free"):
        StageEvaluator(evaluator=InpaintingEvaluator(), instead="hull")
    for name in set(BASELINES) - {"visible", "convex hull"}:
        with pytest.raises(InpaintingError, match="the clips have no"):
            scored(hidden_clips(1), [{}], instead=name)
