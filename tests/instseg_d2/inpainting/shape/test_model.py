import pytest
import torch

from instseg_d2.inpainting.errors import InpaintingError
from instseg_d2.inpainting.shape.losses import ShapeLoss
from instseg_d2.inpainting.shape.model import ShapeCompletion
from instseg_d2.inpainting.shape.parts import ClassMaskFusion, FrameEncoder, ShapeDecoder
from instseg_d2.inpainting.shape.transformer import SpaceTimeTransformer
from instseg_d2.inpainting.windows import sliding_windows


def tiny(in_channels=4, width=8, num_layers=1, grids=(1, 2), **options):
    torch.manual_seed(0)
    return ShapeCompletion(
        encoder=FrameEncoder(in_channels=in_channels, width=width),
        transformer=SpaceTimeTransformer(channels=4 * width, num_layers=num_layers, grids=grids),
        decoder=ShapeDecoder(width=width),
        fusion=ClassMaskFusion(in_channels=width, num_classes=3, embedding_dim=8, class_channels=4, hidden=(8, 8)),
        **options,
    )


def hidden_iou(predicted, clip):
    predicted, truth = predicted * (1 - clip.visible) > 0.5, clip.hole > 0.5
    return ((predicted & truth).sum() / (predicted | truth).sum()).item()


def fit(model, clip, target, eraser, *, until, steps=250):
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    criterion = ShapeLoss()
    classes = torch.tensor([1])
    for step in range(steps):
        losses = criterion(model(clip.frames, clip.visible, classes), clip.visible, target, eraser)
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
        if step % 10 == 9 and until(model.complete(clip.frames, clip.visible, classes)):
            break
    return model.eval().complete(clip.frames, clip.visible, classes)


def test_overfits_a_clip(clip):
    result = fit(tiny(), clip, clip.complete, clip.occluder, until=lambda masks: hidden_iou(masks, clip) > 0.95)
    assert hidden_iou(clip.visible, clip) == 0
    assert hidden_iou(result, clip) > 0.9


def test_learns_not_to_grow_where_the_eraser_lies_behind(clip):
    """PCNet's second case: the other object is behind, what is seen is all there is."""
    clip.frames = torch.where(clip.complete > 0.5, clip.clean, clip.frames)
    clip.visible = clip.complete
    result = fit(
        tiny(),
        clip,
        clip.complete,
        clip.occluder * (1 - clip.complete),
        until=lambda masks: masks.equal(clip.complete),
    )
    assert result.equal(clip.complete)


@pytest.mark.parametrize("bias", [-10.0, 0.0, 10.0])
def test_result_contains_what_is_seen(clip, bias):
    model = tiny()
    model.fusion.fuse[-1].bias.data.fill_(bias)
    result = model.complete(clip.frames, clip.visible)
    assert (result >= clip.visible).all()
    assert set(result.unique().tolist()) <= {0.0, 1.0}


def test_growth_stays_inside_known_occluders(clip):
    model = tiny()
    model.fusion.fuse[-1].bias.data.fill_(10.0)
    result = model.complete(clip.frames, clip.visible, None, clip.occluder)
    assert result.equal(torch.maximum(clip.visible, clip.occluder))


def test_threshold():
    probabilities = torch.tensor([[0.3, 0.45, 0.6]])
    nothing = torch.zeros(1, 3)
    assert tiny().decide(probabilities, nothing).tolist() == [[0, 0, 1]]
    assert tiny(threshold=0.4).decide(probabilities, nothing).tolist() == [[0, 1, 1]]


def test_occluder_channel(clip):
    model = tiny(in_channels=5).eval()
    unknown = model(clip.frames, clip.visible)
    assert unknown.equal(model(clip.frames, clip.visible, None, torch.zeros_like(clip.visible)))
    assert not unknown.equal(model(clip.frames, clip.visible, None, clip.occluder))
    blind = tiny().eval()
    assert blind(clip.frames, clip.visible).equal(blind(clip.frames, clip.visible, None, clip.occluder))
    with pytest.raises(ValueError, match="in_channels=3"):
        tiny(in_channels=3)


def test_unknown_class_is_the_default(clip):
    model = tiny().eval()
    logits = [model(clip.frames, clip.visible, classes) for classes in (None, torch.tensor([-1]), torch.tensor([0]))]
    assert logits[0].equal(logits[1])
    assert not logits[0].equal(logits[2])


@pytest.mark.parametrize("size", [(32, 48), (33, 41), (7, 9)])
def test_any_size(size):
    frames, visible = torch.randn(2, 3, 3, *size), torch.ones(2, 3, 1, *size)
    assert tiny(grids=(1, 3))(frames, visible).shape == (2, 3, 1, *size)


def test_references_are_seen_but_not_predicted(clip):
    model = tiny().eval()
    whole = model(clip.frames, clip.visible)
    torch.testing.assert_close(model(clip.frames, clip.visible, num_outputs=2), whole[:, :2])
    changed = clip.frames.clone()
    changed[:, 2] = 0
    assert not torch.allclose(model(changed, clip.visible, num_outputs=2), whole[:, :2])


def test_clips_of_a_batch_do_not_meet(clip):
    model = tiny().eval()
    other = clip.frames.flip(-1)
    frames, visible = torch.cat([clip.frames, other]), torch.cat([clip.visible, clip.visible.flip(-1)])
    classes = torch.tensor([0, 2])
    straight, crossed = model(frames, visible, classes), model(frames.flip(0), visible.flip(0), classes.flip(0))
    torch.testing.assert_close(straight, crossed.flip(0))
    torch.testing.assert_close(straight[:1], model(clip.frames, clip.visible, classes[:1]))


def test_long_clip_in_windows(clip):
    frames, visible = (part.repeat(1, 8, 1, 1, 1) for part in (clip.frames, clip.visible))
    model = tiny().eval()
    in_windows = model.complete(frames, visible)
    assert in_windows.shape == visible.shape
    # Periodic, so that a window shows all there is: attention has no sense of time.
    at_once = model.complete(frames, visible, windows=sliding_windows(24, size=24))
    assert (in_windows != at_once).float().mean() < 0.02
    with pytest.raises(InpaintingError, match="must cover"):
        model.complete(frames, visible, windows=sliding_windows(12))


def test_autocast_and_gradients(clip):
    model = tiny()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model(clip.frames, clip.visible, torch.tensor([2]))
    assert logits.dtype == torch.float32
    sum(ShapeLoss()(logits, clip.visible, clip.complete).values()).backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in model.parameters())


def test_masks_of_another_length(clip):
    with pytest.raises(InpaintingError, match="visible must be"):
        tiny()(clip.frames, clip.visible[:, :2])
