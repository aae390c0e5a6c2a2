"""Weights of torchvision's ResNets under the names of detectron2's, so that a training may start from them."""

import re
from collections.abc import Collection, Mapping
from typing import TypeVar

Value = TypeVar("Value")

# Names that a ResNet of torchvision has, whatever its depth, and no model of detectron2.
_SIGNS = frozenset({"conv1.weight", "bn1.weight", "layer1.0.conv1.weight", "layer4.0.conv1.weight"})
_CHANGES = (
    (re.compile(r"^(conv1|bn1)\."), r"stem.\1."),
    (re.compile(r"^layer(\d)\."), lambda found: f"res{int(found[1]) + 1}."),
    (re.compile(r"\bbn(\d)\."), r"conv\1.norm."),
    (re.compile(r"\.downsample\.0\."), ".shortcut."),
    (re.compile(r"\.downsample\.1\."), ".shortcut.norm."),
)


def is_torchvision_resnet(names: Collection[str]) -> bool:
    """Say whether these are the names of a ResNet of torchvision."""
    return _SIGNS.issubset(names)


def rename_torchvision_resnet(state: Mapping[str, Value]) -> dict[str, Value]:
    """Rename the tensors of a ResNet; its classifier, and counters of batches, are left out.

    detectron2's ResNet takes them with `stride_in_1x1=False`, and images in RGB, normalized to unit variance.
    """
    result = {}
    for name, value in state.items():
        if name.startswith("fc.") or name.endswith("num_batches_tracked"):
            continue
        for pattern, replacement in _CHANGES:
            name = pattern.sub(replacement, name)
        result[name] = value
    return result
