"""FCOS with masks that tracks: the base of PCAN on YouTube-VIS."""

from collections.abc import Sequence

import torch
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.poolers import ROIPooler
from detectron2.structures import Boxes, ImageList, Instances
from torch import nn

from instseg_d2.layers.mask_losses import pick_channel
from instseg_d2.modeling.mask_heads.base import by_name
from instseg_d2.modeling.meta_arch.base import ground_truth
from instseg_d2.modeling.meta_arch.detect_then_segment import decode_detections, match_regions
from instseg_d2.modeling.meta_arch.fcos.model import FCOS
from instseg_d2.modeling.tracking.center_embedding import CenterEmbeddingHead

from .base import OnlineVideoModel
from .pairs import identities, reference_frames

# Where the map of embeddings lies among the feature maps once it is known, so that it is computed once a frame.
_EMBEDDINGS = "track_embeddings"


class TrackingFCOS(OnlineVideoModel):
    """FCOS, any mask head behind it, and embeddings at the centers of objects.

    Detector and masks are those of `DetectThenSegment`, whose checkpoints load; tracking is that of SipMask-VIS
    (arXiv:2007.14772), which is the base of PCAN on YouTube-VIS. SipMask's own masks and its aligned features are not
    here: PCAN's instance level needs a mask for each region.

    In training a key frame has the losses of detector and mask head; with the last of its references, those of the
    embeddings and of the instance attention. The earlier references are for the frame attention alone. As in SipMask,
    all of them learn at the detector's positive locations, from the boxes predicted there: the thresholds of a video's
    few detections do not touch the training. The mask head sees the true boxes as well.

    Args:
        detector: any that tells its positive locations.
        mask_in_features: names of the feature maps for mask head and instance attention.
        mask_pooler: pools features at the boxes from these maps; None hands the head the maps themselves, by name.
        mask_head: see `instseg_d2.modeling.mask_heads.base.MaskHead`.
        proposal_matcher: which boxes show an object, by IoU, so that masks are learned from them.
        track_head: makes the map of embeddings.
        track_in_features: names of the feature maps for it, finest first.
        regions_per_image: at most that many regions of an image train mask head and instance attention.
        instance_pooler: for the instance attention; None takes the mask head's.
        input_format: meaning of the image channels, "BGR" or "RGB".
        kwargs: for `OnlineVideoModel`: `tracker`, `frame_attention`, `instance_attention`, `pair_threshold`.

    Raises:
        ValueError: an instance attention without a pooler.
    """

    def __init__(
        self,
        *,
        detector: FCOS,
        mask_in_features: Sequence[str],
        mask_pooler: ROIPooler | None,
        mask_head: nn.Module,
        proposal_matcher: Matcher,
        track_head: CenterEmbeddingHead,
        track_in_features: Sequence[str],
        regions_per_image: int = 128,
        instance_pooler: ROIPooler | None = None,
        input_format: str = "BGR",
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.detector = detector
        self.mask_in_features = list(mask_in_features)
        self.mask_pooler = mask_pooler
        self.mask_head = mask_head
        self.proposal_matcher = proposal_matcher
        self.track_head = track_head
        self.track_in_features = list(track_in_features)
        self.regions_per_image = regions_per_image
        self.instance_pooler = mask_pooler if instance_pooler is None else instance_pooler
        self.input_format = input_format
        if self.instance_attention is not None and self.instance_pooler is None:
            raise ValueError("an instance attention needs a mask_pooler or an instance_pooler")

    @property
    def device(self) -> torch.device:
        """See `OnlineVideoModel`."""
        return self.detector.device

    @property
    def backbone(self) -> nn.Module:
        """The detector's backbone, which all parts share."""
        return self.detector.backbone

    def preprocess_image(self, batched_inputs: list[dict]) -> ImageList:
        """See `OnlineVideoModel`."""
        return self.detector.preprocess_image(batched_inputs)

    def extract(self, images: ImageList) -> dict[str, torch.Tensor]:
        """See `OnlineVideoModel`."""
        return self.backbone(images.tensor)

    def detect(self, images: ImageList, features: dict[str, torch.Tensor]) -> list[Instances]:
        """See `OnlineVideoModel`."""
        levels = self._detection_levels(features)
        return decode_detections(self.detector, images, levels, self.detector.head(levels))

    def segment(self, features: dict[str, torch.Tensor], instances: list[Instances]) -> list[Instances]:
        """See `OnlineVideoModel`."""
        return self.mask_head(self._mask_features(features, [x.pred_boxes for x in instances]), instances)

    def embed(self, features: dict[str, torch.Tensor], boxes: list[Boxes]) -> torch.Tensor:
        """See `OnlineVideoModel`."""
        return self.track_head.lookup(self._with_embeddings(features)[_EMBEDDINGS], boxes)

    def pool(self, features: dict[str, torch.Tensor], boxes: list[Boxes]) -> torch.Tensor:
        """See `OnlineVideoModel`."""
        return self.instance_pooler([features[name] for name in self.mask_in_features], boxes)

    @torch.no_grad()
    def first_masks(self, features: dict[str, torch.Tensor], regions: list[Instances]) -> torch.Tensor:
        """See `OnlineVideoModel`; constants for the gradient, as these masks have a loss of their own."""
        x = self._mask_features(features, [region.proposal_boxes for region in regions])
        _, logits = self.mask_head.layers(x, regions)
        return pick_channel(by_name(logits)["masks"], torch.cat([region.gt_classes for region in regions]))[:, None]

    def losses(self, batched_inputs: list[dict]) -> dict[str, torch.Tensor]:
        """See `OnlineVideoModel`: losses of detector and mask head, `loss_track` and `loss_refine`."""
        places = reference_frames(batched_inputs, self.num_references)
        truth, reference_truth = (ground_truth(frames, self.device) for frames in (batched_inputs, places[-1]))
        _, _, features, references = self.extract_all(batched_inputs, places)
        features, references = self._with_embeddings(features), self._with_embeddings(references)
        predictions, targets = self._predict(features, truth)
        positives = self.detector.positives(predictions, targets)
        regions = self._regions(positives, truth)
        x = self._mask_features(features, [x.proposal_boxes for x in regions])
        losses = {**self.detector.detection_losses(predictions, targets), **self.mask_head(x, regions)}
        losses.update(self._track_losses(features, positives, truth, references, reference_truth))
        if self.instance_attention is not None:
            with torch.no_grad():
                reference_positives = self.detector.positives(*self._predict(references, reference_truth))
            reference_regions = self._regions(reference_positives, reference_truth)
            losses.update(self.refinement_losses(features, regions, references, reference_regions))
        return losses

    def _predict(self, features: dict[str, torch.Tensor], truth: list[Instances]):
        """What the detector's head says, and what it should say."""
        levels = self._detection_levels(features)
        return self.detector.head(levels), self.detector.assign(self.detector.anchor_generator(levels), truth)

    def _with_embeddings(self, features: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The feature maps and, computed unless it is there, the map of embeddings (B, E, H, W)."""
        if _EMBEDDINGS in features:
            return features
        return {**features, _EMBEDDINGS: self.track_head([features[name] for name in self.track_in_features])}

    def _detection_levels(self, features: dict[str, torch.Tensor]) -> list[torch.Tensor]:
        return [features[name] for name in self.detector.head_in_features]

    def _mask_features(self, features: dict[str, torch.Tensor], boxes: list[Boxes]):
        """What the mask head takes: pooled features, or the maps by name if it has no pooler."""
        chosen = {name: features[name] for name in self.mask_in_features}
        return chosen if self.mask_pooler is None else self.mask_pooler(list(chosen.values()), boxes)

    @torch.no_grad()
    def _regions(self, positives: list[Instances], truth: list[Instances]) -> list[Instances]:
        """The boxes of positive locations and the true ones that show an object, with its ground truth."""
        regions = []
        for found, x in zip(positives, truth, strict=True):
            boxes = found.pred_boxes[found.pred_boxes.tensor.isfinite().all(dim=1)].clone()
            boxes.clip(x.image_size)
            boxes = Boxes.cat([boxes[boxes.nonempty()], x.gt_boxes])
            regions.append(match_regions(boxes, x, self.proposal_matcher, self.regions_per_image))
        return regions

    def _track_losses(
        self,
        features: dict[str, torch.Tensor],
        positives: list[Instances],
        truth: list[Instances],
        reference_features: dict[str, torch.Tensor],
        reference_truth: list[Instances],
    ) -> dict[str, torch.Tensor]:
        """Losses of the embeddings: positive locations of the key frames against objects of their references."""
        for found, x in zip(positives, truth, strict=True):
            found.gt_ids = identities(x).to(self.device)[found.gt_inds]
        objects = [
            Instances(x.image_size, gt_boxes=x.gt_boxes, gt_ids=identities(x).to(self.device)) for x in reference_truth
        ]
        return self.track_head.losses(features[_EMBEDDINGS], positives, reference_features[_EMBEDDINGS], objects)
