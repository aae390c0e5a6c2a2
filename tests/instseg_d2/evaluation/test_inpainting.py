"""Figures of completed objects: by hand, in their regions, and with parts missing."""

import numpy as np
import pytest
import torch

from instseg_d2.data.video_inpainting.clips import AS_BUILT, InpaintingClips
from instseg_d2.data.video_inpainting.exact import occvideo_tracks
from instseg_d2.evaluation.image_quality import PerceptualDistance
from instseg_d2.evaluation.inpainting import (
    InpaintingEvaluator,
    appearance,
    end_point_error,
    propagated_share,
    shape_overlap,
    warping_error,
)
from instseg_d2.inpainting.clips import from_bytes
from instseg_d2.inpainting.errors import InpaintingError


def mask(length=2, height=72, width=80, **boxes):
    """(T, 1, H, W); `f0=(top, left, height, width)` is the rectangle of frame 0."""
    planes = torch.zeros(length, 1, height, width)
    for name, (top, left, rows, columns) in boxes.items():
        planes[int(name[1:]), 0, top : top + rows, left : left + columns] = 1
    return planes


def images(length=2, height=72, width=80, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 200, (length, 3, height, width), generator=generator, dtype=torch.uint8)


COMPLETE = mask(f0=(10, 10, 20, 30), f1=(10, 10, 20, 30))
VISIBLE = mask(f0=(10, 10, 20, 20), f1=(10, 10, 20, 30))  # 20 x 10 px are hidden in frame 0, nothing in frame 1


def test_regions_are_honoured():
    clean = images()
    result = clean.clone()
    result[0, :, 10:30, 30:40] += 6  # in the hole
    result[0, :, 50:, 50:] += 50  # elsewhere: belongs to nobody
    result[1] += 50  # nothing is hidden in this frame
    values = appearance(from_bytes(result), from_bytes(clean), VISIBLE, COMPLETE)
    assert {name: len(found) for name, found in values.items()} == dict.fromkeys(values, 1)
    share = 20 * 10 / (72 * 80)
    assert values["PSNR_hole"][0] == pytest.approx(10 * np.log10(255**2 / 36))
    assert values["PSNR"][0] == pytest.approx(10 * np.log10(255**2 / (36 * share)))
    # The crop of 64 x 64 px around the object.
    assert values["PSNR_box"][0] == pytest.approx(10 * np.log10(255**2 / (36 * 200 / 64**2)))
    assert values["SSIM_hole"][0] < values["SSIM_box"][0] < 1
    assert values["SSIM_hole"][0] < values["SSIM"][0] < 1


def test_perfect_result():
    clean = from_bytes(images())
    values = appearance(clean, clean, VISIBLE, COMPLETE)
    assert values["PSNR"] == values["PSNR_hole"] == values["PSNR_box"] == [100]
    assert values["SSIM"] == values["SSIM_hole"] == values["SSIM_box"] == pytest.approx([1])


def test_end_point_error_by_hand():
    true = torch.zeros(1, 2, 72, 80), torch.zeros(1, 2, 72, 80)
    forward, backward = (flow.clone() for flow in true)
    forward[0, :, 10:30, 30:40] = torch.tensor([3.0, 4.0])[:, None, None]  # the hole of frame 0
    backward[0, 0, 10:30, 10:40] = 2  # the object in frame 1, which is all visible
    forward[0, :, 60:] = 99
    values = end_point_error((forward, backward), true, VISIBLE, COMPLETE)
    assert values["EPE"] == pytest.approx([5])
    assert values["EPE_complete"] == pytest.approx([5 / 3, 2])


def test_shape_overlap_by_hand():
    predicted = mask(f0=(10, 10, 20, 25), f1=(10, 10, 20, 30))
    values = shape_overlap(predicted, VISIBLE, COMPLETE)
    assert values["IoU"] == pytest.approx([25 / 30, 1])
    assert values["IoU_hidden"] == pytest.approx([0.5])
    assert shape_overlap(VISIBLE, VISIBLE, COMPLETE)["IoU_hidden"] == [0]
    # Too much is as wrong as too little.
    assert shape_overlap(torch.ones_like(VISIBLE), VISIBLE, COMPLETE)["IoU_hidden"][0] < 0.04


def test_propagated_share():
    propagated = mask(f0=(10, 30, 5, 10), f1=(10, 10, 20, 30))
    assert propagated_share(propagated, VISIBLE, COMPLETE)["propagated"] == pytest.approx([0.25])


def test_warping_error_sees_flicker():
    moving = torch.rand(3, 72, 90, generator=torch.Generator().manual_seed(0)) * 2 - 1
    clean = torch.stack([moving[:, :, 5 - time : 85 - time] for time in range(3)])  # one pixel to the right a frame
    complete = mask(length=3, f0=(10, 10, 20, 30), f1=(10, 11, 20, 30), f2=(10, 12, 20, 30))
    visible = complete * (1 - mask(length=3, f1=(10, 20, 20, 10)))
    step = torch.tensor([1.0, 0.0]).view(1, 2, 1, 1).expand(2, 2, 72, 80)
    same = warping_error(clean, clean, visible, complete, (step, -step))
    assert same["warp"] == same["warp_truth"] == pytest.approx([0, 0], abs=0.6)  # half of a grey level: rounding
    flicker = clean.clone()
    flicker[1] = -clean[1]
    found = warping_error(flicker, clean, visible, complete, (step, -step))
    assert min(found["warp"]) > 20
    assert found["warp_truth"] == same["warp_truth"]
    # Where the flow is wrong, nobody can say.
    assert warping_error(clean, clean, visible, complete, (step, step))["warp"] == []


@pytest.fixture
def evaluator():
    return InpaintingEvaluator(distributed=False)


def test_means_of_tracks_and_of_frames(evaluator):
    clean = images(length=3)
    for name, error, frames in (("a", 1, 3), ("b", 10, 1)):
        hole = mask(length=3, **{f"f{t}": (0, 0, 10, 10) for t in range(frames)})
        result = clean + error
        evaluator.process(
            name, clean=from_bytes(clean), visible=hole * 0, complete=hole, result=from_bytes(result), predicted=hole
        )
    results = evaluator.evaluate()
    low, high = 20 * np.log10(255), 20 * np.log10(25.5)
    assert results["inpainting"]["PSNR_hole"] == pytest.approx((low + high) / 2)
    assert results["inpainting_frames"]["PSNR_hole"] == pytest.approx((3 * low + high) / 4)
    assert results["inpainting"]["IoU"] == 1
    counts = {key: results["inpainting"][key] for key in ("tracks", "frames", "frames_without_hole")}
    assert counts == {"tracks": 2, "frames": 6, "frames_without_hole": 2}
    assert "EPE" not in results["inpainting"]
    evaluator.reset()
    assert evaluator.evaluate()["inpainting"] == {"tracks": 0, "frames": 0, "frames_without_hole": 0}


def test_lpips_absent_is_said_and_no_figure(evaluator, caplog):
    caplog.set_level("INFO")
    clean = from_bytes(images())
    evaluator.process("a", clean=clean, visible=VISIBLE, complete=COMPLETE, result=clean)
    results = evaluator.evaluate()
    assert not [metric for metric in results["inpainting"] if metric.startswith("LPIPS")]
    assert caplog.text.count("n/a (weights absent)") == 2
    assert "window 65 px" in caplog.text
    assert "in 1 of them nothing is hidden" in caplog.text


def test_lpips_present():
    class Distance(torch.nn.Module):
        def forward(self, first, second):
            assert min(first.shape[-2:]) >= 64
            return (first - second).abs().mean().reshape(1, 1, 1, 1)

    evaluator = InpaintingEvaluator(lpips=PerceptualDistance(Distance()), distributed=False)
    clean = images()
    evaluator.process("a", clean=from_bytes(clean), visible=VISIBLE, complete=COMPLETE, result=from_bytes(clean + 51))
    results = evaluator.evaluate()["inpainting"]
    assert results["LPIPS"] == pytest.approx(0.4 * 200 / (72 * 80))
    assert results["LPIPS_box"] == pytest.approx(0.4 * 200 / 64**2)


def test_object_that_is_never_hidden_or_never_there(evaluator):
    clean = from_bytes(images())
    nothing = torch.zeros_like(COMPLETE)
    flows = (torch.zeros(1, 2, 72, 80),) * 2
    for name, complete in (("whole", COMPLETE), ("absent", nothing)):
        evaluator.process(
            name,
            clean=clean,
            visible=complete,
            complete=complete,
            result=clean,
            predicted=complete,
            flows=flows,
            true_flows=flows,
            propagated=nothing,
        )
    results = evaluator.evaluate()["inpainting"]
    assert results["frames_without_hole"] == 4
    assert results["IoU"] == 1
    assert not {"PSNR", "EPE", "IoU_hidden", "propagated"} & results.keys()
    assert all(np.isfinite(value) for value in results.values())


def test_one_frame(evaluator):
    flows = (torch.zeros(0, 2, 72, 80),) * 2
    clean = from_bytes(images(length=1))
    evaluator.process(
        "a", clean=clean, visible=VISIBLE[:1], complete=COMPLETE[:1], result=clean, flows=flows, true_flows=flows
    )
    results = evaluator.evaluate()["inpainting"]
    assert results["PSNR"] == 100
    assert not {"EPE", "warp"} & results.keys()


@pytest.mark.parametrize(
    ("part", "words"),
    [
        ({"visible": VISIBLE[:1]}, "visible must be"),
        ({"complete": COMPLETE[..., :40]}, "complete must be"),
        ({"predicted": COMPLETE[..., :40]}, "predicted must be"),
        ({"result": torch.zeros(2, 3, 72, 40)}, r"track a: result \(2, 3, 72, 40\), truth"),
        ({"flows": (torch.zeros(2, 2, 72, 80),) * 2, "true_flows": (torch.zeros(1, 2, 72, 80),) * 2}, "forward flow"),
        ({"flows": (torch.zeros(1, 2, 72, 80),) * 2}, "beside 'true_flows'"),
    ],
)
def test_parts_that_do_not_fit(evaluator, part, words):
    arguments = {"clean": from_bytes(images()), "visible": VISIBLE, "complete": COMPLETE, **part}
    with pytest.raises(InpaintingError, match=words):
        evaluator.process("a", **arguments)


def test_exact_clip_end_to_end(evaluator):
    """The observed clip scores worse than the truth, in everything."""
    tracks = occvideo_tracks(videos=1, seed=2, frames=5, size=(64, 96))
    item = InpaintingClips(tracks, length=5, size=(64, 96), erasing=AS_BUILT, consecutive=1, flip=0, flow=True, seed=0)[
        0
    ]
    flows = item["forward_flow"], item["backward_flow"]
    truth = {name: item[name] for name in ("clean", "complete")} | {
        "visible": item["complete"] * (1 - item["hole"]), "true_flows": flows,
    }  # fmt: skip
    figures = []
    for result, predicted, moved in (
        (item["frames"], item["visible"], [flow * 0 for flow in flows]),
        (item["clean"], item["complete"], flows),
    ):
        evaluator.reset()
        evaluator.process("a", result=result, predicted=predicted, flows=moved, **truth)
        figures.append(evaluator.evaluate()["inpainting"])
    observed, exact = figures
    for metric in ("PSNR", "PSNR_hole", "PSNR_box", "SSIM", "SSIM_hole", "SSIM_box", "IoU", "IoU_hidden"):
        assert observed[metric] < exact[metric], metric
    assert exact["EPE"] == 0 < observed["EPE"]
    assert exact["warp"] == exact["warp_truth"] <= observed["warp"]
