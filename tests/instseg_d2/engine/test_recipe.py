import pytest
from omegaconf import OmegaConf

from instseg_d2.engine.recipe import report_recipe
from instseg_d2.engine.run import resolve_device


def recipe(batch, lr):
    return OmegaConf.create(
        {
            "dataloader": {"train": {"total_batch_size": batch}},
            "optimizer": {"lr": lr},
            "train": {"recipe": {"total_batch_size": 16, "lr": 0.02}},
        }
    )


@pytest.mark.parametrize(("batch", "lr"), [(16, 0.02), (2, 0.0025), (8, 0.02), (16, 0.01)])
def test_up_to_twofold_is_fine(batch, lr):
    assert report_recipe(recipe(batch, lr)) is None


@pytest.mark.parametrize(("batch", "lr", "suggestion"), [(2, 0.02, "0.0025"), (64, 0.02, "0.08")])
def test_more_is_pointed_out_with_the_linear_rule(batch, lr, suggestion):
    assert f"optimizer.lr={suggestion} for batch {batch}" in report_recipe(recipe(batch, lr))


def test_device_is_never_changed_silently(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert resolve_device("auto") == "cpu"
    assert resolve_device("cpu") == "cpu"
    with pytest.raises(ValueError, match="no CUDA device"):
        resolve_device("cuda")
