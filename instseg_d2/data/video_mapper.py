"""From a frame and its references to the input of a video model."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from .mappers import InstanceMapper


class VideoMapper(InstanceMapper):
    """Maps a key frame and its references alike: they are resized, flipped and cropped by the same random numbers.

    A record of training comes from `VideoClips`: a frame with `references`, a list of frames. The sample is that of
    `InstanceMapper` for the key frame, and its `references` are such samples too. Records without `references`, as in
    testing, are mapped as images are. Only numpy's global generator is repeated, which the augmentations of detectron2
    draw from.

    A still image has no identities of its own: its instances are numbered from 1 on.

    Args:
        extra_fields: of `InstanceMapper`; by default the identities.
        settings: all others of `InstanceMapper`.

    Raises:
        SampleError: a frame cannot be mapped; the message names the file, the image id and the annotation id.
    """

    def __init__(self, *, extra_fields: Sequence[str] = ("gt_ids",), **settings: Any):
        super().__init__(extra_fields=extra_fields, **settings)

    def __call__(self, record: dict[str, Any]) -> dict[str, Any]:
        """Map one record, which stays as it is."""
        if "references" not in record:
            return super().__call__(_with_ids(record))
        before = np.random.get_state()
        sample = super().__call__(_with_ids({key: value for key, value in record.items() if key != "references"}))
        after = np.random.get_state()
        sample["references"] = []
        for reference in record["references"]:
            np.random.set_state(before)
            sample["references"].append(super().__call__(_with_ids(reference)))
        np.random.set_state(after)
        return sample


def _with_ids(record: dict[str, Any]) -> dict[str, Any]:
    if "video_id" in record or "annotations" not in record:
        return record
    numbered = enumerate(record["annotations"], start=1)
    return {**record, "annotations": [{"instance_id": number, **annotation} for number, annotation in numbered]}
