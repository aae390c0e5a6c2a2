"""Multiply-adds, peak memory and thresholds: numbers that can be counted by hand, and three kinds of models."""

import pytest
import torch
from detectron2.config import instantiate
from torch import nn

from instseg_d2.benchmark.flops import count_flops
from instseg_d2.benchmark.memory import peak_tensor_memory
from instseg_d2.benchmark.models import batch_of, inference, make_it_detect
from instseg_d2.benchmark.thresholds import lower_thresholds
from instseg_d2.model_zoo import get_config
from instseg_d2.testing import tiny_mask_rcnn

CASCADE = "Baselines/cascade_mask_rcnn_narrow_fpn_occshapes_quick"
FCOS = "Baselines/fcos_mask_narrow_fpn_occshapes_quick"


class TwoLayers(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = nn.Conv2d(3, 5, kernel_size=3, padding=1)
        self.head = nn.Linear(5, 7)

    def forward(self, batched_inputs):
        features = self.backbone(batched_inputs[0]["image"].float()[None])
        return [{"logits": self.head(features.mean(dim=(2, 3)))}]


def test_flops_by_hand():
    counts = count_flops(TwoLayers().eval(), [{"image": torch.zeros(3, 8, 10)}])
    convolution, linear = 8 * 10 * 5 * 3 * 9, 5 * 7
    assert counts["backbone"] == convolution
    assert counts["head"] == linear
    assert counts[""] == pytest.approx(convolution + linear, abs=5 * 8 * 10)  # the mean is a sum, which may count


def test_flops_of_the_mask_head_grow_with_the_detections():
    model, inputs = tiny_mask_rcnn().eval(), batch_of(64, 1)
    assert make_it_detect(model, inputs)
    found = len(inference(model, inputs)()[0]["instances"])
    convolutions = 3 * 3 * 16 * 16 * 14 * 14
    transposed, predictor = 4 * 16 * 16 * 14 * 14, 16 * 3 * 28 * 28
    counts = count_flops(model, inputs)
    assert found > 0
    assert counts["roi_heads.mask_head"] == found * (convolutions + transposed + predictor)
    assert counts[""] >= counts["backbone"] + counts["proposal_generator"] + counts["roi_heads"]


def test_peak_memory_by_hand():
    mebi = 2**18  # floats
    held = torch.zeros(3, mebi)

    def run():
        first = torch.zeros(4, mebi)
        second = first + 1
        del first
        return second.sum() + held[0, 0]

    for _ in range(2):
        assert peak_tensor_memory(run) == pytest.approx(8, abs=0.01)


@pytest.mark.parametrize("name", [CASCADE, FCOS])
def test_lowered_thresholds_give_the_mask_head_work(name):
    torch.manual_seed(0)
    model, inputs = instantiate(get_config(name).model).eval(), batch_of(96, 1)
    assert not make_it_detect(model, inputs)
    assert lower_thresholds(model, inputs)
    found = inference(model, inputs)()[0]["instances"]
    assert len(found) > 10
    assert found.pred_masks.shape == (len(found), 96, 128)
    counts = count_flops(model, inputs)
    (head,) = [key for key in counts if key.endswith("mask_head")]
    assert counts[head] > 0


@pytest.mark.parametrize("name", ["PEP/solov2_narrow_fpn_occshapes_quick", "PEP/pep_narrow_fpn_occshapes_quick"])
def test_models_that_predict_kernels_are_made_to_detect(name):
    torch.manual_seed(0)
    model, inputs = instantiate(get_config(name).model).eval(), batch_of(96, 1)
    assert len(inference(model, inputs)()[0]["instances"]) == 0
    assert make_it_detect(model, inputs)
    found = inference(model, inputs)()[0]["instances"]
    assert 10 < len(found) <= 100
    assert found.pred_masks.shape == (len(found), 96, 128)


def test_threshold_lets_the_best_candidates_through():
    model, inputs = tiny_mask_rcnn().eval(), batch_of(64, 1)
    predictor = model.roi_heads.box_predictor
    predictor.test_nms_thresh, predictor.test_topk_per_image = 1.0, 1000
    assert lower_thresholds(model, inputs, candidates=7)
    # The one at the threshold itself does not exceed it.
    assert len(inference(model, inputs)()[0]["instances"]) == 6
    assert not lower_thresholds(nn.Identity(), inputs)
