"""Two-stage detectors: proposals from the whole image, then heads on each proposed region."""

import logging

import torch
from torch import nn

from detectron2.config import configurable
from detectron2.structures import Instances
from detectron2.utils.events import get_event_storage
from detectron2.utils.logger import log_first_n

from ..backbone import Backbone, build_backbone
from ..proposal_generator import build_proposal_generator
from ..roi_heads import build_roi_heads
from .build import META_ARCH_REGISTRY
from .image_model import MAX_DRAWN_BOXES, ImageModel, put_box_comparison, resize_outputs

__all__ = ["GeneralizedRCNN", "ProposalNetwork"]


@META_ARCH_REGISTRY.register()
class GeneralizedRCNN(ImageModel):
    """Backbone, proposal generator and RoI heads: Faster, Mask and Cascade R-CNN, and their kin."""

    @configurable
    def __init__(
        self,
        *,
        backbone: Backbone,
        proposal_generator: nn.Module,
        roi_heads: nn.Module,
        pixel_mean: tuple[float],
        pixel_std: tuple[float],
        input_format: str | None = None,
        vis_period: int = 0,
    ):
        """Args:
        backbone: maps an image batch to named feature maps.
        proposal_generator: makes proposals from them; None: each input brings its "proposals".
        roi_heads: makes detections from features and proposals.
        pixel_mean: per channel, in the channel order of the input.
        pixel_std: per channel.
        input_format: meaning of the channels, e.g. "BGR"; only pictures need it.
        vis_period: every how many iterations a picture is put into the event storage; 0: never.
        """
        super().__init__()
        assert vis_period == 0 or input_format is not None, "Pictures (vis_period > 0) need an input_format."
        self.input_format = input_format
        self.vis_period = vis_period
        self.backbone = backbone
        self.proposal_generator = proposal_generator
        self.roi_heads = roi_heads
        self._register_pixel_statistics(pixel_mean, pixel_std)

    @classmethod
    def from_config(cls, cfg):
        backbone = build_backbone(cfg)
        shape = backbone.output_shape()
        return dict(
            backbone=backbone,
            proposal_generator=build_proposal_generator(cfg, shape),
            roi_heads=build_roi_heads(cfg, shape),
            pixel_mean=cfg.MODEL.PIXEL_MEAN,
            pixel_std=cfg.MODEL.PIXEL_STD,
            input_format=cfg.INPUT.FORMAT,
            vis_period=cfg.VIS_PERIOD,
        )

    def visualize_training(self, batched_inputs, proposals):
        """Put a picture of the first image into the event storage: ground truth left, best proposals right.

        Args:
            batched_inputs: the input of :meth:`forward`.
            proposals: per image, best first, with `proposal_boxes`.
        """
        put_box_comparison(
            batched_inputs[0],
            proposals[0].proposal_boxes[:MAX_DRAWN_BOXES].tensor.detach().cpu().numpy(),
            self.input_format,
            name="Left: GT bounding boxes;  Right: Predicted proposals",
            axis=1,
        )

    def forward(self, batched_inputs: list[dict[str, torch.Tensor]]):
        """Compute losses (training) or detections (inference).

        Args:
            batched_inputs: one dict per image: "image", a (C, H, W) tensor; in training "instances", the ground
                truth; without a proposal generator "proposals"; in inference optionally "height" and "width",
                the size of the output.

        Returns:
            in training the losses by name; in inference one dict per image, whose "instances" have `pred_boxes`,
            `scores`, `pred_classes` and with a mask head `pred_masks`.
        """
        if not self.training:
            return self.inference(batched_inputs)
        images = self.preprocess_image(batched_inputs)
        targets = None
        if "instances" in batched_inputs[0]:
            targets = self._instances_on_device(batched_inputs, "instances")
        features = self.backbone(images.tensor)
        proposals, proposal_losses = self._propose(images, features, batched_inputs, targets)
        _, detector_losses = self.roi_heads(images, features, proposals, targets)
        if self.vis_period > 0 and get_event_storage().iter % self.vis_period == 0:
            self.visualize_training(batched_inputs, proposals)
        return {**detector_losses, **proposal_losses}

    def _propose(self, images, features, batched_inputs, targets=None):
        """Return the proposals per image, generated or brought by the input, and the losses of making them."""
        if self.proposal_generator is not None:
            return self.proposal_generator(images, features, targets)
        assert "proposals" in batched_inputs[0], "Without a proposal generator the inputs need 'proposals'."
        return self._instances_on_device(batched_inputs, "proposals"), {}

    def inference(
        self,
        batched_inputs: list[dict[str, torch.Tensor]],
        detected_instances: list[Instances] | None = None,
        do_postprocess: bool = True,
    ):
        """Detect; or, for boxes that are already known, predict the rest.

        Args:
            batched_inputs: see :meth:`forward`.
            detected_instances: per image, with `pred_boxes` and `pred_classes`, at the size of the input image.
            do_postprocess: rescale to the requested output size.

        Returns:
            as :meth:`forward` does; without postprocessing the `Instances` per image, as the RoI heads made them.
        """
        assert not self.training, "inference() needs eval mode."
        images = self.preprocess_image(batched_inputs)
        features = self.backbone(images.tensor)
        if detected_instances is not None:
            known = [x.to(self.device) for x in detected_instances]
            results = self.roi_heads.forward_with_given_boxes(features, known)
        else:
            proposals, _ = self._propose(images, features, batched_inputs)
            results, _ = self.roi_heads(images, features, proposals, None)
        if not do_postprocess:
            return results
        return self._postprocess(results, batched_inputs, images.image_sizes)

    @staticmethod
    def _postprocess(instances, batched_inputs, image_sizes):
        """Rescale the detections to the requested output size."""
        return resize_outputs(instances, batched_inputs, image_sizes)


@META_ARCH_REGISTRY.register()
class ProposalNetwork(ImageModel):
    """A backbone and a proposal generator."""

    @configurable
    def __init__(
        self,
        *,
        backbone: Backbone,
        proposal_generator: nn.Module,
        pixel_mean: tuple[float],
        pixel_std: tuple[float],
    ):
        """Args:
        backbone: maps an image batch to named feature maps.
        proposal_generator: makes proposals from them.
        pixel_mean: per channel, in the channel order of the input.
        pixel_std: per channel.
        """
        super().__init__()
        self.backbone = backbone
        self.proposal_generator = proposal_generator
        self._register_pixel_statistics(pixel_mean, pixel_std)

    @classmethod
    def from_config(cls, cfg):
        backbone = build_backbone(cfg)
        generator = build_proposal_generator(cfg, backbone.output_shape())
        statistics = dict(pixel_mean=cfg.MODEL.PIXEL_MEAN, pixel_std=cfg.MODEL.PIXEL_STD)
        return dict(backbone=backbone, proposal_generator=generator, **statistics)

    def forward(self, batched_inputs):
        """Compute losses by name (training), or per image a dict with "proposals" (inference).

        The inputs are those of :class:`GeneralizedRCNN`; the proposals have `proposal_boxes` and
        `objectness_logits`, at the requested output size.
        """
        images = self.preprocess_image(batched_inputs)
        features = self.backbone(images.tensor)
        targets = None
        for key in ("instances", "targets"):
            if key in batched_inputs[0]:
                targets = self._instances_on_device(batched_inputs, key)
                break
        if targets is not None and key == "targets":
            log_first_n(logging.WARNING, "Model input 'targets' is deprecated: name it 'instances'.", n=10)
        proposals, losses = self.proposal_generator(images, features, targets)
        if self.training:
            return losses
        return resize_outputs(proposals, batched_inputs, images.image_sizes, key="proposals")
