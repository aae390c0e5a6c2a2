"""CondInst (arXiv:2003.05664): FCOS whose every detection brings the weights of a network that draws its mask.

Which supervision trains the masks is one argument: `MaskDiceLoss` for masks, `BoxInstLoss` for boxes alone.
"""

from collections.abc import Sequence

import torch
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.structures import ImageList, Instances

from instseg_d2.layers.mask_scaling import enlarge_masks
from instseg_d2.layers.upsample import aligned_bilinear

from ..base import AroundDetector, ground_truth, output_sizes
from ..fcos.model import FCOS
from ..instance_locations import best_rows, place_boxes, random_rows
from .branch import MaskBranch, SemanticHead, semantic_labels
from .head import DynamicMaskHead
from .losses import MaskStep, MaskSupervision

# What detections carry on their way to a mask, and shed with it.
_WORKING_FIELDS = ("locations", "fpn_levels", "extra", "mask_probabilities")


class CondInst(AroundDetector):
    """FCOS with mask branch, dynamic mask head and a supervision of masks.

    In training the detector's positives are thinned out (`choose`), their masks drawn (`mask_logits`), and all that
    the losses need goes as a `MaskStep` through `mask_losses` to the supervision. A model that adds a teacher or
    pseudo masks overrides `mask_losses`.

    Args:
        detector: with `keep_locations`, and a `Controller` as `extra` of its head.
        mask_branch: gives the features that all masks are made from.
        mask_head: makes the masks.
        supervision: the losses of the masks.
        semantic_head: also learn classes of pixels, which helps the features; None to leave that out.
        max_positives: at most that many positives of the batch learn masks, drawn at random (CondInst: 500).
        positives_per_image: at most that many of each image, shared among its objects, the best of each (BoxInst: 64).
        mask_threshold: probability from which a pixel belongs to a predicted mask.
        input_format: meaning of the image channels, "BGR" or "RGB".

    Raises:
        ValueError: the parts do not fit, or both limits of positives are given.
    """

    def __init__(
        self,
        *,
        detector: FCOS,
        mask_branch: MaskBranch,
        mask_head: DynamicMaskHead,
        supervision: MaskSupervision,
        semantic_head: SemanticHead | None = None,
        max_positives: int | None = None,
        positives_per_image: int | None = None,
        mask_threshold: float = 0.5,
        input_format: str = "BGR",
    ):
        super().__init__(detector=detector, input_format=input_format)
        if not detector.keep_locations or detector.head.extra is None:
            raise ValueError("CondInst needs a detector with keep_locations=True and a Controller as head.extra")
        if max_positives is not None and positives_per_image is not None:
            raise ValueError("max_positives and positives_per_image exclude each other; set one of them to null")
        self.mask_branch = mask_branch
        self.mask_head = mask_head
        self.supervision = supervision
        self.semantic_head = semantic_head
        self.max_positives = max_positives
        self.positives_per_image = positives_per_image
        self.mask_threshold = mask_threshold

    def forward(self, batched_inputs: list[dict]) -> dict[str, torch.Tensor] | list[dict[str, Instances]]:
        """Compute losses (training) or predictions (inference).

        Args:
            batched_inputs: one dict per image: `image` (C, H, W); in training `instances`, the ground truth, with
                `gt_masks` if the supervision looks at masks; in inference optionally `height` and `width`, the size
                of the output (in training the supervision may ask for the original `height`).

        Returns:
            in training the losses of the detector, of the masks and of the semantic head by name; in inference per
            image `{"instances": ...}` with `pred_boxes`, `scores`, `pred_classes` and `pred_masks` (D, height, width)
            bool.
        """
        if not self.training:
            return self.inference(batched_inputs)
        losses, step = self.training_pass(batched_inputs)
        return {**losses, **self.mask_losses(step), **self._semantic_losses(step.features, step.images, step.truth)}

    def training_pass(
        self, batched_inputs: list[dict], *, masks_of: str | None = None
    ) -> tuple[dict[str, torch.Tensor], MaskStep]:
        """Send a batch through the model: the losses of the detector, and what those of the masks are made from.

        Args:
            batched_inputs: see `forward`.
            masks_of: None, or a field of the ground truth, (M,) bool: the masks of these objects alone are drawn, for
                less than half the cost of the head; there are no losses of the detector then.
        """
        images = self.preprocess_image(batched_inputs)
        truth = ground_truth(batched_inputs, self.device)
        features = self.backbone(images.tensor)
        levels = [features[name] for name in self.detector.head_in_features]
        predictions = self.detector.head(levels, classify=masks_of is None)
        targets = self.detector.assign(self.detector.anchor_generator(levels), truth)
        losses = self.detector.detection_losses(predictions, targets) if masks_of is None else {}
        positives = self.detector.positives(predictions, targets)
        rows = [chosen.to(self.device) for chosen in self.choose(positives)]
        if masks_of is not None:
            asked = [x.get(masks_of)[found.gt_inds] for x, found in zip(truth, positives, strict=True)]
            rows = [chosen[mask[chosen]] for chosen, mask in zip(rows, asked, strict=True)]
        positives = [x[chosen] for x, chosen in zip(positives, rows, strict=True)]
        mask_features = self.mask_branch(features)
        step = MaskStep(
            inputs=batched_inputs,
            images=images,
            truth=truth,
            positives=positives,
            mask_features=mask_features,
            logits=self.mask_logits(images, mask_features, positives),
            features=features,
            targets=targets,
            rows=rows,
        )
        return losses, step

    def choose(self, positives: Sequence[Instances]) -> list[torch.Tensor]:
        """Choose the positives that learn masks, as `max_positives` or `positives_per_image` say.

        Args:
            positives: per image, see `FCOS.positives`.

        Returns:
            per image the rows (K_i,) int64, in ascending order. A second network, such as a teacher, gives its own
            vectors for the same locations: `detector.positives(its_predictions, targets)[i][rows]`.
        """
        if self.positives_per_image is not None:
            return [best_rows(x, self.positives_per_image) for x in positives]
        everything = sum(len(x) for x in positives)
        return random_rows(positives, everything if self.max_positives is None else self.max_positives)

    def mask_logits(
        self, images: ImageList, mask_features: torch.Tensor, instances: Sequence[Instances]
    ) -> torch.Tensor:
        """Masks (K, H, W) of the instances of all images, float32 logits; see `DynamicMaskHead`."""
        return self.mask_head(mask_features, instances, images.tensor.shape[-1] // mask_features.shape[-1])

    def mask_losses(self, step: MaskStep) -> dict[str, torch.Tensor]:
        """The losses of the masks, by the supervision."""
        return self.supervision(step)

    def _semantic_losses(
        self, features: dict[str, torch.Tensor], images: ImageList, truth: list[Instances]
    ) -> dict[str, torch.Tensor]:
        if self.semantic_head is None:
            return {}
        logits = self.semantic_head(features)
        size, stride = tuple(logits.shape[2:]), images.tensor.shape[-1] // logits.shape[-1]
        labels = [
            semantic_labels(
                self.supervision.object_maps(x, size, stride),
                self.supervision.object_areas(x),
                x.gt_classes,
                self.semantic_head.num_classes,
            )
            for x in truth
        ]
        return self.semantic_head.losses(logits, torch.stack(labels))

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
                nothing is detected then, and `place_boxes` says whose weights draw the mask. Masks are not cut at
                these boxes.
            do_postprocess: rescale boxes and masks to the size of the output.

        Returns:
            as `forward`; without postprocessing the instances per image, in pixels of the network's input, with
            `mask_probabilities` (D, H, W), on a grid of the padded batch, and `locations`, `fpn_levels`, `extra`.
        """
        assert not self.training, "inference() needs eval mode."
        images = self.preprocess_image(batched_inputs)
        features = self.backbone(images.tensor)
        levels = [features[name] for name in self.detector.head_in_features]
        instances = self._locate(images, levels, detected_instances)
        masks = self.mask_logits(images, self.mask_branch(features), instances).sigmoid()
        for x, part in zip(instances, masks.split([len(x) for x in instances]), strict=True):
            x.mask_probabilities = part
        if not do_postprocess:
            return instances
        factor = images.tensor.shape[-1] // masks.shape[-1]
        return [
            {"instances": self.postprocess(x, factor, size)}
            for x, size in zip(instances, output_sizes(batched_inputs, images), strict=True)
        ]

    def _locate(
        self, images: ImageList, levels: list[torch.Tensor], detected: list[Instances] | None
    ) -> list[Instances]:
        """Detections per image, or given boxes, with what the mask head needs of their locations."""
        predictions = self.detector.head(levels)
        if detected is None:
            found = self.detector.forward_inference(images, levels, predictions)
            return [x[x.pred_boxes.tensor.isfinite().all(dim=1)] for x in found]
        anchors = self.detector.anchor_generator(levels)
        return [place_boxes(x.to(self.device), anchors, predictions[3], i) for i, x in enumerate(detected)]

    def postprocess(self, instances: Instances, factor: int, output_size: tuple[int, int]) -> Instances:
        """Rescale the boxes and masks of an image.

        Args:
            instances: detections, in pixels of the network's input, with `mask_probabilities`.
            factor: how much larger the padded batch is than the maps.
            output_size: (height, width).

        Returns:
            those whose box is not empty in the output, with `pred_masks` (D, *output_size) bool.
        """
        image_size = instances.image_size
        result = detector_postprocess(instances, *output_size)
        result.pred_masks = enlarge_masks(
            result.mask_probabilities,
            stride=factor,
            image_size=image_size,
            output_size=output_size,
            threshold=self.mask_threshold,
            upsample=aligned_bilinear,
        )
        for name in _WORKING_FIELDS:
            result.remove(name)
        return result
