"""Prediction on videos, frame by frame, with a model that remembers."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from typing import Protocol

import numpy as np
import torch
from detectron2.data import Metadata
from detectron2.structures import Instances
from torch import nn

from .overrides import SettingError
from .predictor import Predictor


class VideoPredictor:
    """Takes the frames of a video one after the other and says which object each detection is.

    A frame's result depends on it and the frames before alone; what is remembered does not grow with the video.

    Args:
        predictor: of a model with `reset()` and `step(frame)`, see
            `instseg_d2.modeling.meta_arch.video.base.OnlineVideoModel`; prepares the frames.

    Raises:
        SettingError: the model predicts single images only.
    """

    def __init__(self, predictor: Predictor) -> None:
        if not can_track(predictor.model):
            raise SettingError(
                f"{type(predictor.model).__name__} has no step(): it finds objects in single images and does not "
                "follow them through a video. Use Predictor (tools/predict.py in its image mode, without "
                "--frames-as-video, --mots and --beside) to predict each frame for itself, or a recipe that tracks, "
                "such as those of PCAN."
            )
        self.predictor = predictor
        self.reset()

    @classmethod
    def from_config(cls, *args, **kwargs) -> "VideoPredictor":
        """Build the predictor of a recipe; arguments and errors as of `Predictor.from_config`."""
        return cls(Predictor.from_config(*args, **kwargs))

    @property
    def metadata(self) -> Metadata | None:
        """Names and colours of the classes, for drawing."""
        return self.predictor.metadata

    def reset(self) -> None:
        """Forget the video; call it before the first frame of another one."""
        self.predictor.model.reset()

    @torch.inference_mode()
    def step(self, frame: np.ndarray) -> Instances:
        """Take the next frame of the video.

        Args:
            frame: (H, W, 3) uint8, BGR. Frames of a video may differ in size.

        Returns:
            On the CPU, in pixels of the frame: `pred_boxes` (xyxy), `scores`, `pred_classes`, `pred_masks` (N, H, W)
            bool (unless the model has no masks) and `pred_ids` (N,) int64: from 1 on the object of the video, 0 for a
            detection that is no track.

        Raises:
            ValueError: the frame is not of that form.
        """
        item = self.predictor.preprocess(frame)
        with self.predictor.autocast():
            return self.predictor.model.step(item).to("cpu")


def can_track(model: nn.Module) -> bool:
    """Whether a model follows objects through a video."""
    return hasattr(model, "step") and hasattr(model, "reset")


class VideoOutput(Protocol):
    """What takes the frames of a video as they are predicted."""

    def add(self, frame: np.ndarray, instances: Instances) -> None:
        """Take the next frame (H, W, 3) uint8 BGR and its tracks."""

    def close(self) -> None:
        """Finish what the frames so far give; it is called once, also when the video broke off."""


def follow(
    predictor: VideoPredictor,
    frames: Iterable[np.ndarray],
    outputs: Sequence[VideoOutput],
    *,
    score_threshold: float = 0.0,
) -> Iterator[int]:
    """Take a video through the model, one frame in memory at a time.

    Args:
        predictor: forgets the last video first.
        frames: (H, W, 3) uint8 BGR each.
        outputs: get each frame with its tracks: detections of an id, with at least the score.
        score_threshold: in [0, 1].

    Yields:
        the number of tracks in each frame, once all outputs have taken it. All are closed at the end, also when a frame
        cannot be read or the caller stops.
    """
    predictor.reset()
    with ExitStack() as stack:
        for output in outputs:
            stack.callback(output.close)
        for frame in frames:
            found = predictor.step(frame)
            found = found[(found.pred_ids > 0) & (found.scores >= score_threshold)]
            for output in outputs:
                output.add(frame, found)
            yield len(found)
