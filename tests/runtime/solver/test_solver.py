"""Parameter groups, gradient clipping and the optimizer that a config describes."""

import warnings

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.solver import build_optimizer, get_default_optimizer_params
from detectron2.solver.build import maybe_add_gradient_clipping, reduce_param_groups
from torch import nn


def net():
    return nn.ModuleDict({"conv": nn.Conv2d(1, 2, 1), "norm": nn.BatchNorm2d(2), "fc": nn.Linear(2, 1)})


def settings(groups, param):
    (group,) = [g for g in groups if any(p is param for p in g["params"])]
    return {k: v for k, v in group.items() if k != "params"}


def test_equal_settings_share_one_group():
    model = net()
    (group,) = get_default_optimizer_params(model, base_lr=0.1, weight_decay=0.2)
    assert [id(p) for p in group["params"]] == [id(p) for p in model.parameters()]
    assert (group["lr"], group["weight_decay"]) == (0.1, 0.2)


def test_norm_and_bias_settings():
    model = net()
    groups = get_default_optimizer_params(
        model, base_lr=1.0, weight_decay=0.1, weight_decay_norm=0.0, bias_lr_factor=2.0, weight_decay_bias=0.5
    )
    assert settings(groups, model["conv"].weight) == {"lr": 1.0, "weight_decay": 0.1}
    assert settings(groups, model["norm"].weight) == {"lr": 1.0, "weight_decay": 0.0}
    # what is said of biases holds for those of norm layers too
    for name in ("conv", "norm", "fc"):
        assert settings(groups, model[name].bias) == {"lr": 2.0, "weight_decay": 0.5}
    assert len(groups) == 3


@pytest.mark.parametrize("layer", [nn.GroupNorm(1, 2), nn.LayerNorm(2), nn.SyncBatchNorm(2)])
def test_all_norm_layers_count(layer):
    (group,) = get_default_optimizer_params(layer, weight_decay=0.1, weight_decay_norm=0.0)
    assert group["weight_decay"] == 0.0


def test_factor_by_name_and_overrides():
    model = net()
    groups = get_default_optimizer_params(
        model,
        base_lr=1.0,
        lr_factor_func=lambda name: 0.5 if name.startswith("conv.") else 1.0,
        overrides={"bias": {"lr": 7.0}},
    )
    assert settings(groups, model["conv"].weight) == {"lr": 0.5}
    assert settings(groups, model["fc"].weight) == {"lr": 1.0}
    assert settings(groups, model["conv"].bias) == {"lr": 7.0}


def test_frozen_and_shared_parameters():
    model = net()
    model["again"] = model["fc"]
    model["conv"].requires_grad_(False)
    (group,) = get_default_optimizer_params(model)
    assert len(group["params"]) == 4
    assert all(p.requires_grad for p in group["params"])


@pytest.mark.parametrize(
    "kwargs",
    [
        {"bias_lr_factor": 2.0},
        {"lr_factor_func": lambda name: 1.0},
        {"weight_decay_bias": 0.1, "overrides": {"bias": {"lr": 1.0}}},
    ],
)
def test_contradictions_are_errors(kwargs):
    with pytest.raises(ValueError, match="bias|base_lr"):
        get_default_optimizer_params(net(), **kwargs)


@pytest.mark.bundled_only
def test_overrides_are_left_as_they_were():
    overrides = {"weight": {"lr": 0.1}}
    for _ in range(2):
        get_default_optimizer_params(net(), weight_decay_bias=0.5, overrides=overrides)
    assert overrides == {"weight": {"lr": 0.1}}


def test_later_groups_win_and_names_follow():
    a, b, c = (nn.Parameter(torch.zeros(i + 1)) for i in range(3))
    groups = reduce_param_groups(
        [
            {"params": [a, b], "param_names": ["a", "b"], "lr": 1.0},
            {"params": [c], "param_names": ["c"], "lr": 2.0},
            {"params": [b], "param_names": ["b"], "lr": 2.0},
        ]
    )
    assert [(g["lr"], g["param_names"], [p.numel() for p in g["params"]]) for g in groups] == [
        (1.0, ["a"], [1]),
        (2.0, ["b", "c"], [2, 3]),
    ]


def clipping_config(kind, value, enabled=True):
    cfg = get_cfg()
    cfg.SOLVER.CLIP_GRADIENTS.ENABLED = enabled
    cfg.SOLVER.CLIP_GRADIENTS.CLIP_TYPE = kind
    cfg.SOLVER.CLIP_GRADIENTS.CLIP_VALUE = value
    cfg.SOLVER.CLIP_GRADIENTS.NORM_TYPE = 2.0
    return cfg


@pytest.mark.parametrize(
    ("kind", "expected"),
    # gradients are (3, 4) and (0.3, 0.4): by norm each parameter is judged alone
    [("value", [[-1.0, -1.0], [-0.3, -0.4]]), ("norm", [[-0.6, -0.8], [-0.3, -0.4]])],
)
@pytest.mark.parametrize("as_class", [True, False])
def test_clipped_step(kind, expected, as_class):
    params = [nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(2))]
    cfg = clipping_config(kind, 1.0)
    if as_class:
        optimizer = maybe_add_gradient_clipping(cfg, torch.optim.SGD)(params, lr=1.0)
    else:
        optimizer = maybe_add_gradient_clipping(cfg, torch.optim.SGD(params, lr=1.0))
    assert type(optimizer).__name__ == "SGDWithGradientClip"
    assert isinstance(optimizer, torch.optim.SGD)
    cfg.SOLVER.CLIP_GRADIENTS.CLIP_VALUE = 100.0  # too late to matter
    params[0].grad, params[1].grad = torch.tensor([3.0, 4.0]), torch.tensor([0.3, 0.4])
    optimizer.step()
    torch.testing.assert_close(torch.stack(params).detach(), torch.tensor(expected))


@pytest.mark.bundled_only
@pytest.mark.parametrize("kind", ["value", "norm"])
def test_clipping_passes_over_parameters_without_gradient(kind):
    param = nn.Parameter(torch.ones(1))
    optimizer = maybe_add_gradient_clipping(clipping_config(kind, 1.0), torch.optim.SGD([param], lr=1.0))
    optimizer.step()
    assert param.item() == 1


def test_clipping_switched_off_or_unknown():
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    assert maybe_add_gradient_clipping(clipping_config("value", 1.0, enabled=False), optimizer) is optimizer
    assert type(optimizer) is torch.optim.SGD
    with pytest.raises(ValueError, match="median"):
        maybe_add_gradient_clipping(clipping_config("median", 1.0), optimizer)


def test_build_optimizer_follows_the_config():
    cfg = get_cfg()
    cfg.merge_from_list(
        "SOLVER.BASE_LR 0.5 SOLVER.MOMENTUM 0.7 SOLVER.NESTEROV True SOLVER.WEIGHT_DECAY 0.01 "
        "SOLVER.WEIGHT_DECAY_NORM 0.0 SOLVER.BIAS_LR_FACTOR 2.0".split()
    )
    model = net()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        optimizer = build_optimizer(cfg, model)
    assert isinstance(optimizer, torch.optim.SGD)
    assert settings(optimizer.param_groups, model["fc"].bias)["lr"] == 1.0
    weight, norm = (settings(optimizer.param_groups, model[n].weight) for n in ("fc", "norm"))
    assert (weight["lr"], weight["momentum"], weight["nesterov"], weight["weight_decay"]) == (
        *(0.5, 0.7, True),
        0.01,
    )
    assert norm["weight_decay"] == 0.0
