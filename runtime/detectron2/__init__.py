"""The detectron2 API over torch, torchvision and fvcore, without compiled code."""

from .utils.env import setup_environment

setup_environment()

__version__ = "0.6+instseg.1"
