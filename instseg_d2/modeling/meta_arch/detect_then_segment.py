"""A one-stage detector with a mask head behind it."""

from collections.abc import Sequence

import torch
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.meta_arch.dense_detector import DenseDetector
from detectron2.modeling.poolers import ROIPooler
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.structures import Boxes, ImageList, Instances, pairwise_iou
from torch import nn

from .base import AroundDetector, ground_truth, output_sizes


@torch.no_grad()
def match_regions(boxes: Boxes, truth: Instances, matcher: Matcher, limit: int) -> Instances:
    """Find the boxes of one image that show an object, and draw some of them at random.

    Args:
        boxes: (D,) candidates, xyxy pixels.
        truth: (G,) objects of the image.
        matcher: from (G, D) IoU to the index of each box's object and its label, 1 for foreground.
        limit: how many regions at most.

    Returns:
        regions with `proposal_boxes` and every field of the object that each is matched with.
    """
    matched, labels = matcher(pairwise_iou(truth.gt_boxes, boxes))
    foreground = (labels == 1).nonzero(as_tuple=True)[0]
    if len(foreground) > limit:
        foreground = foreground[torch.randperm(len(foreground), device=foreground.device)[:limit]]
    regions = truth[matched[foreground]]
    regions.proposal_boxes = boxes[foreground]
    return regions


@torch.no_grad()
def decode_detections(
    detector: DenseDetector,
    images: ImageList,
    levels: list[torch.Tensor],
    predictions: Sequence[list[torch.Tensor]],
) -> list[Instances]:
    """Decode what a detector's head predicts; leaves the predictions as they are.

    Args:
        detector: in training mode as well.
        images: the batch.
        levels: feature maps of `head_in_features`.
        predictions: of the head, each a list over the levels.

    Returns:
        detections per image, in pixels of the network's input, cut to the image; none is empty or not finite.
    """
    # detectron2's FCOS applies sigmoids in place, which the losses of the same step would not survive. Decoding in
    # 16 bits would round boxes to several pixels.
    copies = [[level.detach().to(torch.float32, copy=True) for level in kind] for kind in predictions]
    detections = []
    for found in detector.forward_inference(images, levels, copies):
        found = found[found.pred_boxes.tensor.isfinite().all(dim=1)]
        found.pred_boxes.clip(found.image_size)
        detections.append(found[found.pred_boxes.nonempty()])
    return detections


class DetectThenSegment(AroundDetector):
    """Any dense detector and any mask head, trained together.

    The mask head sees regions alone, so every head that works behind Faster R-CNN works here. In training the regions
    are the detections of the present weights and the true boxes, as far as they match an object; in inference the
    detections. Boxes are decoded to pixels and cut to the image before features are pooled.

    BCNet's release decodes training boxes without their stride: none matches, and its FCOS heads learn from true boxes
    alone. `gt_boxes_only` does the same on purpose, and saves the decoding.

    Args:
        detector: `head_in_features`, `head`, `forward_training` and `forward_inference` are used; its own thresholds
            decide how many detections there are, in training too.
        mask_in_features: names of the feature maps for the mask head.
        mask_pooler: pools features at the boxes from these maps; None hands the head the maps themselves, by name.
        mask_head: see `instseg_d2.modeling.mask_heads.base.MaskHead`; detectron2's heads work too.
        proposal_matcher: which boxes show an object, by IoU; BCNet's release asks for 0.5.
        regions_per_image: at most that many regions of an image train the mask head; more are drawn from at random.
        gt_boxes_only: train the mask head on true boxes alone.
        input_format: meaning of the image channels, "BGR" or "RGB".
    """

    def __init__(
        self,
        *,
        detector: DenseDetector,
        mask_in_features: Sequence[str],
        mask_pooler: ROIPooler | None,
        mask_head: nn.Module,
        proposal_matcher: Matcher,
        regions_per_image: int = 128,
        gt_boxes_only: bool = False,
        input_format: str = "BGR",
    ):
        super().__init__(detector=detector, input_format=input_format)
        self.mask_in_features = list(mask_in_features)
        self.mask_pooler = mask_pooler
        self.mask_head = mask_head
        self.proposal_matcher = proposal_matcher
        self.regions_per_image = regions_per_image
        self.gt_boxes_only = gt_boxes_only

    def forward(self, batched_inputs: list[dict]) -> dict[str, torch.Tensor] | list[dict[str, Instances]]:
        """Compute losses (training) or predictions (inference).

        Args:
            batched_inputs: one dict per image: `image` (C, H, W); in training `instances`, the ground truth; in
                inference optionally `height` and `width`, the size of the output.

        Returns:
            in training the losses of detector and mask head by name; in inference per image `{"instances": ...}` with
            `pred_boxes`, `scores`, `pred_classes` and `pred_masks` (N, height, width) bool.
        """
        if not self.training:
            return self.inference(batched_inputs)
        images = self.preprocess_image(batched_inputs)
        truth = ground_truth(batched_inputs, self.device)
        features = self.backbone(images.tensor)
        levels = [features[name] for name in self.detector.head_in_features]
        predictions = self.detector.head(levels)
        losses = self.detector.forward_training(images, levels, predictions, truth)
        regions = self.sample_regions(self._candidates(images, levels, predictions), truth)
        return {**losses, **self._segment(features, regions, [x.proposal_boxes for x in regions])}

    def inference(
        self,
        batched_inputs: list[dict],
        detected_instances: list[Instances] | None = None,
        do_postprocess: bool = True,
    ) -> list[dict[str, Instances]] | list[Instances]:
        """Detect and segment, or segment given boxes.

        Args:
            batched_inputs: see `forward`.
            detected_instances: per image, with `pred_boxes` and `pred_classes`, in pixels of the network's input;
                nothing is detected then.
            do_postprocess: rescale boxes and masks to the size of the output.

        Returns:
            as `forward`; without postprocessing the instances per image, in pixels of the network's input, with
            `pred_masks` (N, 1, M, M) probabilities relative to the box.
        """
        assert not self.training, "inference() needs eval mode."
        images = self.preprocess_image(batched_inputs)
        features = self.backbone(images.tensor)
        if detected_instances is None:
            levels = [features[name] for name in self.detector.head_in_features]
            instances = self.detect(images, levels, self.detector.head(levels))
        else:
            instances = [x.to(self.device) for x in detected_instances]
        instances = self._segment(features, instances, [x.pred_boxes for x in instances])
        if not do_postprocess:
            return instances
        return [
            {"instances": detector_postprocess(x, *size)}
            for x, size in zip(instances, output_sizes(batched_inputs, images), strict=True)
        ]

    def detect(
        self, images: ImageList, levels: list[torch.Tensor], predictions: Sequence[list[torch.Tensor]]
    ) -> list[Instances]:
        """Decode what the detector's head predicts, see `decode_detections`."""
        return decode_detections(self.detector, images, levels, predictions)

    def _candidates(self, images: ImageList, levels: list[torch.Tensor], predictions: Sequence) -> list[Boxes]:
        """Boxes, per image, that may become regions beside the true ones."""
        if self.gt_boxes_only:
            return [Boxes(levels[0].new_zeros(0, 4, dtype=torch.float32)) for _ in images.image_sizes]
        return [found.pred_boxes for found in self.detect(images, levels, predictions)]

    def sample_regions(self, candidates: list[Boxes], truth: list[Instances]) -> list[Instances]:
        """Choose what the mask head is trained on.

        Args:
            candidates: per image, detected boxes.
            truth: per image, the ground truth, whose boxes are candidates too.

        Returns:
            see `match_regions`.
        """
        return [
            match_regions(Boxes.cat([boxes, x.gt_boxes]), x, self.proposal_matcher, self.regions_per_image)
            for boxes, x in zip(candidates, truth, strict=True)
        ]

    def _segment(self, features: dict[str, torch.Tensor], instances: list[Instances], boxes: list[Boxes]):
        """Run the mask head on the instances of all images, pooling at their boxes if there is a pooler."""
        chosen = {name: features[name] for name in self.mask_in_features}
        x = chosen if self.mask_pooler is None else self.mask_pooler(list(chosen.values()), boxes)
        return self.mask_head(x, instances)
