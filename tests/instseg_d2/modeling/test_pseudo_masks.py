import pytest
import torch

from instseg_d2.layers.mean_field import DenseCRF
from instseg_d2.modeling.pseudo_masks import PseudoMasks

TEACHER = torch.tensor([[[0.9, 0.5, 0.49], [0.0, 0.7, 1.0]]])
STUDENT = torch.tensor([[[0.05, 0.5, 0.52], [0.9, 0.2, 0.0]]])


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"method": "soft"}, TEACHER),
        ({"method": "threshold"}, [[[1, 1, 0], [0, 1, 1]]]),
        ({"method": "threshold", "threshold": 0.8}, [[[1, 0, 0], [0, 0, 1]]]),
        # Means 0.475, 0.5, 0.505, 0.45, 0.45, 0.5.
        ({"method": "interaction"}, [[[0, 1, 1], [0, 0, 1]]]),
    ],
)
def test_by_hand(settings, expected):
    targets = PseudoMasks(**settings)(TEACHER, STUDENT)
    assert targets.dtype == torch.float32
    assert torch.equal(targets, torch.as_tensor(expected, dtype=torch.float32))


def test_an_undecided_student_leaves_the_decision_to_the_teacher():
    torch.manual_seed(0)
    teacher = torch.rand(5, 28, 28)
    interaction = PseudoMasks()(teacher, torch.full_like(teacher, 0.5))
    assert torch.equal(interaction, PseudoMasks(method="threshold")(teacher, torch.rand_like(teacher)))


def test_crf_looks_at_colors():
    colors = torch.zeros(1, 3, 12, 12)
    colors[:, :, :, 6:] = 200.0
    teacher = torch.full((1, 12, 12), 0.2)
    teacher[:, :, 5:] = 0.8
    rule = PseudoMasks(method="crf", crf=DenseCRF())
    assert rule.needs_colors
    assert torch.equal(rule(teacher, teacher, colors), (colors[:, 0] > 0).float())


def test_no_gradient():
    teacher = torch.rand(1, 4, 4, requires_grad=True)
    assert not any(PseudoMasks(method=method)(teacher, teacher).requires_grad for method in ("soft", "interaction"))


@pytest.mark.parametrize("settings", [{"method": "vote"}, {"method": "crf"}, {"crf": DenseCRF()}])
def test_mistakes(settings):
    with pytest.raises(ValueError, match="method"):
        PseudoMasks(**settings)
