"""The detectron2 API over torch, torchvision and fvcore, without compiled code."""

import warnings

from .utils.env import setup_environment

# fvcore.nn scripts a function when it is imported, and so would print this in every process.
warnings.filterwarnings("ignore", message="`torch.jit.script` is deprecated", category=FutureWarning)
setup_environment()

__version__ = "0.6+instseg.1"
