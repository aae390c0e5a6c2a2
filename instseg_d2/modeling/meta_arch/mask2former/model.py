"""Mask2Former (arXiv:2112.01527): learned queries become classes and masks, without boxes or locations.

Which supervision trains the masks is one argument: `PointMaskLoss` for masks, `BoxLoss` for boxes alone.
"""

from collections.abc import Sequence

import torch
from detectron2.modeling import Backbone
from detectron2.structures import ImageList, Instances
from torch import nn

from ..base import ground_truth, output_sizes
from .criterion import QueryStep, QuerySupervision
from .decoding import assign_boxes, best_pairs, finish, unfinished
from .matcher import BoxMatcher
from .pixel_decoder import DeformablePixelDecoder, PixelFeatures
from .transformer_decoder import MaskedTransformerDecoder


class Mask2Former(nn.Module):
    """Backbone, pixel decoder, transformer decoder, and a supervision of what the queries predict.

    In training all that the losses need goes as a `QueryStep` through `query_losses` to the supervision. A model that
    adds a teacher or pseudo masks overrides `query_losses`, and takes the embeddings of pixels from the step's
    `mask_features`, or from `pixel_features` of other images.

    Args:
        backbone: gives the levels of the pixel decoder.
        pixel_decoder: makes the features.
        decoder: makes the predictions.
        supervision: the losses.
        num_classes: K, as of the decoder.
        pixel_mean: of each image channel.
        pixel_std: of each image channel.
        input_format: meaning of the image channels, "RGB" or "BGR".
        size_divisibility: batches are padded to multiples of it, the stride of the coarsest level.
        max_detections: the best pairs of query and class that are kept in an image.
        box_matcher: which queries segment given boxes; `BoxMatcher()` if None.
    """

    def __init__(
        self,
        *,
        backbone: Backbone,
        pixel_decoder: DeformablePixelDecoder,
        decoder: MaskedTransformerDecoder,
        supervision: QuerySupervision,
        num_classes: int,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        input_format: str = "RGB",
        size_divisibility: int = 32,
        max_detections: int = 100,
        box_matcher: BoxMatcher | None = None,
    ):
        super().__init__()
        self.backbone = backbone
        self.pixel_decoder = pixel_decoder
        self.decoder = decoder
        self.supervision = supervision
        self.num_classes = num_classes
        self.input_format = input_format
        self.size_divisibility = size_divisibility
        self.max_detections = max_detections
        self.box_matcher = box_matcher or BoxMatcher()
        self.register_buffer("pixel_mean", torch.tensor(list(pixel_mean)).view(-1, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(list(pixel_std)).view(-1, 1, 1), persistent=False)

    @property
    def device(self) -> torch.device:
        """Where the model is; inputs are moved there."""
        return self.pixel_mean.device

    def preprocess_image(self, batched_inputs: Sequence[dict]) -> ImageList:
        """Normalize the images and pad them into one batch, on the model's device."""
        images = [(item["image"].to(self.device) - self.pixel_mean) / self.pixel_std for item in batched_inputs]
        return ImageList.from_tensors(images, self.size_divisibility)

    def pixel_features(self, images: ImageList) -> PixelFeatures:
        """The features of a batch; `masks` are the embeddings of its pixels (N, D, H/4, W/4)."""
        return self.pixel_decoder(self.backbone(images.tensor))

    def forward(self, batched_inputs: list[dict]) -> dict[str, torch.Tensor] | list[dict[str, Instances]]:
        """Compute losses (training) or predictions (inference).

        Args:
            batched_inputs: one dict per image: `image` (C, H, W); in training `instances`, the ground truth, with
                `gt_masks` if the supervision looks at masks; in inference optionally `height` and `width`, the size
                of the output (in training the supervision may ask for the original `height`, and for `image_box`).

        Returns:
            in training the losses by name, see `QuerySupervision`; in inference per image `{"instances": ...}` with
            `pred_boxes`, tight around the masks, `scores`, `pred_classes` and `pred_masks` (R, height, width) bool,
            best first.
        """
        if not self.training:
            return self.inference(batched_inputs)
        return self.query_losses(self.training_pass(batched_inputs))

    def training_pass(self, batched_inputs: list[dict]) -> QueryStep:
        """Send a batch through the model: what the losses are made from."""
        images = self.preprocess_image(batched_inputs)
        features = self.pixel_features(images)
        return QueryStep(
            inputs=batched_inputs,
            images=images,
            truth=ground_truth(batched_inputs, self.device),
            mask_features=features.masks,
            outputs=self.decoder(features),
        )

    def query_losses(self, step: QueryStep) -> dict[str, torch.Tensor]:
        """The losses, by the supervision."""
        return self.supervision(step)

    @torch.no_grad()
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
                nothing is detected then. A box gets the mask of the query that `box_matcher` gives it, each query at
                most once unless there are more boxes than queries; masks are not cut at the boxes. The instances keep
                their number, order and boxes.
            do_postprocess: bring masks to the size of the output.

        Returns:
            as `forward`; without postprocessing the instances per image, in pixels of the network's input, with
            `pred_masks` (R, h, w), probabilities on the grid of the mask features over the padded batch.
        """
        assert not self.training, "inference() needs eval mode."
        images = self.preprocess_image(batched_inputs)
        (output,) = self.decoder(self.pixel_features(images), last_only=True)
        padded = tuple(images.tensor.shape[-2:])
        given = detected_instances is not None
        if given:
            instances = [
                assign_boxes(classes, masks, x.to(self.device), padded, self.box_matcher)
                for classes, masks, x in zip(*output, detected_instances, strict=True)
            ]
        else:
            instances = [
                best_pairs(classes, masks, size, self.max_detections)
                for classes, masks, size in zip(*output, images.image_sizes, strict=True)
            ]
        if not do_postprocess:
            return [unfinished(x, padded_size=padded, keep_boxes=given) for x in instances]
        sizes = output_sizes(batched_inputs, images)
        return [
            {"instances": finish(x, padded_size=padded, output_size=size, keep_boxes=given)}
            for x, size in zip(instances, sizes, strict=True)
        ]
