"""Build the optimizer and the learning-rate schedule that a yacs config describes."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable
from enum import Enum
from typing import Any

import torch
from fvcore.common.param_scheduler import (
    CosineParamScheduler,
    MultiStepParamScheduler,
    ParamScheduler,
    StepWithFixedGammaParamScheduler,
)
from torch import nn

from detectron2.config import CfgNode

from .lr_scheduler import LRMultiplier, LRScheduler, WarmupParamScheduler

# layers whose affine parameters WEIGHT_DECAY_NORM is about, with all that derives from them
_NORM_LAYERS = (
    *(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm),
    *(nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d),
    *(nn.GroupNorm, nn.LayerNorm, nn.LocalResponseNorm),
)


class GradientClipType(Enum):
    """How ``SOLVER.CLIP_GRADIENTS`` limits the gradient of each parameter: per element, or by its norm."""

    VALUE = "value"
    NORM = "norm"


def maybe_add_gradient_clipping(
    cfg: CfgNode, optimizer: torch.optim.Optimizer | type[torch.optim.Optimizer]
) -> torch.optim.Optimizer | type[torch.optim.Optimizer]:
    """Make ``optimizer.step`` clip the gradients first, when ``SOLVER.CLIP_GRADIENTS.ENABLED`` says so.

    Each parameter is clipped on its own. An instance is changed in place (it gets a subclass of its class) and
    returned; for a class the subclass is returned. Without clipping the argument comes back untouched.

    Raises:
        ValueError: ``CLIP_TYPE`` is neither "value" nor "norm".
        TypeError: ``optimizer`` is neither an optimizer nor an optimizer class.
    """
    clip = cfg.SOLVER.CLIP_GRADIENTS
    if not clip.ENABLED:
        return optimizer

    is_instance = isinstance(optimizer, torch.optim.Optimizer)
    base = type(optimizer) if is_instance else optimizer
    if not (isinstance(base, type) and issubclass(base, torch.optim.Optimizer)):
        raise TypeError(f"Gradient clipping needs a torch optimizer or its class, got {optimizer!r}")
    # read now: the config may change later, the optimizer must not
    kind, limit, norm_type = GradientClipType(clip.CLIP_TYPE), clip.CLIP_VALUE, clip.NORM_TYPE

    def step(self, closure=None):
        for group in self.param_groups:
            params = [param for param in group["params"] if param.grad is not None]
            if kind is GradientClipType.NORM:
                for param in params:
                    nn.utils.clip_grad_norm_(param, limit, norm_type)
            elif params:  # torch fails on a group without any gradient
                nn.utils.clip_grad_value_(params, limit)
        return base.step(self, closure)

    clipping = type(f"{base.__name__}WithGradientClip", (base,), {"step": step})
    if not is_instance:
        return clipping
    optimizer.__class__ = clipping
    return optimizer


def build_optimizer(cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
    """SGD with the settings of ``cfg.SOLVER``, with gradient clipping where it is enabled."""
    solver = cfg.SOLVER
    groups = get_default_optimizer_params(
        model,
        base_lr=solver.BASE_LR,
        weight_decay_norm=solver.WEIGHT_DECAY_NORM,
        bias_lr_factor=solver.BIAS_LR_FACTOR,
        weight_decay_bias=solver.WEIGHT_DECAY_BIAS,
    )
    sgd = torch.optim.SGD(
        groups,
        lr=solver.BASE_LR,
        momentum=solver.MOMENTUM,
        weight_decay=solver.WEIGHT_DECAY,
        nesterov=solver.NESTEROV,
        foreach=True,
    )
    return maybe_add_gradient_clipping(cfg, sgd)


def get_default_optimizer_params(
    model: nn.Module,
    base_lr: float | None = None,
    weight_decay: float | None = None,
    weight_decay_norm: float | None = None,
    bias_lr_factor: float | None = 1.0,
    weight_decay_bias: float | None = None,
    lr_factor_func: Callable[[str], float] | None = None,
    overrides: dict[str, dict[str, float]] | None = None,
) -> list[dict[str, Any]]:
    """Parameter groups of a model's trainable parameters, as few as the settings allow.

    Args:
        model: parameters that it holds under several names count once, under the first.
        base_lr: learning rate of every group; None leaves it to the optimizer.
        weight_decay: weight decay of every group; None leaves it to the optimizer.
        weight_decay_norm: weight decay of the parameters of normalization layers.
        bias_lr_factor: factor on the learning rate of parameters named ``bias``; other than 1 needs ``base_lr``.
        weight_decay_bias: weight decay of parameters named ``bias``.
        lr_factor_func: maps a parameter's full name to a factor on its learning rate; needs ``base_lr``.
        overrides: maps the last part of a parameter's name to settings that win over all others, such as
            ``{"embedding": {"lr": 0.01, "weight_decay": 0.1}}``.

    Raises:
        ValueError: a factor is given without ``base_lr``, or ``overrides`` and a bias setting speak about ``bias``.
    """
    defaults = {key: value for key, value in (("lr", base_lr), ("weight_decay", weight_decay)) if value is not None}
    for_bias: dict[str, float] = {}
    if bias_lr_factor is not None and bias_lr_factor != 1.0:
        if base_lr is None:
            raise ValueError("bias_lr_factor requires base_lr")
        for_bias["lr"] = base_lr * bias_lr_factor
    if weight_decay_bias is not None:
        for_bias["weight_decay"] = weight_decay_bias
    if lr_factor_func is not None and base_lr is None:
        raise ValueError("lr_factor_func requires base_lr")

    by_name = dict(overrides or {})
    if for_bias:
        if "bias" in by_name:
            raise ValueError("Both overrides['bias'] and a bias setting are given; keep one of them")
        by_name["bias"] = for_bias

    groups: list[dict[str, Any]] = []
    seen: set[nn.Parameter] = set()
    for prefix, module in model.named_modules():
        for name, param in module.named_parameters(recurse=False):
            if not param.requires_grad or param in seen:
                continue
            seen.add(param)
            group: dict[str, Any] = {"params": [param], **defaults}
            if weight_decay_norm is not None and isinstance(module, _NORM_LAYERS):
                group["weight_decay"] = weight_decay_norm
            if lr_factor_func is not None:
                group["lr"] *= lr_factor_func(f"{prefix}.{name}")
            group.update(by_name.get(name, {}))
            groups.append(group)
    return reduce_param_groups(groups)


def _expand_param_groups(params: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One group per parameter; where a parameter is listed again, the later settings are laid over the earlier."""
    expanded: dict[Any, dict[str, Any]] = {}
    for group in params:
        settings = {key: value for key, value in group.items() if key not in ("params", "param_names")}
        names = group.get("param_names")
        for i, param in enumerate(group["params"]):
            single = expanded.setdefault(param, {})
            single["params"] = [param]
            if names is not None:
                single["param_names"] = [names[i]]
            single.update(settings)
    return list(expanded.values())


def reduce_param_groups(params: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Merge groups with equal settings, as optimizers that work on whole groups at a time are faster with few.

    Args:
        params: torch parameter groups, with ``param_names`` or without. A parameter may occur in several groups; the
            settings of later ones win.

    Returns:
        Groups in the order of their first parameter, the parameters in their first order.
    """
    merged: dict[tuple, dict[str, list]] = defaultdict(lambda: defaultdict(list))
    for single in _expand_param_groups(params):
        members = {key: single.pop(key) for key in ("params", "param_names") if key in single}
        for key, values in members.items():
            merged[tuple(single.items())][key].extend(values)
    return [{**dict(settings), **members} for settings, members in merged.items()]


def build_lr_scheduler(cfg: CfgNode, optimizer: torch.optim.Optimizer) -> LRScheduler:
    """The schedule that ``cfg.SOLVER.LR_SCHEDULER_NAME`` names, with its warm-up.

    Raises:
        ValueError: the name is unknown, or ``BASE_LR_END`` does not lie between 0 and ``BASE_LR``.
    """
    solver = cfg.SOLVER
    name = solver.LR_SCHEDULER_NAME
    schedule: ParamScheduler
    if name == "WarmupMultiStepLR":
        milestones = [step for step in solver.STEPS if step <= solver.MAX_ITER]
        if len(milestones) < len(solver.STEPS):
            logging.getLogger(__name__).warning(
                f"SOLVER.STEPS {tuple(solver.STEPS)} beyond SOLVER.MAX_ITER={solver.MAX_ITER} are ignored"
            )
        schedule = MultiStepParamScheduler(
            [solver.GAMMA**k for k in range(len(milestones) + 1)],
            milestones=milestones,
            num_updates=solver.MAX_ITER,
        )
    elif name == "WarmupCosineLR":
        end = solver.BASE_LR_END / solver.BASE_LR
        if not 0.0 <= end <= 1.0:
            raise ValueError(
                f"SOLVER.BASE_LR_END={solver.BASE_LR_END} must lie in [0, SOLVER.BASE_LR={solver.BASE_LR}]"
            )
        schedule = CosineParamScheduler(1, end)
    elif name == "WarmupStepWithFixedGammaLR":
        schedule = StepWithFixedGammaParamScheduler(
            base_value=1.0, num_decays=solver.NUM_DECAYS, gamma=solver.GAMMA, num_updates=solver.MAX_ITER
        )
    else:
        raise ValueError(
            f"Unknown SOLVER.LR_SCHEDULER_NAME: {name!r}; "
            "known are WarmupMultiStepLR, WarmupCosineLR and WarmupStepWithFixedGammaLR"
        )
    warmed_up = WarmupParamScheduler(
        schedule,
        warmup_factor=solver.WARMUP_FACTOR,
        warmup_length=min(solver.WARMUP_ITERS / solver.MAX_ITER, 1.0),
        warmup_method=solver.WARMUP_METHOD,
        rescale_interval=solver.RESCALE_INTERVAL,
    )
    return LRMultiplier(optimizer, multiplier=warmed_up, max_iter=solver.MAX_ITER)
