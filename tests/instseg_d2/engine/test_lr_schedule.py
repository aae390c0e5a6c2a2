import pytest
from detectron2.solver import WarmupParamScheduler
from fvcore.common.param_scheduler import MultiStepParamScheduler

from instseg_d2.engine.lr_schedule import warmup_cosine, warmup_multistep


def test_1x_equals_detectron2s_schedule_at_every_iteration():
    ours = warmup_multistep(max_iter=90000, drop_at=[60000 / 90000, 80000 / 90000], warmup_iters=1000)
    steps = MultiStepParamScheduler([1, 0.1, 0.01], milestones=[60000, 80000], num_updates=90000)
    theirs = WarmupParamScheduler(steps, warmup_factor=0.001, warmup_length=1000 / 90000, warmup_method="linear")
    assert all(ours(i / 90000) == pytest.approx(theirs(i / 90000), abs=1e-12) for i in range(0, 90000, 37))


@pytest.mark.parametrize("max_iter", [1000, 9000, 90000])
def test_warmup_keeps_its_length_and_drops_keep_their_place(max_iter):
    schedule = warmup_multistep(max_iter=max_iter, drop_at=[0.7, 0.9], warmup_iters=100)
    values = [schedule(i / max_iter) for i in range(max_iter)]
    assert values[0] == pytest.approx(0.001)
    assert values[50] == pytest.approx(0.001 + 0.999 * 0.5, abs=1e-6)
    assert values[100] == values[round(0.7 * max_iter) - 1] == 1
    assert values[round(0.7 * max_iter)] == pytest.approx(0.1)
    assert values[round(0.9 * max_iter)] == pytest.approx(0.01)


def test_training_shorter_than_its_warmup_reaches_the_full_rate():
    schedule = warmup_cosine(max_iter=10, warmup_iters=1000)
    values = [schedule(i / 10) for i in range(10)]
    assert max(values) > 0.4
    assert values.index(max(values)) == 5


def test_cosine_ends_at_end_value():
    schedule = warmup_cosine(max_iter=1000, warmup_iters=10, end_value=0.02)
    assert schedule(0.5) == pytest.approx(0.51)
    assert schedule(1.0) == pytest.approx(0.02)


@pytest.mark.parametrize("drop_at", [[0.9, 0.7], [0.0], [1.0], [0.5, 0.5]])
def test_drops_must_be_increasing_fractions(drop_at):
    with pytest.raises(ValueError, match="increasing fractions"):
        warmup_multistep(max_iter=10, drop_at=drop_at, warmup_iters=1)
