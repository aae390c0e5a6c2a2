"""Both kinds of configs: lazy Python configs (LazyConfig) and yaml ones (CfgNode)."""

from .compat import downgrade_config, upgrade_config
from .config import CfgNode, configurable, get_cfg, global_cfg, set_global_cfg
from .instantiate import instantiate
from .lazy import LazyCall, LazyConfig

__all__ = [
    "CfgNode",
    "LazyCall",
    "LazyConfig",
    "configurable",
    "downgrade_config",
    "get_cfg",
    "global_cfg",
    "instantiate",
    "set_global_cfg",
    "upgrade_config",
]
