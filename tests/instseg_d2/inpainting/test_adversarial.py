import math

import pytest
import torch

from instseg_d2.inpainting.adversarial import ClassAdversarialLoss, PatchAdversarialLoss, balanced_weights


def test_hinge_by_hand():
    real, fake = torch.tensor([2.0, 0.0]), torch.tensor([-3.0, 1.0])
    loss = PatchAdversarialLoss()
    # relu(1 - 2) + relu(1 - 0) = 0 + 1; relu(1 - 3) + relu(1 + 1) = 0 + 2; means 0.5 and 1.
    assert loss.discriminator(real, fake)["loss_patch_discriminator"].item() == 0.5 * (0.5 + 1.0)
    assert loss.generator(fake)["loss_patch_adversarial"].item() == pytest.approx(0.01)
    assert PatchAdversarialLoss(weight=2.0).generator(fake)["loss_patch_adversarial"].item() == 2.0


def test_signs_of_the_hinge():
    """The discriminator pushes real up and fake down, the generator pushes fake up."""
    real, fake = torch.zeros(3, requires_grad=True), torch.zeros(3, requires_grad=True)
    PatchAdversarialLoss().discriminator(real, fake)["loss_patch_discriminator"].backward()
    assert (real.grad < 0).all()
    assert (fake.grad > 0).all()
    fake.grad = None
    PatchAdversarialLoss().generator(fake)["loss_patch_adversarial"].backward()
    assert (fake.grad < 0).all()


def test_class_loss_of_equal_logits():
    """With K = 3 and all logits alike: -log 1/4 of any class, -log 3/4 of not painted."""
    logits = torch.zeros(2, 4)
    loss = ClassAdversarialLoss()
    known, unknown = torch.tensor([0, 2]), torch.tensor([-1, -1])
    quarter, rest = math.log(4), math.log(4 / 3)
    assert loss.discriminator(logits, logits, known)["loss_class_discriminator"].item() == pytest.approx(quarter)
    mixed = loss.discriminator(logits, logits, torch.tensor([0, -1]))["loss_class_discriminator"].item()
    assert mixed == pytest.approx(0.5 * ((quarter + rest) / 2 + quarter))
    assert loss.generator(logits, known)["loss_class_adversarial"].item() == pytest.approx(0.01 * quarter)
    assert loss.generator(logits, unknown)["loss_class_adversarial"].item() == pytest.approx(0.01 * rest)


def test_signs_of_the_class_loss():
    real, fake = torch.zeros(1, 4, requires_grad=True), torch.zeros(1, 4, requires_grad=True)
    classes = torch.tensor([1])
    ClassAdversarialLoss().discriminator(real, fake, classes)["loss_class_discriminator"].backward()
    assert (real.grad < 0).tolist() == [[False, True, False, False]]
    assert (fake.grad < 0).tolist() == [[False, False, False, True]]
    fake.grad = None
    ClassAdversarialLoss().generator(fake, classes)["loss_class_adversarial"].backward()
    assert (fake.grad < 0).tolist() == [[False, True, False, False]]


def test_unknown_class_raises_all_real_logits():
    fake = torch.zeros(1, 4, requires_grad=True)
    ClassAdversarialLoss().generator(fake, torch.tensor([-1]))["loss_class_adversarial"].backward()
    assert (fake.grad < 0).tolist() == [[True, True, True, False]]
    assert fake.grad.sum().item() == pytest.approx(0, abs=1e-6)


def test_class_weights():
    logits = torch.zeros(3, 3)
    loss = ClassAdversarialLoss(weight=1.0, class_weights=[2.0, 0.5])
    value = loss.generator(logits, torch.tensor([0, 1, -1]))["loss_class_adversarial"].item()
    assert value == pytest.approx((2.5 * math.log(3) + math.log(3 / 2)) / 3)
    assert loss.state_dict() == {}


def test_balanced_weights():
    assert balanced_weights([30, 10, 1, 0]) == [10.25 / 30, 10.25 / 10, 5.0, 5.0]
    assert balanced_weights([1, 99], cap=10.0) == [10.0, 50 / 99]
    assert balanced_weights([]) == []


def test_half_precision():
    logits = torch.randn(2, 4).bfloat16()
    classes = torch.tensor([0, -1])
    losses = {
        **PatchAdversarialLoss().discriminator(logits, logits),
        **PatchAdversarialLoss().generator(logits),
        **ClassAdversarialLoss().discriminator(logits, logits, classes),
        **ClassAdversarialLoss().generator(logits, classes),
    }
    assert {loss.dtype for loss in losses.values()} == {torch.float32}
