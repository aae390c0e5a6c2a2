"""Configs of the covered models, and links to the weights that upstream published for them."""

from .model_zoo import get, get_checkpoint_url, get_config, get_config_file

__all__ = ["get_checkpoint_url", "get", "get_config_file", "get_config"]
