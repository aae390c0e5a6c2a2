"""The registry of whole models."""

import torch
from torch import nn

from detectron2.utils.registry import Registry

META_ARCH_REGISTRY = Registry("META_ARCH")
META_ARCH_REGISTRY.__doc__ = "Whole models by name; each is called as `model(cfg)`."


def build_model(cfg) -> nn.Module:
    """Build the model that `cfg.MODEL.META_ARCHITECTURE` names, on `cfg.MODEL.DEVICE`; loads no weights."""
    model = META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE)(cfg)
    return model.to(torch.device(cfg.MODEL.DEVICE))
