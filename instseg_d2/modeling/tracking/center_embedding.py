"""Tracking of SipMask-VIS (arXiv:2007.14772): the embedding at an object's center, for one-stage detectors."""

from collections.abc import Sequence

import numpy as np
import torch
from detectron2.layers import Conv2d
from detectron2.structures import Boxes, Instances, pairwise_iou
from torch import nn
from torch.nn import functional as F

from instseg_d2.layers.convolution import Norm, conv_tower

from .base import DROP, Tracker
from .track_table import TrackTable


class CenterEmbeddingHead(nn.Module):
    """Joins feature levels to one map of embeddings; an object has the one at the center of its box.

    Naming: B images, E the length of an embedding, H x W the size of the finest level.

    Args:
        in_channels: of every level.
        num_levels: how many levels `forward` gets.
        stride: of the finest level, pixels.
        conv_dims: output channels of the 3x3 convolutions, which the levels share.
        norm: behind each of them, as `detectron2.layers.get_norm` takes it; "" for none.
        embedding_dim: E.
        jitter: true centers of the reference frame are moved at random by at most this share of the box's sides.
        min_area: a predicted box teaches from this area on, square pixels.
        loss_weight: factor on `loss_track`.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        num_levels: int = 3,
        stride: int = 8,
        conv_dims: Sequence[int] = (256, 256),
        norm: Norm = "GN",
        embedding_dim: int = 512,
        jitter: float = 0.05,
        min_area: float = 4.0,
        loss_weight: float = 1.0,
    ):
        super().__init__()
        self.stride = stride
        self.jitter = jitter
        self.min_area = min_area
        self.loss_weight = loss_weight
        self.convs = conv_tower(in_channels, conv_dims, norm=norm)
        self.embed = Conv2d(num_levels * [in_channels, *conv_dims][-1], embedding_dim, kernel_size=1)
        for layer in self.convs:
            nn.init.normal_(layer.weight, std=0.01)

    def forward(self, features: Sequence[torch.Tensor]) -> torch.Tensor:
        """Make the map of embeddings.

        Args:
            features: maps (B, C, H_l, W_l), finest first.

        Returns:
            (B, E, H, W).
        """
        levels = [self.convs(level) for level in features]
        size = levels[0].shape[-2:]
        levels[1:] = [F.interpolate(x, size=size, mode="bilinear", align_corners=False) for x in levels[1:]]
        return self.embed(torch.cat(levels, dim=1))

    def lookup(self, embeddings: torch.Tensor, boxes: Sequence[Boxes]) -> torch.Tensor:
        """Read the embeddings at the centers of boxes.

        Args:
            embeddings: (B, E, H, W), from `forward`.
            boxes: per image, xyxy pixels of the network's input; R in all. A center outside counts as the border.

        Returns:
            (R, E), with gradient to the map.
        """
        return self._at(embeddings, [x.get_centers() for x in boxes])

    def _at(self, embeddings: torch.Tensor, centers: Sequence[torch.Tensor]) -> torch.Tensor:
        """Read (R, E) at points (R_i, 2) of each image, xy pixels."""
        height, width = embeddings.shape[-2:]
        counts = torch.tensor([len(x) for x in centers], device=embeddings.device)
        image = torch.repeat_interleave(counts, output_size=sum(len(x) for x in centers))
        x, y = (torch.cat(list(centers)).detach() / self.stride).floor().long().unbind(dim=1)
        return embeddings[image, :, y.clamp(0, height - 1), x.clamp(0, width - 1)]

    def losses(
        self,
        key_map: torch.Tensor,
        keys: Sequence[Instances],
        ref_map: torch.Tensor,
        references: Sequence[Instances],
    ) -> dict[str, torch.Tensor]:
        """Let each location of a key frame say which object of the reference frame it shows, or none of them.

        Logits are dot products, 0 for "none of them".

        Args:
            key_map: (B, E, H, W) of the key frames.
            keys: per image, positive locations with `pred_boxes` and `gt_ids`.
            ref_map: the same of the reference frames.
            references: per image, ground truth with `gt_boxes` and `gt_ids`.

        Returns:
            `loss_track`, cross entropy averaged over the locations of an image, then over images; an image without
            locations, or without objects in its reference, counts as 0.
        """
        keys = [x[x.pred_boxes.area() > self.min_area] for x in keys]
        found = self.lookup(key_map, [x.pred_boxes for x in keys]).float()
        known = self._at(ref_map, [self._jittered_centers(x.gt_boxes) for x in references]).float()
        losses = []
        with torch.autocast(key_map.device.type, enabled=False):
            rows = found.split([len(x) for x in keys])
            columns = known.split([len(x) for x in references])
            for row, column, key, reference in zip(rows, columns, keys, references, strict=True):
                logits = F.pad(row @ column.T, (1, 0))
                entropies = F.cross_entropy(logits, _targets(key.gt_ids, reference.gt_ids), reduction="sum")
                losses.append(entropies / max(len(row), 1))
        return {"loss_track": self.loss_weight * torch.stack(losses).mean()}

    def _jittered_centers(self, boxes: Boxes) -> torch.Tensor:
        sides = boxes.tensor[:, 2:] - boxes.tensor[:, :2]
        return boxes.get_centers() + sides * torch.empty_like(sides).uniform_(-self.jitter, self.jitter)


def _targets(ids: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
    """(K,) int64: 1 + the place of each id (K,) among the known ones (G,), 0 for an unknown one."""
    same = F.pad(ids[:, None] == known, (1, 0), value=False)
    # The highest of 0 and 1 is first met at 0 if the id is unknown.
    return same.to(torch.uint8).argmax(dim=1)


class CenterEmbeddingTracker(Tracker):
    """Association by embedding, overlap and class at once, as SipMask-VIS and MaskTrack R-CNN do it.

    A detection chooses among the objects of the memory and "new" by log p + a log(score) + b IoU + c [same class], p
    the softmax of the dot products and of 0 for "new", which counts as of the same class. Where several choose the
    same object, the one with the highest sum continues it.

    Objects have the class of their first detection, and the embedding and box of their last. They are remembered to
    the end of the video, as on YouTube-VIS, or for `memory_frames`.

    Args:
        score_weight: a, factor on the logarithm of the detection's score.
        iou_weight: b, factor on the IoU with the object's last box.
        class_weight: c, for the same class.
        second_choice: assign one to one: who loses its object to another detection may continue the next best that it
            prefers to "new". Without it, as released, it is dropped at once. With it, it is dropped when none is left.
        memory_frames: an object that has not been seen for that many frames is forgotten, so that the memory stays
            bounded in an endless stream; None remembers all.
    """

    def __init__(
        self,
        *,
        score_weight: float = 1.0,
        iou_weight: float = 2.0,
        class_weight: float = 10.0,
        second_choice: bool = True,
        memory_frames: int | None = None,
    ):
        self.score_weight = score_weight
        self.iou_weight = iou_weight
        self.class_weight = class_weight
        self.second_choice = second_choice
        self.memory_frames = memory_frames
        super().__init__()

    def reset(self) -> None:
        self._frame = 0
        self._objects = 0
        self._tracks = TrackTable()

    @property
    def alive_ids(self) -> set[int]:
        return set(self._tracks.ids.tolist())

    def associate(self, detections: Instances) -> np.ndarray:
        rows, new = self._match(detections)
        ids = np.full(len(detections), DROP)
        ids[rows >= 0] = self._tracks.ids[rows[rows >= 0]]
        ids[new] = self._objects + 1 + np.arange(new.sum())
        self._objects += int(new.sum())
        self._remember(detections, rows, ids, new)
        self._frame += 1
        return ids

    def _match(self, detections: Instances) -> tuple[np.ndarray, np.ndarray]:
        """The row (N,) of the table that each detection continues, -1 for none; and which (N,) are new objects."""
        rows, new = np.full(len(detections), -1), np.ones(len(detections), dtype=bool)
        if len(self._tracks) == 0 or len(detections) == 0:
            return rows, new
        sums = self._sums(detections).cpu().numpy()
        wanted = np.where(sums[:, 1:] > sums[:, :1], sums[:, 1:], -np.inf)
        new = np.isneginf(wanted).all(axis=1)
        if not self.second_choice:
            wanted[np.arange(wanted.shape[1]) != wanted.argmax(axis=1)[:, None]] = -np.inf
        for _ in range(min(wanted.shape)):
            detection, row = np.unravel_index(wanted.argmax(), wanted.shape)
            if np.isneginf(wanted[detection, row]):
                break
            rows[detection] = row
            wanted[detection], wanted[:, row] = -np.inf, -np.inf
        return rows, new

    def _sums(self, detections: Instances) -> torch.Tensor:
        """(N, 1 + T), what each detection chooses by; "new" comes first."""
        values = self._tracks.values
        with torch.autocast(values["embeddings"].device.type, enabled=False):
            likelihoods = F.pad(detections.embeddings.float() @ values["embeddings"].T, (1, 0)).log_softmax(dim=1)
        overlaps = F.pad(pairwise_iou(detections.pred_boxes, Boxes(values["boxes"])), (1, 0))
        same_class = F.pad((detections.pred_classes[:, None] == values["classes"]).float(), (1, 0), value=1.0)
        # A score of 0 must not make all choices alike.
        scores = detections.scores.float().clamp(min=1e-6).log()
        return (
            likelihoods
            + self.score_weight * scores[:, None]
            + self.iou_weight * overlaps
            + self.class_weight * same_class
        )

    def _remember(self, detections: Instances, rows: np.ndarray, ids: np.ndarray, new: np.ndarray) -> None:
        embeddings, boxes = detections.embeddings.float(), detections.pred_boxes.tensor.float()
        seen = torch.from_numpy(np.flatnonzero(rows >= 0))
        self._tracks.update(rows[rows >= 0], self._frame, embeddings=embeddings[seen], boxes=boxes[seen])
        first = torch.from_numpy(np.flatnonzero(new))
        self._tracks.append(
            ids[new],
            self._frame,
            embeddings=embeddings[first],
            boxes=boxes[first],
            classes=detections.pred_classes[first],
        )
        if self.memory_frames is not None:
            self._tracks.forget(self._frame - self._tracks.last_seen >= self.memory_frames)
