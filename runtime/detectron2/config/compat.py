"""Conversion of yaml configs between VERSIONs."""

import logging
from collections.abc import Iterable

from .config import CfgNode
from .defaults import _C

__all__ = ["upgrade_config", "downgrade_config"]

# Keys that changed their name on the way to the version: {version: {old: new}}.
_RENAMES: dict[int, dict[str, str]] = {
    1: {"MODEL.RPN_HEAD.NAME": "MODEL.RPN.HEAD_NAME"},
    2: {
        "MODEL.WEIGHT": "MODEL.WEIGHTS",
        "MODEL.PANOPTIC_FPN.SEMANTIC_LOSS_SCALE": "MODEL.SEM_SEG_HEAD.LOSS_WEIGHT",
        "MODEL.PANOPTIC_FPN.RPN_LOSS_SCALE": "MODEL.RPN.LOSS_WEIGHT",
        "MODEL.PANOPTIC_FPN.INSTANCE_LOSS_SCALE": "MODEL.PANOPTIC_FPN.INSTANCE_LOSS_WEIGHT",
        "MODEL.PANOPTIC_FPN.COMBINE_ON": "MODEL.PANOPTIC_FPN.COMBINE.ENABLED",
        "MODEL.PANOPTIC_FPN.COMBINE_OVERLAP_THRESHOLD": "MODEL.PANOPTIC_FPN.COMBINE.OVERLAP_THRESH",
        "MODEL.PANOPTIC_FPN.COMBINE_STUFF_AREA_LIMIT": "MODEL.PANOPTIC_FPN.COMBINE.STUFF_AREA_LIMIT",
        "MODEL.PANOPTIC_FPN.COMBINE_INSTANCES_CONFIDENCE_THRESHOLD": (
            "MODEL.PANOPTIC_FPN.COMBINE.INSTANCES_CONFIDENCE_THRESH"
        ),
        "MODEL.ROI_HEADS.SCORE_THRESH": "MODEL.ROI_HEADS.SCORE_THRESH_TEST",
        "MODEL.ROI_HEADS.NMS": "MODEL.ROI_HEADS.NMS_THRESH_TEST",
        "MODEL.RETINANET.INFERENCE_SCORE_THRESHOLD": "MODEL.RETINANET.SCORE_THRESH_TEST",
        "MODEL.RETINANET.INFERENCE_TOPK_CANDIDATES": "MODEL.RETINANET.TOPK_CANDIDATES_TEST",
        "MODEL.RETINANET.INFERENCE_NMS_THRESHOLD": "MODEL.RETINANET.NMS_THRESH_TEST",
        "TEST.DETECTIONS_PER_IMG": "TEST.DETECTIONS_PER_IMAGE",
        "TEST.AUG_ON": "TEST.AUG.ENABLED",
        "TEST.AUG_MIN_SIZES": "TEST.AUG.MIN_SIZES",
        "TEST.AUG_MAX_SIZE": "TEST.AUG.MAX_SIZE",
        "TEST.AUG_FLIP": "TEST.AUG.FLIP",
    },
}

# Before version 2 each detector had its own anchors: {key in ANCHOR_GENERATOR: key in the detector's node}.
_ANCHOR_KEYS = {"ASPECT_RATIOS": "ANCHOR_ASPECT_RATIOS", "SIZES": "ANCHOR_SIZES"}


def upgrade_config(cfg: CfgNode, to_version: int | None = None) -> CfgNode:
    """A copy of a full config, converted from its VERSION to a newer one, by default the latest."""
    to_version = _C.VERSION if to_version is None else to_version
    assert cfg.VERSION <= to_version, f"Cannot upgrade a config of version {cfg.VERSION} to version {to_version}."
    cfg = cfg.clone()
    while cfg.VERSION < to_version:
        version = cfg.VERSION + 1
        _rename(cfg, _RENAMES[version].items())
        if version == 2:
            _share_anchors(cfg)
        cfg.VERSION = version
    return cfg


def downgrade_config(cfg: CfgNode, to_version: int) -> CfgNode:
    """A copy of a full config, converted to an older VERSION; enough to then merge an old partial config into it."""
    assert cfg.VERSION >= to_version, f"Cannot downgrade a config of version {cfg.VERSION} to version {to_version}."
    cfg = cfg.clone()
    while cfg.VERSION > to_version:
        _rename(cfg, [(new, old) for old, new in reversed(_RENAMES[cfg.VERSION].items())])
        if cfg.VERSION == 2:
            _split_anchors(cfg)
        cfg.VERSION -= 1
    return cfg


def guess_version(cfg: CfgNode, filename: str) -> int:
    """The version of a partial config without VERSION, by the old keys in it; the latest if it has none of them."""
    is_old = "WEIGHT" in cfg.get("MODEL", {}) or "AUG_ON" in cfg.get("TEST", {})
    version = 1 if is_old else _C.VERSION
    logging.getLogger(__name__).warning(f"Config '{filename}' has no VERSION. Assuming version {version}.")
    return version


def _rename(cfg: CfgNode, pairs: Iterable[tuple[str, str]]) -> None:
    for source, destination in pairs:
        *parents, leaf = source.split(".")
        nodes = [cfg]
        for name in parents:
            nodes.append(nodes[-1][name])
        value = nodes[-1].pop(leaf)
        # Drop the nodes that became empty.
        for node, name in reversed(list(zip(nodes, parents, strict=False))):
            if len(node[name]):
                break
            del node[name]

        *parents, leaf = destination.split(".")
        node = cfg
        for name in parents:
            node = node.setdefault(name, CfgNode())
        node[leaf] = value


def _share_anchors(cfg: CfgNode) -> None:
    used, unused = cfg.MODEL.RPN, cfg.MODEL.RETINANET
    if cfg.MODEL.META_ARCHITECTURE == "RetinaNet":
        used, unused = unused, used
    shared = cfg.MODEL.setdefault("ANCHOR_GENERATOR", CfgNode())
    for key, old_key in _ANCHOR_KEYS.items():
        shared[key] = used.pop(old_key)
        del unused[old_key]
    del cfg.MODEL.RETINANET["ANCHOR_STRIDES"]


def _split_anchors(cfg: CfgNode) -> None:
    shared = cfg.MODEL.ANCHOR_GENERATOR
    for key, old_key in _ANCHOR_KEYS.items():
        value = shared.pop(key)
        cfg.MODEL.RPN[old_key] = value
        cfg.MODEL.RETINANET[old_key] = value
    if not shared:
        del cfg.MODEL["ANCHOR_GENERATOR"]
    # No version reads it, but old files may set it.
    cfg.MODEL.RETINANET.ANCHOR_STRIDES = []
