"""Names of PCAN's released code find their places, and its refinement head gives the masks that it gave there."""

import re

import pytest
import torch
from detectron2.config import instantiate
from torch.nn import functional as F

from instseg_d2.checkpoint import CheckpointMismatchError
from instseg_d2.checkpoint.conversion import compare
from instseg_d2.checkpoint.pcan import convert_pcan, convert_refine_head
from instseg_d2.model_zoo import get_config
from instseg_d2.modeling.meta_arch.pcan.instance_attention import RELEASED, InstanceAttention

# From names here to names there, in turn; `+n` subtracts from a number.
FORMER = [
    (r"^backbone\.bottom_up\.stem\.conv1\.norm\.", "backbone.bn1."),
    (r"^backbone\.bottom_up\.stem\.conv1\.", "backbone.conv1."),
    (r"^backbone\.bottom_up\.res(\d)\.(\d+)\.shortcut\.norm\.", r"backbone.layer<\1-1>.\2.downsample.1."),
    (r"^backbone\.bottom_up\.res(\d)\.(\d+)\.shortcut\.", r"backbone.layer<\1-1>.\2.downsample.0."),
    (r"^backbone\.bottom_up\.res(\d)\.(\d+)\.conv(\d)\.norm\.", r"backbone.layer<\1-1>.\2.bn\3."),
    (r"^backbone\.bottom_up\.res(\d)\.", r"backbone.layer<\1-1>."),
    (r"^backbone\.fpn_lateral(\d)\.", r"neck.lateral_convs.<\1-2>.conv."),
    (r"^backbone\.fpn_output(\d)\.", r"neck.fpn_convs.<\1-2>.conv."),
    (r"^proposal_generator\.rpn_head\.conv\.", "rpn_head.rpn_conv."),
    (r"^proposal_generator\.rpn_head\.objectness_logits\.", "rpn_head.rpn_cls."),
    (r"^proposal_generator\.rpn_head\.anchor_deltas\.", "rpn_head.rpn_reg."),
    (r"^roi_heads\.box_head\.fc(\d)\.", r"roi_head.bbox_head.shared_fcs.<\1-1>."),
    (r"^roi_heads\.box_predictor\.cls_score\.", "roi_head.bbox_head.fc_cls."),
    (r"^roi_heads\.box_predictor\.bbox_pred\.", "roi_head.bbox_head.fc_reg."),
    (r"^roi_heads\.mask_head\.mask_fcn(\d)\.", r"roi_head.mask_head.convs.<\1-1>.conv."),
    (r"^roi_heads\.mask_head\.deconv\.", "roi_head.mask_head.upsample."),
    (r"^roi_heads\.mask_head\.predictor\.", "roi_head.mask_head.conv_logits."),
    (r"^track_head\.convs\.(\d)\.norm\.", r"roi_head.track_head.convs.\1.gn."),
    (r"^track_head\.convs\.(\d)\.", r"roi_head.track_head.convs.\1.conv."),
    (r"^track_head\.", "roi_head.track_head."),
    (r"^instance_attention\.segmentation\.fuse\.", "roi_head.refine_head.conv1.conv."),
    (r"^instance_attention\.segmentation\.context\.", "roi_head.refine_head.conv2.conv."),
    (r"^instance_attention\.segmentation\.convs\.(\d)\.", r"roi_head.refine_head.convs.\1.conv."),
    (r"^instance_attention\.segmentation\.deconv\.", "roi_head.refine_head.upsample."),
    (r"^instance_attention\.segmentation\.predictor\.", "roi_head.refine_head.conv_logits."),
    (r"^instance_attention\.start_foreground$", "roi_head.refine_head.pos_mu"),
    (r"^instance_attention\.start_background$", "roi_head.refine_head.neg_mu"),
    (r"^frame_attention\.attentions\.p(\d)\.means$", r"mu<\1-2>"),
]


def former_name(name):
    for pattern, former in FORMER:
        name = re.sub(pattern, former, name)
    return re.sub(r"<(\d)-(\d)>", lambda found: str(int(found[1]) - int(found[2])), name)


def released_state(model):
    """The tensors of a model by the release's names, with what we have no use for."""
    state = {}
    for name, value in model.state_dict().items():
        prototypes = name.endswith(("means", "start_foreground", "start_background"))
        state[former_name(name)] = value.T[None] if prototypes else value
        if name.endswith("running_var"):
            state[former_name(name).replace("running_var", "num_batches_tracked")] = torch.zeros((), device="meta")
    return {**state, **{f"mu{level}": torch.zeros(1, 256, 30, device="meta") for level in (2, 3, 4)}}


@pytest.fixture(scope="module")
def model():
    with torch.device("meta"):
        return instantiate(get_config("PCAN/pcan_released_r50_fpn_bdd100k").model)


def test_the_whole_release_finds_its_places(model):
    state = released_state(model)
    literal = {
        "backbone.conv1.weight": (64, 3, 7, 7),
        "backbone.layer4.0.downsample.1.running_mean": (2048,),
        "neck.fpn_convs.3.conv.bias": (256,),
        "rpn_head.rpn_reg.weight": (12, 256, 1, 1),
        "roi_head.bbox_head.shared_fcs.1.weight": (1024, 1024),
        "roi_head.bbox_head.fc_cls.weight": (9, 1024),
        "roi_head.mask_head.convs.3.conv.weight": (256, 256, 3, 3),
        "roi_head.track_head.convs.0.gn.weight": (256,),
        "roi_head.track_head.fcs.0.weight": (1024, 12544),
        "roi_head.track_head.fc_embed.weight": (256, 1024),
        "roi_head.refine_head.conv1.conv.weight": (256, 259, 3, 3),
        "roi_head.refine_head.pos_mu": (1, 256, 10),
        "mu1": (1, 256, 30),
    }
    assert {name: tuple(state[name].shape) for name in literal} == literal
    assert not compare(convert_pcan(state), model)


def test_the_stages_before_lack_what_they_lack(model):
    state = released_state(model)
    boxes = {name: x for name, x in state.items() if "mask_head" not in name and "refine" not in name}
    with torch.device("meta"):
        first = instantiate(get_config("PCAN/tracking_rcnn_r50_fpn_bdd100k_boxes").model)
    found = compare(convert_pcan(boxes), first, [f"frame_attention.attentions.p{level}.means" for level in (2, 3)])
    assert not found


@pytest.mark.parametrize(
    "name", ["roi_head.refine_head.conv3.weight", "neck.other.0.weight", "mu7", "bbox_head.fc_cls.weight"]
)
def test_other_models_are_refused(name):
    with pytest.raises(CheckpointMismatchError, match=re.escape(name)):
        convert_pcan({name: torch.zeros(1)})


def fit(pixels, mask, means):
    """Six rounds as the release does them; pixels (R, C, n), mask (R, 1, n), means (R, C, K)."""
    for _ in range(6):
        shares = (20 * torch.einsum("rcn,rck->rnk", pixels, means)).softmax(dim=2) * mask.transpose(1, 2)
        shares = shares / (1e-6 + shares.sum(dim=1, keepdim=True))
        means = pixels @ shares
        means = means / (1e-6 + means.norm(dim=1, keepdim=True))
    return means


def released_masks(state, before, before_logits, now, now_logits):
    """What the release computes, by its names."""
    masks, maps = [], []
    for logits in (before_logits, now_logits):
        small = F.interpolate(logits, size=now.shape[-2:], mode="bilinear", align_corners=False)
        maps.append(small)
        masks.append((small >= 0).float().flatten(2))
    prototypes = []
    for name, flip in (("pos_mu", False), ("neg_mu", True)):
        means = state[name].expand(len(now), -1, -1)
        for features, mask in zip((before, now), masks, strict=True):
            means = fit(features.flatten(2), 1 - mask if flip else mask, means)
        prototypes.append(means)
    shares = (torch.cat(prototypes, dim=2).transpose(1, 2) @ now.flatten(2)).softmax(dim=1)
    attention = [part.sum(dim=1, keepdim=True).unflatten(2, now.shape[-2:]) for part in shares.chunk(2, dim=1)]
    context = (before.flatten(2) * masks[0]).sum(dim=2) / (masks[0].sum(dim=2) + 1e-5)

    def conv(x, name, **kwargs):
        return F.conv2d(x, state[f"{name}.weight"], state[f"{name}.bias"], **kwargs)

    x = conv(torch.cat([now, *attention, maps[1]], dim=1), "conv1.conv", padding=1)
    x = x + conv(context[..., None, None], "conv2.conv")
    for index in range(3):
        x = conv(x, f"convs.{index}.conv", padding=1).relu()
    x = F.conv_transpose2d(x, state["upsample.weight"], state["upsample.bias"], stride=2).relu()
    return conv(x, "conv_logits")


@torch.no_grad()
def test_converted_refinement_gives_the_masks_of_the_release():
    torch.manual_seed(0)
    model = InstanceAttention(channels=16, conv_dim=16, **RELEASED).eval()
    prefix = "roi_head.refine_head."
    names = {f"instance_attention.{name}": value for name, value in model.state_dict().items()}
    state = {former_name(name).removeprefix(prefix): torch.randn(value.shape) / 4 for name, value in names.items()}
    for name in ("pos_mu", "neg_mu"):
        state[name] = state[name].T[None]
    model.load_state_dict(convert_refine_head(state))
    before, now = torch.randn(2, 5, 16, 14, 14)
    logits = F.interpolate(torch.randn(2, 5, 4, 4), size=28, mode="bicubic")
    first, second = logits.unsqueeze(2)
    redrawn, states = model.refine(before, first, [None] * 5)
    torch.testing.assert_close(redrawn, released_masks(state, before, first, before, first), atol=1e-4, rtol=0)
    redrawn, _ = model.refine(now, second, states)
    torch.testing.assert_close(redrawn, released_masks(state, before, first, now, second), atol=1e-4, rtol=0)
    assert redrawn.abs().max() > 1
