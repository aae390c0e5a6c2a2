"""PCAN's instance level: prototypes and maps by hand, propagation in time, and the loss."""

import pytest
import torch
from torch.nn import functional as F

from instseg_d2.modeling.meta_arch.pcan.instance_attention import RELEASED, InstanceAttention, InstanceState

CHANNELS = 6


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def attention(**settings):
    return InstanceAttention(
        **{"channels": CHANNELS, "foreground": 3, "background": 2, "conv_dim": 8, "num_convs": 2, **settings}
    )


def regions(count=4, side=7):
    """Features, and logits of masks that fill the left half."""
    logits = torch.full((count, 1, 2 * side, 2 * side), -3.0)
    logits[..., :side] = 3.0
    return torch.randn(count, CHANNELS, side, side), logits


def by_hand(**settings):
    """One prototype each for two channels, with known starts, and the mean of the axis as the only thing to know."""
    model = attention(channels=2, foreground=1, background=1, **settings).eval()
    model.keep_aux = True
    model.start_foreground.copy_(torch.tensor([[0.6, 0.8]]))
    model.start_background.copy_(torch.tensor([[0.6, 0.8]]))
    return model


# Two pixels of the object above two of the background: (channel, row, column).
FEATURES = torch.tensor([[[[3.0, 1.0], [0.0, 0.0]], [[0.0, 0.0], [2.0, 1.0]]]])
LOGITS = torch.tensor([[[[4.0, 1.0], [-1.0, -2.0]]]])


def test_prototypes_and_joint_maps_by_hand():
    """Means (2, 0) and (0, 1.5) of length 1; the shares of the object are sigmoid(<x, (1, 0)> - <x, (0, 1)>)."""
    _, (state,) = by_hand(joint=True).refine(FEATURES, LOGITS, [None])
    torch.testing.assert_close(state.foreground, torch.tensor([[1.0, 0.0]]), atol=1e-5, rtol=0)
    torch.testing.assert_close(state.background, torch.tensor([[0.0, 1.0]]), atol=1e-5, rtol=0)
    torch.testing.assert_close(state.context, torch.tensor([2.0, 0.0]), atol=1e-4, rtol=0)
    shares = torch.tensor([[3.0, 1.0], [-2.0, -1.0]]).sigmoid()
    torch.testing.assert_close(state.attention, torch.stack([shares, 1 - shares]), atol=1e-5, rtol=0)


def test_separate_maps_of_one_prototype_say_nothing():
    """A softmax over a single prototype is 1: why rows 1/0 and 0/1 of Table 5.6 gain nothing."""
    _, (state,) = by_hand().refine(FEATURES, LOGITS, [None])
    assert torch.equal(state.attention, torch.ones(2, 2, 2))


def test_object_and_background_compete_apart_in_the_thesis_and_together_in_the_release():
    features, logits = regions()
    _, states = attention(keep_aux=True).eval().refine(features, logits, [None] * 4)
    maps = torch.stack([x.attention for x in states])
    assert maps.shape == (4, 5, 7, 7)
    torch.testing.assert_close(maps[:, :3].sum(dim=1), torch.ones(4, 7, 7))
    torch.testing.assert_close(maps[:, 3:].sum(dim=1), torch.ones(4, 7, 7))
    released = attention(keep_aux=True, **RELEASED).eval()
    assert len(released.start_foreground) == len(released.start_background) == 10
    _, states = released.refine(features, logits, [None] * 4)
    maps = torch.stack([x.attention for x in states])
    assert maps.shape == (4, 2, 7, 7)
    torch.testing.assert_close(maps.sum(dim=1), torch.ones(4, 7, 7))


def known(vector):
    """The state of an object of this direction."""
    vector = torch.tensor([vector])
    return InstanceState(vector, vector.flip(1), 5 * vector[0])


@pytest.mark.parametrize(
    ("settings", "foreground"),
    [
        # The object was (0, 1), and is (1, 0) now: 0.8 (0, 1) + 0.2 (1, 0), of length 1.
        ({"propagation": "recurrent", "momentum": 0.2}, [0.2 / 0.68**0.5, 0.8 / 0.68**0.5]),
        ({"propagation": "recurrent", "momentum": 0.5}, [0.5**0.5, 0.5**0.5]),
        ({"propagation": "first"}, [0.0, 1.0]),
        ({"propagation": "none"}, [1.0, 0.0]),
        ({"propagation": "refit"}, [1.0, 0.0]),
    ],
)
def test_propagation_by_hand(settings, foreground):
    model = by_hand(joint=True, **settings)
    _, (state,) = model.refine(FEATURES, LOGITS, [known([0.0, 1.0])])
    torch.testing.assert_close(state.foreground, torch.tensor([foreground]), atol=1e-5, rtol=0)
    # The maps come from what has been propagated.
    expected = FEATURES[0].flatten(1).T @ torch.stack([state.foreground[0], state.background[0]]).T
    expected = expected.softmax(dim=1).T.reshape(2, 2, 2)
    torch.testing.assert_close(state.attention, expected, atol=1e-4, rtol=0)


def test_accumulated_prototypes_forget_geometrically():
    """Without any change of the object, 0.8^t of the first view's prototype is left after t frames."""
    model = by_hand(propagation="recurrent", momentum=0.2)
    state = known([0.0, 1.0])
    old = torch.tensor([0.0, 1.0])
    for _ in range(5):
        _, (state,) = model.refine(FEATURES, LOGITS, [state])
        old = F.normalize(0.8 * old + 0.2 * torch.tensor([1.0, 0.0]), dim=0)
        torch.testing.assert_close(state.foreground[0], old, atol=1e-4, rtol=0)


@pytest.mark.parametrize("propagation", ["recurrent", "first", "none", "refit"])
def test_who_depends_on_the_past(propagation):
    model = attention(propagation=propagation, with_context=True).eval()
    features, logits = regions()
    others, _ = regions()
    _, past = model.refine(others, logits, [None] * 4)
    alone, _ = model.refine(features, logits, [None] * 4)
    # The first object is new; a new one's result does not depend on who else is there.
    mixed, states = model.refine(features, logits, [None, *past[1:]])
    torch.testing.assert_close(mixed[0], alone[0])
    assert torch.allclose(mixed[1:], alone[1:]) == (propagation == "none")
    if propagation == "first":
        assert all(torch.equal(a.foreground, b.foreground) for a, b in zip(states[1:], past[1:], strict=True))


def test_refit_starts_from_the_frame_before():
    """The release keeps that frame's features; the prototypes fitted to them tell as much."""
    model = attention(**RELEASED).eval()
    features, logits = regions()
    before, _ = regions()
    _, past = model.refine(before, logits, [None] * 4)
    _, anew = model.refine(before, logits, past)
    for a, b in zip(past, anew, strict=True):
        torch.testing.assert_close(a.foreground, b.foreground)
    redrawn, _ = model.refine(features, logits, past)
    targets = torch.zeros(4, 14, 14)
    loss = model.losses(features, logits, before, logits, targets)["loss_refine"]
    torch.testing.assert_close(loss, F.binary_cross_entropy_with_logits(redrawn[:, 0], targets))


@pytest.mark.parametrize("propagation", ["recurrent", "first", "none", "refit"])
def test_training_sees_what_the_second_frame_of_a_video_sees(propagation):
    model = attention(propagation=propagation).eval()
    (features, logits), (before, others) = regions(), regions()
    others = others.flip(3)
    _, past = model.refine(before, others, [None] * 4)
    redrawn, _ = model.refine(features, logits, past)
    targets = (torch.rand(4, 14, 14) > 0.5).float()
    loss = model.losses(features, logits, before, others, targets)["loss_refine"]
    torch.testing.assert_close(loss, F.binary_cross_entropy_with_logits(redrawn[:, 0], targets))


@pytest.mark.parametrize("counts", [(0, 0), (1, 0), (0, 1), (1, 1), (5, 5), (50, 50)])
@pytest.mark.parametrize("joint", [False, True])
def test_numbers_of_prototypes(counts, joint):
    foreground, background = counts
    model = attention(foreground=foreground, background=background, joint=joint, keep_aux=True)
    features, logits = regions(2)
    model.losses(features, logits, features, logits, torch.zeros(2, 14, 14))["loss_refine"].backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())
    maps = (foreground > 0) + (background > 0) if joint else foreground + background
    redrawn, states = model.eval().refine(features, logits, [None, None])
    assert redrawn.isfinite().all()
    assert states[0].attention.shape == (maps, 7, 7)
    assert states[0].foreground.shape == (foreground, CHANNELS)


def test_wrong_settings_are_refused():
    with pytest.raises(ValueError, match="propagation='last'"):
        attention(propagation="last")
    with pytest.raises(ValueError, match="background=-1"):
        attention(background=-1)


@pytest.mark.parametrize("settings", [{}, RELEASED])
@pytest.mark.parametrize("inside", ["nothing", "everything", "one pixel"])
def test_empty_parts_are_finite(settings, inside):
    model = attention(**settings)
    features, logits = regions(1)
    # Short features: every prototype has a share in every pixel.
    features = features / 10
    logits[:] = -3.0 if inside != "everything" else 3.0
    if inside == "one pixel":
        logits[..., :2, :2] = 3.0
    loss = model.losses(features, logits, features, logits, torch.zeros(1, 14, 14))["loss_refine"]
    loss.backward()
    assert loss.isfinite()
    redrawn, (state,) = model.eval().refine(features, logits, [None])
    assert redrawn.isfinite().all()
    lengths = state.foreground.norm(dim=1)
    if inside == "one pixel":
        # The prototypes share the only pixel there is.
        expected = F.normalize(features[0, :, 0, 0], dim=0).expand_as(state.foreground)
        torch.testing.assert_close(state.foreground, expected, atol=1e-4, rtol=0)
    elif inside == "nothing" and settings:
        assert torch.equal(lengths, torch.zeros(10))
    elif inside == "nothing":
        # What was known stays, of length 1 again.
        expected = F.normalize(model.start_foreground, dim=1)
        torch.testing.assert_close(state.foreground, expected, atol=1e-4, rtol=0)


def test_no_region():
    model = attention()
    features, logits = regions(0)
    starts = model.start_foreground.clone()
    loss = model.losses(features, logits, features, logits, torch.zeros(0, 14, 14))["loss_refine"]
    loss.backward()
    assert loss.item() == 0
    assert all(torch.equal(p.grad, torch.zeros_like(p)) for p in model.parameters())
    assert torch.equal(model.start_foreground, starts)
    redrawn, states = model.eval().refine(features, logits, [])
    assert redrawn.shape == (0, 1, 14, 14)
    assert states == []


def test_gradients_reach_the_network_and_the_features_through_the_maps():
    model = attention()
    features, logits = regions()
    features.requires_grad_(True)
    with torch.no_grad():
        # Features are seen through the attention maps alone.
        model.segmentation.fuse.weight[:, :CHANNELS] = 0
    before, _ = regions()
    before.requires_grad_(True)
    targets = (torch.rand(4, 14, 14) > 0.5).float()
    model.losses(features, logits, before, logits, targets)["loss_refine"].backward()
    assert all(p.grad.abs().sum() > 0 for p in model.parameters())
    assert features.grad.abs().sum() > 0
    # Prototypes are constants.
    assert before.grad is None


def test_starts_move_in_training_alone_and_by_a_twentieth():
    model = attention(propagation="none")
    features, logits = regions()
    targets = torch.zeros(4, 14, 14)
    before = model.start_foreground.clone()
    model.eval()
    model.losses(features, logits, features, logits, targets)
    _, states = model.refine(features, logits, [None] * 4)
    assert torch.equal(model.start_foreground, before)
    model.train()
    model.losses(features, logits, features, logits, targets)
    mean = torch.stack([x.foreground for x in states]).mean(dim=0)
    torch.testing.assert_close(model.start_foreground, 0.95 * before + 0.05 * mean, atol=1e-5, rtol=0)


def test_autocast_computes_prototypes_in_float32():
    model = attention(keep_aux=True).eval()
    features, logits = regions()
    features = features.bfloat16()
    _, expected = model.refine(features.float(), logits, [None] * 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        redrawn, states = model.refine(features, logits, [None] * 4)
        loss = model.losses(features, logits, features, logits, torch.zeros(4, 14, 14))["loss_refine"]
    assert redrawn.isfinite().all()
    assert loss.dtype == torch.float32
    for a, b in zip(states, expected, strict=True):
        torch.testing.assert_close(a.foreground, b.foreground)
        torch.testing.assert_close(a.attention, b.attention)


def test_a_state_holds_no_more_than_its_object():
    """Else an object that is not seen for a while would keep a whole frame alive."""
    features, logits = regions()
    _, states = attention(keep_aux=True).eval().refine(features, logits, [None] * 4)
    for x in (states[0].foreground, states[0].background, states[0].context, states[0].attention):
        assert x.untyped_storage().nbytes() == x.numel() * x.element_size()
        assert not x.requires_grad
