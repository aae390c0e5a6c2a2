"""What every tracker is, whatever model gives it detections."""

import numpy as np
import torch
from detectron2.structures import Instances

# What a tracker says about a detection that is no object of the video (yet); objects count from 1.
NO_TRACK = 0
DROP = -1


class Tracker:
    """Recognises the objects of a video, one frame after the other; defines `reset`, `associate` and `alive_ids`.

    Its memory is plain tensors on the device of the detections, which no checkpoint contains.
    """

    def __init__(self):
        self.reset()

    def reset(self) -> None:
        """Forget the video; the next one counts its objects from 1 again."""
        raise NotImplementedError

    @property
    def alive_ids(self) -> set[int]:
        """The objects that a later frame may still be matched with."""
        raise NotImplementedError

    def associate(self, detections: Instances) -> np.ndarray:
        """Do what `step` does, for detections whose scores fall."""
        raise NotImplementedError

    @torch.no_grad()
    def step(self, detections: Instances) -> torch.Tensor:
        """Take the detections of the next frame.

        Args:
            detections: N >= 0, in any order, with `pred_boxes` (xyxy pixels), `scores`, `pred_classes` and `embeddings`
                (N, D).

        Returns:
            (N,) int64 on the device of the scores: from 1 on the object, each at most once; 0 for a detection that is
            kept without being one; -1 for one that should be dropped, such as a duplicate.
        """
        order = detections.scores.argsort(descending=True, stable=True)
        ids = torch.empty_like(order)
        ids[order] = torch.from_numpy(self.associate(detections[order])).to(order.device)
        return ids
