"""Strips of a video while it is predicted: some of its frames are kept, with all that the model can show of them."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from detectron2.structures import Boxes, BoxMode, Instances
from torch import nn

from instseg_d2.data.errors import DatasetError
from instseg_d2.data.run_lengths import decode_mask
from instseg_d2.visualization.film_strip import draw_film_strip, stack
from instseg_d2.visualization.prototypes import draw_attended_regions
from instseg_d2.visualization.tracks import draw_tracks

from .coco_file import Categories


@dataclass(frozen=True)
class _Kept:
    """A frame of the sample; its masks are bits, an eighth of their size."""

    number: int
    frame: np.ndarray
    instances: Instances
    masks: np.ndarray | None
    regions: dict[str, np.ndarray]

    def unpacked(self) -> Instances:
        """The instances with their masks."""
        result = Instances(self.instances.image_size, **self.instances.get_fields())
        if self.masks is not None:
            height, width = self.instances.image_size
            bits = np.unpackbits(self.masks, axis=-1, count=width).reshape(-1, height, width)
            result.pred_masks = torch.from_numpy(bits).bool()
        return result


class _Regions:
    """Records, of the frames for which it is asked to, where the prototypes of the frame before are seen.

    Args:
        model: with a `frame_attention` as `instseg_d2.modeling.meta_arch.pcan.frame_attention.FrameAttention`; nothing
            is recorded of others, and of attention without prototypes.
    """

    def __init__(self, model: nn.Module) -> None:
        self.wanted = False
        self.found: dict[str, np.ndarray] = {}
        attention = getattr(model, "frame_attention", None)
        parts = getattr(attention, "attentions", {})
        self.exist = bool(parts) and all(hasattr(part, "shares") for part in parts.values())
        if self.exist:
            attention.register_forward_hook(self._record)

    def _record(self, module: nn.Module, inputs: tuple, output: tuple) -> None:
        features, memory = inputs
        self.found = {}
        if self.wanted and len(memory):
            shares = module.shares(features, memory[-1])
            self.found = {name: maps[0].float().cpu().numpy() for name, maps in shares.items()}


class VideoStrips:
    """Draws a video that goes by frame by frame: frames with their tracks, what prototypes look at, and each track.

    Frames are taken at equal steps; how many lie between them grows while the video goes on, so that memory does not.

    Args:
        model: that predicts; its heads attach further maps to be drawn after `keep_auxiliary_maps`.
        columns: frames in the picture.
        rows: tracks, at most.
    """

    def __init__(self, model: nn.Module, *, columns: int = 8, rows: int = 8) -> None:
        self._regions = _Regions(model)
        attention = getattr(model, "instance_attention", None)
        self._foreground = None
        if attention is not None and not attention.joint:
            self._foreground = len(attention.start_foreground)
        self._columns = columns
        self._rows = rows
        self.reset()

    @property
    def has_regions(self) -> bool:
        """Whether the model reads from prototypes of frames, whose regions are drawn."""
        return self._regions.exist

    def reset(self) -> None:
        """Forget the video."""
        self._kept: list[_Kept] = []
        self._step, self._number = 1, 0
        self._regions.wanted = True

    def add(self, frame: np.ndarray, instances: Instances) -> None:
        """Take the next frame (H, W, 3) uint8 BGR and its tracks, see `draw_tracks`."""
        if self._number % self._step == 0:
            fields = dict(instances.get_fields())
            masks = fields.pop("pred_masks", None)
            packed = None if masks is None else np.packbits(masks.numpy(), axis=-1)
            rest = Instances(instances.image_size, **fields)
            self._kept.append(_Kept(self._number, frame, rest, packed, self._regions.found))
            if len(self._kept) == 2 * self._columns:
                del self._kept[1::2]
                self._step *= 2
        self._number += 1
        self._regions.wanted = self._number % self._step == 0

    def close(self) -> None:
        """Nothing is open; the picture can be drawn."""

    def draw(
        self, name: str, class_names: Sequence[str] | None = None, others: Mapping[str, "RecordedTracks"] | None = None
    ) -> np.ndarray | None:
        """The picture of the frames so far.

        Args:
            name: of the model, beside its row.
            class_names: text of the labels; class indices when left out.
            others: tracks of other models in the same video, by name; rows above this one's.

        Returns:
            (H, W, 3) uint8, BGR; None if there was no frame.

        Raises:
            DatasetError: `others` are of another video.
        """
        if not self._kept:
            return None
        chosen = np.linspace(0, len(self._kept) - 1, min(self._columns, len(self._kept))).round().astype(int)
        kept = [self._kept[index] for index in chosen]
        frames, numbers = [one.frame for one in kept], [one.number for one in kept]
        found = [one.unpacked() for one in kept]
        size = frames[0].shape[:2]
        rows = {other: [tracks.at(number, size) for number in numbers] for other, tracks in (others or {}).items()}
        parts = [draw_film_strip(frames, {**rows, name: found}, class_names, numbers=numbers)]
        levels = sorted({level for one in kept for level in one.regions})
        for level in levels:
            shares = [one.regions.get(level) for one in kept]
            parts.append(draw_attended_regions(frames, shares, numbers=numbers, title=f"prototypes in {level}"))
        parts.append(
            draw_tracks(frames, found, class_names, numbers=numbers, foreground=self._foreground, rows=self._rows)
        )
        return stack(parts)


class RecordedTracks:
    """Tracks of a video from a file that `TrackFile` wrote, to draw beside those of another model.

    Args:
        path: the json.
        categories: of the data set; both models must have been trained for it.

    Raises:
        DatasetError: there is no such file, or it is of another form.
    """

    def __init__(self, path: Path, categories: Categories) -> None:
        self._path = path
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            (video,) = content["videos"]
            self._size, self._length = (video["height"], video["width"]), video["length"]
            keys = ("instance_id", "category_id", "segmentations", "bboxes")
            self._tracks = [tuple(track[key] for key in keys) for track in content["annotations"]]
        except FileNotFoundError:
            raise DatasetError(
                f"no tracks at '{path}': let the other model predict the same video first, with its own --output"
            ) from None
        except (KeyError, OSError, TypeError, ValueError) as error:
            raise DatasetError(
                f"'{path}' holds no tracks of one video as tools/predict.py writes them: {error!r}"
            ) from None
        self._categories = categories

    def at(self, frame: int, size: tuple[int, int]) -> Instances:
        """The tracks of a frame of this (height, width): `pred_boxes`, `pred_classes`, `pred_ids`, `pred_masks`.

        Raises:
            DatasetError: the video has another size, or ends before this frame.
        """
        if size != self._size or frame >= self._length:
            raise DatasetError(
                f"'{self._path}' is of another video: {self._length} frames of {self._size[1]} x {self._size[0]} px; "
                f"here is frame {frame} with {size[1]} x {size[0]} px"
            )
        there = [(i, c, masks[frame], boxes[frame]) for i, c, masks, boxes in self._tracks if boxes[frame] is not None]
        result = Instances(size)
        boxes = torch.tensor([box for *_, box in there], dtype=torch.float32).reshape(-1, 4)
        result.pred_boxes = Boxes(BoxMode.convert(boxes, BoxMode.XYWH_ABS, BoxMode.XYXY_ABS))
        result.pred_classes = torch.tensor([self._categories.index(c) for _, c, *_ in there], dtype=torch.int64)
        result.pred_ids = torch.tensor([identity for identity, *_ in there], dtype=torch.int64)
        if not any(mask is None for *_, mask, _ in there):
            masks = [decode_mask(mask, *size) for *_, mask, _ in there]
            result.pred_masks = torch.from_numpy(np.stack(masks) if masks else np.zeros((0, *size), bool))
        return result
