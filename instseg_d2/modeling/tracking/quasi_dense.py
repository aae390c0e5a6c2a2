"""QDTrack (arXiv:2006.06664): embeddings of regions, learned from many pairs of two frames, and their association."""

from collections import deque
from collections.abc import Sequence

import fvcore.nn.weight_init as weight_init
import numpy as np
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling.poolers import ROIPooler
from detectron2.structures import Boxes, Instances, pairwise_iou
from torch import nn
from torch.nn import functional as F

from instseg_d2.layers.convolution import Norm, conv_tower
from instseg_d2.layers.embedding_losses import cosine_loss, multi_positive_loss

from .base import DROP, NO_TRACK, Tracker
from .pair_sampling import BACKGROUND, RegionSampler
from .track_table import TrackTable


class QuasiDenseHead(nn.Module):
    """Embeds regions: RoIAlign, 3x3 convolutions, then fully connected layers; the last one has no activation.

    Naming: K regions of key frames, S of their reference frames, D the length of an embedding.

    Args:
        pooler: cuts the regions out of the feature maps.
        input_shape: channels, height and width of what it cuts out.
        sampler: draws the regions that the embedding is trained on, see `sample`.
        conv_dims: output channels of each convolution.
        conv_norm: norm behind each, as `detectron2.layers.get_norm` takes it; "" for none.
        fc_dims: output channels of the fully connected layers before the last one.
        embedding_dim: D.
        track_loss_weight: factor on the contrastive loss.
        cosine_loss_weight: factor on the auxiliary loss on cosines.
        negative_margin: see `cosine_loss`; QDTrack's present release has 0.1.
        negatives_per_positive: see `cosine_loss`.
    """

    def __init__(
        self,
        *,
        pooler: ROIPooler,
        input_shape: ShapeSpec,
        sampler: RegionSampler,
        conv_dims: Sequence[int] = (256, 256, 256, 256),
        conv_norm: Norm = "GN",
        fc_dims: Sequence[int] = (1024,),
        embedding_dim: int = 256,
        track_loss_weight: float = 0.25,
        cosine_loss_weight: float = 1.0,
        negative_margin: float = 0.3,
        negatives_per_positive: int = 3,
    ):
        super().__init__()
        self.pooler = pooler
        self.sampler = sampler
        self.track_loss_weight = track_loss_weight
        self.cosine_loss_weight = cosine_loss_weight
        self.negative_margin = negative_margin
        self.negatives_per_positive = negatives_per_positive
        self.convs = conv_tower(input_shape.channels, conv_dims, norm=conv_norm)
        channels = [input_shape.channels, *conv_dims][-1]
        widths = [channels * input_shape.height * input_shape.width, *fc_dims]
        self.fcs = nn.ModuleList(nn.Linear(before, after) for before, after in zip(widths, widths[1:], strict=False))
        self.fc_embed = nn.Linear(widths[-1], embedding_dim)
        self._initialize()

    def _initialize(self) -> None:
        for layer in self.convs:
            weight_init.c2_msra_fill(layer)
        for layer in self.fcs:
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
        nn.init.normal_(self.fc_embed.weight, std=0.01)
        nn.init.zeros_(self.fc_embed.bias)

    def forward(self, features: list[torch.Tensor], boxes: list[Boxes]) -> torch.Tensor:
        """Embed regions.

        Args:
            features: maps (B, C, H_l, W_l), finest first, as the pooler takes them.
            boxes: per image, xyxy pixels of the network's input; R in all.

        Returns:
            (R, D).
        """
        x = self.convs(self.pooler(features, boxes)).flatten(start_dim=1)
        for layer in self.fcs:
            x = F.relu(layer(x))
        return self.fc_embed(x)

    def sample(
        self, proposals: Sequence[Instances], targets: Sequence[Instances], *, positives_only: bool = False
    ) -> list[Instances]:
        """Draw the regions of each image that the embedding is trained on.

        Args:
            proposals: per image, with `proposal_boxes`.
            targets: per image, with `gt_boxes` and `gt_ids`; these boxes are proposals too.
            positives_only: as the regions of key frames are drawn; those of references have backgrounds as well.

        Returns:
            per image `proposal_boxes` and `gt_ids`, -1 for background.
        """
        return [
            self.sampler(found.proposal_boxes, truth, positives_only=positives_only)
            for found, truth in zip(proposals, targets, strict=True)
        ]

    def losses(
        self,
        key_embeddings: torch.Tensor,
        key_ids: Sequence[torch.Tensor],
        ref_embeddings: torch.Tensor,
        ref_ids: Sequence[torch.Tensor],
    ) -> dict[str, torch.Tensor]:
        """Compare the regions of each key frame with those of its reference frame.

        Args:
            key_embeddings: (K, D), of all images in their order.
            key_ids: per image, the identity of each region, none of them background.
            ref_embeddings: (S, D), of the reference of each image.
            ref_ids: per image, -1 for background.

        Returns:
            `loss_track`, the contrastive loss of dot products, and `loss_track_aux`, that of cosines; both averaged
            over the images. Zeros that keep the graph where no region is seen twice.
        """
        with torch.autocast(key_embeddings.device.type, enabled=False):
            keys, references = _per_image(key_embeddings, key_ids), _per_image(ref_embeddings, ref_ids)
            contrasts, cosines = [], []
            for key, reference, key_id, ref_id in zip(keys, references, key_ids, ref_ids, strict=True):
                same = (key_id[:, None] == ref_id[None]) & (ref_id != BACKGROUND)
                contrasts.append(multi_positive_loss(key @ reference.T, same))
                cosines.append(
                    cosine_loss(
                        F.normalize(key, dim=1) @ F.normalize(reference, dim=1).T,
                        same,
                        negative_margin=self.negative_margin,
                        negatives_per_positive=self.negatives_per_positive,
                    )
                )
            return {
                "loss_track": self.track_loss_weight * torch.stack(contrasts).mean(),
                "loss_track_aux": self.cosine_loss_weight * torch.stack(cosines).mean(),
            }


def _per_image(embeddings: torch.Tensor, ids: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
    """At least float32: sums over all pairs lose their digits in 16 bits."""
    return embeddings.to(torch.promote_types(embeddings.dtype, torch.float32)).split([len(x) for x in ids])


class QuasiDenseTracker(Tracker):
    """Greedy association by embeddings, as QDTrack and PCAN on BDD100K do it.

    A detection and a remembered object are compared by the mean of two softmaxes of their dot products, over the
    memory and over the detections. Detections that are no object are remembered too, as backdrops: one that looks like
    a backdrop looks less like an object. Ids start at 1; in the released code they start at 0, which BDD100K reads as
    background.

    Args:
        init_score: a detection with a higher score that matches nothing is a new object.
        obj_score: a detection with a higher score may continue an object.
        match_score: so similar, of 1, a detection and an object have to be at least.
        nms_conf: a detection with a lower score than `obj_score`, but more similar to an object than this, is nothing.
        memo_tracklet_frames: an object that has not been seen for that many frames is forgotten.
        memo_backdrop_frames: as many frames backdrops are remembered.
        memo_momentum: weight of the new embedding when an object is seen again.
        nms_class_iou: of two boxes of any class that overlap more, the one with the lower score is dropped.
        nms_backdrop_iou: the same for boxes with a score below `obj_score`; and for what becomes a backdrop.
        with_cats: an object keeps its class.
    """

    def __init__(
        self,
        *,
        init_score: float = 0.7,
        obj_score: float = 0.3,
        match_score: float = 0.5,
        nms_conf: float = 0.5,
        memo_tracklet_frames: int = 10,
        memo_backdrop_frames: int = 1,
        memo_momentum: float = 0.8,
        nms_class_iou: float = 0.7,
        nms_backdrop_iou: float = 0.3,
        with_cats: bool = True,
    ):
        self.init_score = init_score
        self.obj_score = obj_score
        self.match_score = match_score
        self.nms_conf = nms_conf
        self.memo_tracklet_frames = memo_tracklet_frames
        self.memo_backdrop_frames = memo_backdrop_frames
        self.memo_momentum = memo_momentum
        self.nms_class_iou = nms_class_iou
        self.nms_backdrop_iou = nms_backdrop_iou
        self.with_cats = with_cats
        super().__init__()

    def reset(self) -> None:
        self._frame = 0
        self._objects = 0
        self._tracks = TrackTable()
        self._backdrops: deque[Instances] = deque(maxlen=self.memo_backdrop_frames)

    @property
    def alive_ids(self) -> set[int]:
        return set(self._tracks.ids.tolist())

    def associate(self, detections: Instances) -> np.ndarray:
        boxes = detections.pred_boxes
        # Of each box the overlap with those of a higher score.
        overlaps = pairwise_iou(boxes, boxes).tril(diagonal=-1)
        limits = torch.where(detections.scores < self.obj_score, self.nms_backdrop_iou, self.nms_class_iou)
        kept = ~(overlaps > limits[:, None]).any(dim=1)
        found = detections[kept]
        alone = ~(overlaps[kept][:, kept] > self.nms_backdrop_iou).any(dim=1).cpu().numpy()
        ids = np.full(len(detections), DROP)
        ids[kept.cpu().numpy()] = self._associate_unique(found, alone)
        self._frame += 1
        return ids

    def _associate_unique(self, found: Instances, alone: np.ndarray) -> np.ndarray:
        """Ids of detections without duplicates; `alone` (N,) bool: those that overlap no better one."""
        found.embeddings = found.embeddings.float()
        scores = found.scores.cpu().numpy()
        rows, faint = self._match(found, scores)
        new = (rows < 0) & ~faint & (scores > self.init_score)
        ids = np.full(len(found), NO_TRACK)
        ids[rows >= 0] = self._tracks.ids[rows[rows >= 0]]
        ids[new] = self._objects + 1 + np.arange(new.sum())
        self._objects += int(new.sum())
        self._remember(found, rows, ids, new, (ids == NO_TRACK) & ~faint & alone)
        return ids

    def _match(self, found: Instances, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The row (N,) of the table that each detection continues, -1 for none; and which (N,) are too faint to."""
        rows, faint = np.full(len(found), -1), np.zeros(len(found), dtype=bool)
        if len(self._tracks) == 0:
            return rows, faint
        similarity = self._similarity(found).cpu().numpy()
        for index in range(len(found)):
            row = similarity[index].argmax()
            confidence = similarity[index, row]
            if confidence <= self.match_score or row >= len(self._tracks):
                continue
            if scores[index] > self.obj_score:
                rows[index] = row
                similarity[:, row] = 0
            else:
                faint[index] = confidence > self.nms_conf
        return rows, faint

    def _similarity(self, found: Instances) -> torch.Tensor:
        """(N, T + backdrops), 0 to 1; 0 where classes differ."""
        values = self._tracks.values
        memory = torch.cat([values["embeddings"], *(x.embeddings for x in self._backdrops)])
        with torch.autocast(memory.device.type, enabled=False):
            products = found.embeddings @ memory.T
        similarity = (products.softmax(dim=1) + products.softmax(dim=0)) / 2
        if self.with_cats:
            classes = torch.cat([values["classes"], *(x.pred_classes for x in self._backdrops)])
            similarity = similarity * (found.pred_classes[:, None] == classes)
        return similarity

    def _remember(
        self, found: Instances, rows: np.ndarray, ids: np.ndarray, new: np.ndarray, backdrop: np.ndarray
    ) -> None:
        """Bring the memory up to date; the last two arguments (N,) bool select detections."""
        seen = torch.from_numpy(np.flatnonzero(rows >= 0))
        rows = rows[rows >= 0]
        if len(rows):
            before = self._tracks.values["embeddings"][torch.from_numpy(rows)]
            embeddings = before.lerp(found.embeddings[seen], self.memo_momentum)
            self._tracks.update(rows, self._frame, embeddings=embeddings, classes=found.pred_classes[seen])
        if new.any():
            first = found[torch.from_numpy(np.flatnonzero(new))]
            self._tracks.append(ids[new], self._frame, embeddings=first.embeddings, classes=first.pred_classes)
        self._backdrops.appendleft(found[torch.from_numpy(np.flatnonzero(backdrop))])
        self._tracks.forget(self._frame - self._tracks.last_seen >= self.memo_tracklet_frames)
