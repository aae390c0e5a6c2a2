"""Training of two sides against each other."""

import copy
import itertools
from functools import partial

import pytest
import torch
from detectron2.config import instantiate
from detectron2.engine.hooks import CallbackHook
from torch import nn

from instseg_d2.engine.inpainting_trainer import AdversarialTrainer
from instseg_d2.engine.trainer import NonFiniteLossError, Trainer
from instseg_d2.inpainting.stages.stage import AdversarialStage, Evidence, stack_items
from instseg_d2.testing import train_on_ranks


def adam(stage, lr=1e-3):
    return torch.optim.Adam(stage.parameters(), lr=lr, betas=(0.0, 0.99))


def flattened(module):
    return torch.cat([parameter.detach().flatten() for parameter in module.parameters()])


def trained(stage, batches, steps=2, optimizer=None, **options):
    trainer = AdversarialTrainer(stage, itertools.cycle(batches), optimizer or adam(stage), **options)
    trainer.train(0, steps)
    return trainer


def test_equals_two_optimizers_by_hand(make_stage, hidden_clips):
    batches = [hidden_clips(2), [*reversed(hidden_clips(2))]]
    ours, theirs = make_stage("content"), make_stage("content")
    trained(ours, batches, steps=3)

    painter, critics = adam(theirs.painter), adam(theirs.critics)
    for items in (batches[0], batches[1], batches[0]):
        losses, evidence = theirs.painter(stack_items(items, "cpu"))
        critics.zero_grad()
        sum(theirs.critics(evidence.detached()).values()).backward()
        critics.step()
        losses |= theirs.critics.judge(evidence)
        painter.zero_grad()
        sum(losses.values()).backward()
        painter.step()
    # Gradients through critics at rest are rounded otherwise in the last place.
    torch.testing.assert_close(flattened(ours), flattened(theirs), rtol=1e-3, atol=1e-6)


class Number(nn.Module):
    """Paints one number; critics say how far it is from theirs."""

    def __init__(self, value):
        super().__init__()
        self.value = nn.Parameter(torch.tensor(value))

    def forward(self, clips):
        fake = self.value * clips["scale"]
        return {"loss_paint": (fake**2).mean()}, Evidence(clips["scale"], fake, clips["scale"], clips["scale"])


class Critic(Number):
    def forward(self, evidence):
        return {"loss_critic": ((self.value - evidence.fake) ** 2).mean()}

    def judge(self, evidence):
        return {"loss_judge": ((self.value - evidence.fake) ** 2).mean()}


class Numbers(AdversarialStage):
    def __init__(self, painted=1.0, judged=3.0):
        super().__init__(painter=Number(painted), critics=Critic(judged))

    def predict(self, clips):
        return {"frames": clips["scale"] * self.painter.value}

    @property
    def networks(self):
        return {"content": self.painter}


def ones(scale=1.0):
    return [[{"scale": torch.tensor([scale]), "file_name": "video/7"}]]


def test_critics_come_first_and_each_side_has_its_own_step():
    stage = Numbers()
    trainer = trained(stage, ones(), steps=1, optimizer=torch.optim.SGD(stage.parameters(), 0.1))
    # d/dc (c - 1)^2 at 3 is 4; then d/dp (p^2 + (c - p)^2) at p = 1, c = 2.6 is 2 - 3.2.
    assert stage.critics.value.item() == pytest.approx(2.6)
    assert stage.painter.value.item() == pytest.approx(1.12)
    latest = {name: value for name, (value, _) in trainer.storage.latest().items()}
    assert latest["critics_total_loss"] == pytest.approx(4.0)
    assert latest["total_loss"] == pytest.approx(1 + 1.6**2)
    assert {"loss_paint", "loss_judge"} <= latest.keys()
    assert all(parameter.requires_grad for parameter in stage.parameters())


def test_gradients_are_clipped_on_each_side():
    stage = Numbers()
    optimizer = torch.optim.SGD(stage.parameters(), 0.1)
    trainer = trained(stage, ones(), steps=1, optimizer=optimizer, clip_grad_norm=1.0)
    assert stage.critics.value.item() == pytest.approx(2.9, rel=1e-4)
    assert stage.painter.value.item() == pytest.approx(1.1, rel=1e-4)
    latest = trainer.storage.latest()
    assert latest["critics_grad_norm"][0] == pytest.approx(4.0)
    # 2 p - 2 (c - p) at p = 1, c = 2.9.
    assert latest["grad_norm"][0] == pytest.approx(1.8, rel=1e-4)


def test_frozen_critics_are_a_loss_alone():
    stage = Numbers()
    stage.critics.requires_grad_(False)
    other = Numbers()
    trainer = trained(stage, ones(), steps=3, optimizer=torch.optim.SGD(stage.painter.parameters(), 0.1))
    reference = torch.optim.SGD(other.painter.parameters(), 0.1)
    other.critics.requires_grad_(False)
    Trainer(other, itertools.cycle(ones()), reference).train(0, 3)
    assert stage.critics.value.item() == 3.0
    assert torch.equal(stage.painter.value, other.painter.value)
    assert not stage.critics.value.requires_grad
    assert "critics_total_loss" not in trainer.storage.latest()


@pytest.mark.parametrize(("judged", "named"), [(float("inf"), "loss_critic=inf"), (3.0, "loss_paint=inf")])
def test_a_loss_that_is_no_number_stops_before_its_step(judged, named):
    stage = Numbers(painted=1.0 if judged != 3.0 else 1e25, judged=judged)
    before = flattened(stage)
    if judged == 3.0:
        stage.critics.requires_grad_(False)
    with pytest.raises(NonFiniteLossError, match=f"iteration 0.*{named}.*video/7"):
        trained(stage, ones(), steps=1)
    assert torch.equal(flattened(stage), before)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_on_both_sides(make_stage, hidden_clips, dtype):
    stage = make_stage("content")
    before = flattened(stage.painter), flattened(stage.critics)
    seen = set()

    def note(module, arguments, result):
        seen.add((module is stage.critics.patch.layers[0], result.dtype))

    for layer in (stage.critics.patch.layers[0], stage.painter.network.to_half[0].feature):
        layer.register_forward_hook(note)
    trainer = trained(stage, [hidden_clips(2)], steps=2, amp_dtype=dtype)
    assert seen == {(True, dtype), (False, dtype)}
    assert not torch.equal(flattened(stage.painter), before[0])
    assert not torch.equal(flattened(stage.critics), before[1])
    assert trainer.critics_scaler.is_enabled() == trainer.grad_scaler.is_enabled() == (dtype == torch.float16)


def test_state_holds_both_sides_and_continues_equally(make_stage, hidden_clips):
    batches = [hidden_clips(2)]
    straight = make_stage("content")
    trained(straight, batches, steps=4)

    half, saved = make_stage("content"), {}
    first = AdversarialTrainer(half, itertools.cycle(batches), adam(half), amp_dtype=None)
    first.register_hooks([CallbackHook(after_step=lambda trainer: saved.update(copy.deepcopy(trainer.state_dict())))])
    first.train(0, 2)
    weights = copy.deepcopy(half.state_dict())
    assert len(saved["optimizer"]["state"]) == len(list(half.parameters()))
    assert {"grad_scaler", "critics_scaler"} <= saved.keys()

    resumed = make_stage("content")
    resumed.load_state_dict(weights)
    second = AdversarialTrainer(resumed, itertools.cycle(batches), adam(resumed, lr=0.5))
    second.load_state_dict(saved)
    second.train(second.iter + 1, 4)
    assert torch.equal(flattened(resumed), flattened(straight))


def test_both_loss_scales_are_restored():
    stage = Numbers()
    trainer = AdversarialTrainer(stage, ones(), adam(stage), amp_dtype=torch.float16)
    trainer.iter = 0
    for scaler, scale in ((trainer.grad_scaler, 64.0), (trainer.critics_scaler, 8.0)):
        scaler.load_state_dict({**scaler.state_dict(), "scale": scale})
    state = trainer.state_dict()
    other = AdversarialTrainer(stage, ones(), adam(stage), amp_dtype=torch.float16)
    other.load_state_dict(state)
    assert (other.grad_scaler.get_scale(), other.critics_scaler.get_scale()) == (64.0, 8.0)


@pytest.mark.slow  # starts processes
def test_ranks_end_with_the_same_weights(stage_node, hidden_clips, tmp_path):
    first, second = hidden_clips(2)
    # The second rank sees a clip in which nothing is hidden.
    second |= {"frames": second["clean"], "visible": second["complete"]}
    build = partial(instantiate, stage_node("content"))
    (weights, losses), (other_weights, other_losses) = train_on_ranks(build, [[first], [second]], tmp_path)
    assert torch.equal(weights, other_weights)
    assert losses.keys() == other_losses.keys()
    assert losses["loss_inpaint_hole"] > other_losses["loss_inpaint_hole"] == 0
    alone = instantiate(stage_node("content"))
    assert not torch.equal(weights, flattened(alone))
