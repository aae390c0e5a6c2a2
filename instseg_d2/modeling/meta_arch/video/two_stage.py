"""Faster or Mask R-CNN that tracks: the base of PCAN on BDD100K."""

from collections.abc import Sequence

import torch
from detectron2.modeling.backbone import Backbone
from detectron2.modeling.poolers import ROIPooler
from detectron2.modeling.roi_heads import StandardROIHeads, select_foreground_proposals
from detectron2.structures import Boxes, ImageList, Instances
from torch import nn

from instseg_d2.layers.mask_losses import pick_channel
from instseg_d2.modeling.mask_heads.base import by_name
from instseg_d2.modeling.meta_arch.base import ground_truth

from .base import OnlineVideoModel
from .pairs import reference_frames


class TrackingRCNN(OnlineVideoModel):
    """An R-CNN with an embedding head and a tracker, and with PCAN's attentions if they are given.

    Names of backbone, proposals and region heads are those of detectron2's `GeneralizedRCNN`, whose checkpoints load.
    Parts are frozen by `train.freeze`; losses of frozen parts are still reported. Without a mask head in `roi_heads`
    boxes are tracked, and learned from data that has no masks.

    In training a key frame has the losses of the R-CNN; with the last of its references, those of embedding head and
    instance attention. The earlier references are for the frame attention alone.

    Args:
        backbone: feature pyramid.
        proposal_generator: detectron2's RPN.
        roi_heads: detectron2's; its mask head, if it has one, is as `instseg_d2.modeling.mask_heads.base.MaskHead`.
        track_head: from feature maps and boxes to embeddings, such as
            `instseg_d2.modeling.tracking.quasi_dense.QuasiDenseHead`.
        track_in_features: the levels that it pools from.
        pixel_mean: per channel.
        pixel_std: per channel.
        input_format: meaning of the image channels, "BGR" or "RGB".
        instance_pooler: for the instance attention; None takes the mask head's pooler, and its features.
        kwargs: for `OnlineVideoModel`: `tracker`, `frame_attention`, `instance_attention`, `pair_threshold`,
            `num_references`.

    Raises:
        ValueError: an instance attention without a mask head, or without a pooler.
    """

    def __init__(
        self,
        *,
        backbone: Backbone,
        proposal_generator: nn.Module,
        roi_heads: StandardROIHeads,
        track_head: nn.Module,
        track_in_features: Sequence[str],
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        input_format: str = "BGR",
        instance_pooler: ROIPooler | None = None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.backbone = backbone
        self.proposal_generator = proposal_generator
        self.roi_heads = roi_heads
        self.track_head = track_head
        self.track_in_features = list(track_in_features)
        self.input_format = input_format
        self.instance_pooler = instance_pooler
        self.register_buffer("pixel_mean", torch.tensor(list(pixel_mean)).view(-1, 1, 1), False)
        self.register_buffer("pixel_std", torch.tensor(list(pixel_std)).view(-1, 1, 1), False)
        if self.instance_attention is None:
            return
        if not roi_heads.mask_on or (instance_pooler is None and roi_heads.mask_pooler is None):
            raise ValueError("instance_attention needs a mask head in roi_heads, and a mask_pooler or instance_pooler")

    @property
    def device(self) -> torch.device:
        """See `OnlineVideoModel`."""
        return self.pixel_mean.device

    def preprocess_image(self, batched_inputs: list[dict]) -> ImageList:
        """See `OnlineVideoModel`."""
        images = [(item["image"].to(self.device) - self.pixel_mean) / self.pixel_std for item in batched_inputs]
        return ImageList.from_tensors(
            images, self.backbone.size_divisibility, padding_constraints=self.backbone.padding_constraints
        )

    def extract(self, images: ImageList) -> dict[str, torch.Tensor]:
        """See `OnlineVideoModel`."""
        return self.backbone(images.tensor)

    def detect(self, images: ImageList, features: dict[str, torch.Tensor]) -> list[Instances]:
        """See `OnlineVideoModel`; with `pred_masks` already."""
        proposals, _ = self.proposal_generator(images, features, None)
        return self.roi_heads(images, features, proposals)[0]

    def segment(self, features: dict[str, torch.Tensor], instances: list[Instances]) -> list[Instances]:
        """See `OnlineVideoModel`."""
        if instances[0].has("pred_masks"):
            return instances
        return self.roi_heads.forward_with_given_boxes(features, instances)

    def embed(self, features: dict[str, torch.Tensor], boxes: list[Boxes]) -> torch.Tensor:
        """See `OnlineVideoModel`."""
        return self.track_head([features[name] for name in self.track_in_features], boxes)

    def pool(self, features: dict[str, torch.Tensor], boxes: list[Boxes]) -> torch.Tensor:
        """See `OnlineVideoModel`."""
        pooler = self.roi_heads.mask_pooler if self.instance_pooler is None else self.instance_pooler
        return pooler([features[name] for name in self.roi_heads.mask_in_features], boxes)

    @torch.no_grad()
    def first_masks(self, features: dict[str, torch.Tensor], regions: list[Instances]) -> torch.Tensor:
        """See `OnlineVideoModel`; constants for the gradient, as these masks have a loss of their own."""
        heads = self.roi_heads
        x = {name: features[name] for name in heads.mask_in_features}
        if heads.mask_pooler is not None:
            x = heads.mask_pooler(list(x.values()), [region.proposal_boxes for region in regions])
        _, logits = heads.mask_head.layers(x, regions)
        return pick_channel(by_name(logits)["masks"], torch.cat([region.gt_classes for region in regions]))[:, None]

    def losses(self, batched_inputs: list[dict]) -> dict[str, torch.Tensor]:
        """See `OnlineVideoModel`: losses of RPN, region heads, embedding head, and `loss_refine`."""
        places = reference_frames(batched_inputs, self.num_references)
        key_images, images, features, references = self.extract_all(batched_inputs, places)
        truth = ground_truth(batched_inputs, self.device)
        reference_truth = ground_truth(places[-1], self.device)
        proposals, losses = self.proposal_generator(key_images, features, truth)
        regions, region_losses = self.roi_heads(key_images, features, proposals, truth)
        losses = {**losses, **region_losses}
        reference_proposals = self._proposals(images, references)
        losses.update(self._track_losses(features, proposals, truth, references, reference_proposals, reference_truth))
        if self.instance_attention is not None:
            reference_regions = self.roi_heads.label_and_sample_proposals(reference_proposals, reference_truth)
            classes = self.roi_heads.num_classes
            shown, _ = select_foreground_proposals(regions, classes)
            reference_shown, _ = select_foreground_proposals(reference_regions, classes)
            losses.update(self.refinement_losses(features, shown, references, reference_shown))
        return losses

    @torch.no_grad()
    def _proposals(self, images: ImageList, features: dict[str, torch.Tensor]) -> list[Instances]:
        """Proposals of references, as in inference; their objects have no loss in the RPN."""
        self.proposal_generator.eval()
        try:
            return self.proposal_generator(images, features, None)[0]
        finally:
            self.proposal_generator.train()

    def _track_losses(
        self,
        features: dict[str, torch.Tensor],
        proposals: list[Instances],
        truth: list[Instances],
        reference_features: dict[str, torch.Tensor],
        reference_proposals: list[Instances],
        reference_truth: list[Instances],
    ) -> dict[str, torch.Tensor]:
        """Losses of the embedding head: positives of the key frames against regions of their references."""
        regions = self.track_head.sample(proposals, truth, positives_only=True)
        others = self.track_head.sample(reference_proposals, reference_truth)
        return self.track_head.losses(
            self.embed(features, [x.proposal_boxes for x in regions]),
            [x.gt_ids for x in regions],
            self.embed(reference_features, [x.proposal_boxes for x in others]),
            [x.gt_ids for x in others],
        )
