"""Loading and saving of models: torch checkpoints, detectron2's model zoo, Caffe2 Detectron weights."""

from fvcore.common.checkpoint import Checkpointer, PeriodicCheckpointer

from . import catalog as _catalog  # importing it registers catalog://
from .detection_checkpoint import DetectionCheckpointer

__all__ = ["Checkpointer", "DetectionCheckpointer", "PeriodicCheckpointer"]
