"""RoI heads: label and sample proposals, pool their features, and run the box and mask heads on them."""

import inspect

import numpy as np
import torch
from torch import nn

from detectron2._left_out import left_out_error, left_out_function
from detectron2.config import configurable
from detectron2.layers import ShapeSpec
from detectron2.structures import Boxes, ImageList, Instances, pairwise_iou
from detectron2.utils.events import get_event_storage
from detectron2.utils.registry import Registry

from ..backbone.resnet import BottleneckBlock, ResNet
from ..matcher import Matcher
from ..poolers import ROIPooler
from ..proposal_generator.proposal_utils import add_ground_truth_to_proposals
from ..sampling import subsample_labels
from .box_head import build_box_head
from .fast_rcnn import FastRCNNOutputLayers
from .mask_head import build_mask_head

ROI_HEADS_REGISTRY = Registry("ROI_HEADS")
ROI_HEADS_REGISTRY.__doc__ = "RoI heads by name; each is called as `heads(cfg, input_shape)`."


def build_roi_heads(cfg, input_shape: dict[str, ShapeSpec]) -> nn.Module:
    """Build the RoI heads that `cfg.MODEL.ROI_HEADS.NAME` names."""
    return ROI_HEADS_REGISTRY.get(cfg.MODEL.ROI_HEADS.NAME)(cfg, input_shape)


def select_foreground_proposals(
    proposals: list[Instances], bg_label: int
) -> tuple[list[Instances], list[torch.Tensor]]:
    """Keep the proposals that are neither background nor ignored.

    Args:
        proposals: per image, with `gt_classes`.
        bg_label: the background's class; -1 means ignored.

    Returns:
        the foreground proposals per image; and per image the (R_i,) bool mask that selected them.
    """
    assert isinstance(proposals, list | tuple), f"Expected one Instances per image, got {type(proposals)}."
    assert isinstance(proposals[0], Instances), f"Expected Instances, got {type(proposals[0])}."
    assert proposals[0].has("gt_classes"), "Proposals have no gt_classes: label them first."
    masks = [(x.gt_classes != bg_label) & (x.gt_classes != -1) for x in proposals]
    selected = [x[mask.nonzero().squeeze(1)] for x, mask in zip(proposals, masks, strict=True)]
    return selected, masks


select_proposals_with_visible_keypoints = left_out_function("select_proposals_with_visible_keypoints", "keypoints")


def _build_pooler(head_cfg, in_features: list[str], input_shape: dict[str, ShapeSpec]) -> ROIPooler:
    """Make the pooler that a head's section of the config describes."""
    return ROIPooler(
        head_cfg.POOLER_RESOLUTION,
        tuple(1.0 / input_shape[name].stride for name in in_features),
        head_cfg.POOLER_SAMPLING_RATIO,
        head_cfg.POOLER_TYPE,
    )


def _common_channels(in_features: list[str], input_shape: dict[str, ShapeSpec]) -> int:
    """Return the channels of the feature levels, which one head can share only if they agree."""
    channels = {name: input_shape[name].channels for name in in_features}
    assert len(set(channels.values())) == 1, f"Feature levels differ in channels: {channels}."
    return channels[in_features[0]]


class ROIHeads(nn.Module):
    """Base of RoI heads: matches proposals with the ground truth and samples a batch of them for training.

    A subclass defines :meth:`forward`.
    """

    @configurable
    def __init__(
        self,
        *,
        num_classes,
        batch_size_per_image,
        positive_fraction,
        proposal_matcher,
        proposal_append_gt=True,
    ):
        """Args:
        num_classes: number of foreground classes K; K itself labels the background.
        batch_size_per_image: number of proposals sampled per image.
        positive_fraction: largest fraction of foreground among them.
        proposal_matcher: a :class:`Matcher` from IoU to (matched ground truth, label).
        proposal_append_gt: sample from the ground-truth boxes too, which provides foreground from the first
            iteration on.
        """
        super().__init__()
        self.num_classes = num_classes
        self.batch_size_per_image = batch_size_per_image
        self.positive_fraction = positive_fraction
        self.proposal_matcher = proposal_matcher
        self.proposal_append_gt = proposal_append_gt

    @classmethod
    def from_config(cls, cfg):
        heads = cfg.MODEL.ROI_HEADS
        matcher = Matcher(heads.IOU_THRESHOLDS, heads.IOU_LABELS, allow_low_quality_matches=False)
        return dict(
            num_classes=heads.NUM_CLASSES,
            batch_size_per_image=heads.BATCH_SIZE_PER_IMAGE,
            positive_fraction=heads.POSITIVE_FRACTION,
            proposal_matcher=matcher,
            proposal_append_gt=heads.PROPOSAL_APPEND_GT,
        )

    def _sample_proposals(
        self, matched_idxs: torch.Tensor, matched_labels: torch.Tensor, gt_classes: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Label the proposals of one image and sample from them.

        Args:
            matched_idxs: (N,) index of each proposal's ground truth.
            matched_labels: (N,) the matcher's label: 1 foreground, 0 background, -1 ignored.
            gt_classes: (M,) classes of the ground truth.

        Returns:
            indices of the sampled proposals, foreground first, and their classes in [0, K].
        """
        if gt_classes.numel() > 0:
            labels = gt_classes[matched_idxs]
            labels = labels.masked_fill(matched_labels == 0, self.num_classes)
            labels = labels.masked_fill(matched_labels == -1, -1)
        else:
            labels = torch.full_like(matched_idxs, self.num_classes)
        sampled = torch.cat(
            subsample_labels(labels, self.batch_size_per_image, self.positive_fraction, self.num_classes)
        )
        return sampled, labels[sampled]

    @torch.no_grad()
    def label_and_sample_proposals(self, proposals: list[Instances], targets: list[Instances]) -> list[Instances]:
        """Match proposals with the ground truth, sample from them, and attach what they are to learn.

        Logs `roi_head/num_fg_samples` and `roi_head/num_bg_samples`, averaged over the images.

        Args:
            proposals: per image, with `proposal_boxes`.
            targets: per image, with `gt_boxes`, `gt_classes` and any other `gt_*` fields.

        Returns:
            per image at most `batch_size_per_image` proposals with `gt_classes` and, where the image has ground
            truth, every `gt_*` field of the matched target (arbitrary for background).
        """
        if self.proposal_append_gt:
            proposals = add_ground_truth_to_proposals(targets, proposals)

        labeled = []
        for candidates, target in zip(proposals, targets, strict=True):
            iou = pairwise_iou(target.gt_boxes, candidates.proposal_boxes)
            matched_idxs, matched_labels = self.proposal_matcher(iou)
            indices, classes = self._sample_proposals(matched_idxs, matched_labels, target.gt_classes)
            sample = candidates[indices]
            sample.gt_classes = classes
            if len(target) > 0:
                target_of_sample = matched_idxs[indices]
                for name, value in target.get_fields().items():
                    if name.startswith("gt_") and not sample.has(name):
                        sample.set(name, value[target_of_sample])
            labeled.append(sample)

        # One transfer for the whole batch: the device is waited for once.
        num_background = torch.stack([(x.gt_classes == self.num_classes).sum() for x in labeled]).tolist()
        num_foreground = [len(x) - n for x, n in zip(labeled, num_background, strict=True)]
        storage = get_event_storage()
        storage.put_scalar("roi_head/num_fg_samples", np.mean(num_foreground))
        storage.put_scalar("roi_head/num_bg_samples", np.mean(num_background))
        return labeled

    def forward(
        self,
        images: ImageList,
        features: dict[str, torch.Tensor],
        proposals: list[Instances],
        targets: list[Instances] | None = None,
    ) -> tuple[list[Instances], dict[str, torch.Tensor]]:
        """Run the heads on the proposals.

        Args:
            images: the input batch.
            features: feature maps by name, each (N, C, H, W).
            proposals: per image, with `proposal_boxes` and `objectness_logits`.
            targets: training only: per image, with `gt_boxes`, `gt_classes` and whatever the heads need
                (`gt_masks`).

        Returns:
            in inference the detections per image and an empty dict; in training the labelled proposals (or an
            empty list) and the losses by name.
        """
        raise NotImplementedError


@ROI_HEADS_REGISTRY.register()
class Res5ROIHeads(ROIHeads):
    """The heads of a "C4" R-CNN: one pooling and one res5 stage, shared by the box and the mask head."""

    @configurable
    def __init__(
        self,
        *,
        in_features: list[str],
        pooler: ROIPooler,
        res5: nn.Module,
        box_predictor: nn.Module,
        mask_head: nn.Module | None = None,
        **kwargs,
    ):
        """Args:
        in_features: names of the feature maps to pool from.
        pooler: pools them.
        res5: turns pooled features into region features; a list of modules is run in sequence.
        box_predictor: predicts from their spatial mean, as :class:`FastRCNNOutputLayers` does.
        mask_head: predicts masks from the region features; None: boxes only.
        kwargs: for :class:`ROIHeads`.
        """
        super().__init__(**kwargs)
        self.in_features = in_features
        self.pooler = pooler
        self.res5 = res5 if isinstance(res5, nn.Module) else nn.Sequential(*res5)
        self.mask_on = mask_head is not None
        self.box_predictor = box_predictor
        if mask_head is not None:
            self.mask_head = mask_head

    @classmethod
    def from_config(cls, cfg, input_shape):
        if cfg.MODEL.KEYPOINT_ON:
            raise left_out_error("MODEL.KEYPOINT_ON", "keypoints")
        in_features = cfg.MODEL.ROI_HEADS.IN_FEATURES
        assert len(in_features) == 1, f"{cls.__name__} pools from one feature map, not from {in_features}."
        args = super().from_config(cfg)
        args["in_features"] = in_features
        args["pooler"] = _build_pooler(cfg.MODEL.ROI_BOX_HEAD, in_features, input_shape)
        # A subclass may have overridden it as an ordinary method.
        is_bound = inspect.ismethod(cls._build_res5_block)
        args["res5"], channels = cls._build_res5_block(*(() if is_bound else (cls,)), cfg)
        args["box_predictor"] = FastRCNNOutputLayers(cfg, ShapeSpec(channels=channels, height=1, width=1))
        if cfg.MODEL.MASK_ON:
            side = cfg.MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION
            args["mask_head"] = build_mask_head(cfg, ShapeSpec(channels=channels, height=side, width=side))
        return args

    @classmethod
    def _build_res5_block(cls, cfg):
        """Make the last stage of the configured ResNet, and tell its output channels."""
        resnet = cfg.MODEL.RESNETS
        assert not resnet.DEFORM_ON_PER_STAGE[-1], "A res5 stage on regions cannot use deformable convolution."
        widening = 2**3  # each stage after res2 doubles the channels
        out_channels = resnet.RES2_OUT_CHANNELS * widening
        blocks = ResNet.make_stage(
            BottleneckBlock,
            num_blocks=3,
            stride_per_block=[2, 1, 1],
            in_channels=out_channels // 2,
            out_channels=out_channels,
            bottleneck_channels=resnet.NUM_GROUPS * resnet.WIDTH_PER_GROUP * widening,
            num_groups=resnet.NUM_GROUPS,
            stride_in_1x1=resnet.STRIDE_IN_1X1,
            norm=resnet.NORM,
        )
        return nn.Sequential(*blocks), out_channels

    def _shared_roi_transform(self, features: list[torch.Tensor], boxes: list[Boxes]) -> torch.Tensor:
        return self.res5(self.pooler(features, boxes))

    def forward(
        self,
        images: ImageList,
        features: dict[str, torch.Tensor],
        proposals: list[Instances],
        targets: list[Instances] | None = None,
    ):
        """See :meth:`ROIHeads.forward`; training returns no proposals."""
        if self.training:
            assert targets, "Training needs the ground truth: 'targets' is empty."
            proposals = self.label_and_sample_proposals(proposals, targets)
        levels = [features[name] for name in self.in_features]
        region_features = self._shared_roi_transform(levels, [x.proposal_boxes for x in proposals])
        predictions = self.box_predictor(region_features.mean(dim=(2, 3)))

        if not self.training:
            detections, _ = self.box_predictor.inference(predictions, proposals)
            return self.forward_with_given_boxes(features, detections), {}

        losses = self.box_predictor.losses(predictions, proposals)
        if self.mask_on:
            foreground, masks = select_foreground_proposals(proposals, self.num_classes)
            losses.update(self.mask_head(region_features[torch.cat(masks)], foreground))
        return [], losses

    def forward_with_given_boxes(
        self, features: dict[str, torch.Tensor], instances: list[Instances]
    ) -> list[Instances]:
        """Attach masks to `instances`, which have `pred_boxes` and `pred_classes`; inference only."""
        _check_given_boxes(self, instances)
        if not self.mask_on:
            return instances
        levels = [features[name] for name in self.in_features]
        region_features = self._shared_roi_transform(levels, [x.pred_boxes for x in instances])
        return self.mask_head(region_features, instances)


def _check_given_boxes(roi_heads: ROIHeads, instances: list[Instances]) -> None:
    assert not roi_heads.training, "Given boxes are for inference: call eval() first."
    missing = [name for name in ("pred_boxes", "pred_classes") if not instances[0].has(name)]
    assert not missing, f"The given instances have no {' and no '.join(missing)}."


@ROI_HEADS_REGISTRY.register()
class StandardROIHeads(ROIHeads):
    """Heads that share nothing: box and mask head each pool their own features. Used with FPN, C5 and DC5 backbones.

    Keypoint heads are not covered: their arguments exist and must stay None.
    """

    @configurable
    def __init__(
        self,
        *,
        box_in_features: list[str],
        box_pooler: ROIPooler,
        box_head: nn.Module,
        box_predictor: nn.Module,
        mask_in_features: list[str] | None = None,
        mask_pooler: ROIPooler | None = None,
        mask_head: nn.Module | None = None,
        keypoint_in_features: list[str] | None = None,
        keypoint_pooler: ROIPooler | None = None,
        keypoint_head: nn.Module | None = None,
        train_on_pred_boxes: bool = False,
        **kwargs,
    ):
        """Args:
        box_in_features: names of the feature maps that the box head pools from.
        box_pooler: pools them.
        box_head: turns pooled features into region features.
        box_predictor: predicts from those, as :class:`FastRCNNOutputLayers` does.
        mask_in_features: names of the feature maps for the mask head; None: no masks.
        mask_pooler: pools them; None: the mask head gets the dict of feature maps and pools for itself.
        mask_head: predicts masks, as :class:`BaseMaskRCNNHead` does.
        keypoint_in_features: not covered.
        keypoint_pooler: not covered.
        keypoint_head: not covered.
        train_on_pred_boxes: train the mask head on the boxes that the box head predicts.
        kwargs: for :class:`ROIHeads`.
        """
        super().__init__(**kwargs)
        if keypoint_in_features is not None:
            raise left_out_error(f"{type(self).__name__}(keypoint_in_features=...)", "keypoints")
        self.train_on_pred_boxes = train_on_pred_boxes
        self.mask_on, self.keypoint_on = mask_in_features is not None, False
        self.in_features = self.box_in_features = box_in_features
        self.box_pooler = box_pooler
        self.box_head = box_head
        self.box_predictor = box_predictor
        if self.mask_on:
            self.mask_pooler = mask_pooler
            self.mask_head = mask_head
            self.mask_in_features = mask_in_features

    @classmethod
    def from_config(cls, cfg, input_shape):
        args = super().from_config(cfg)
        args["train_on_pred_boxes"] = cfg.MODEL.ROI_BOX_HEAD.TRAIN_ON_PRED_BOXES
        for init_head in (cls._init_box_head, cls._init_mask_head, cls._init_keypoint_head):
            # A subclass may build its heads in its own constructor, in ordinary methods of these names.
            if inspect.ismethod(init_head):
                args.update(init_head(cfg, input_shape))
        return args

    @classmethod
    def _init_box_head(cls, cfg, input_shape):
        in_features = cfg.MODEL.ROI_HEADS.IN_FEATURES
        side = cfg.MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION
        channels = _common_channels(in_features, input_shape)
        box_head = build_box_head(cfg, ShapeSpec(channels=channels, height=side, width=side))
        return dict(
            box_in_features=in_features,
            box_pooler=_build_pooler(cfg.MODEL.ROI_BOX_HEAD, in_features, input_shape),
            box_head=box_head,
            box_predictor=FastRCNNOutputLayers(cfg, box_head.output_shape),
        )

    @classmethod
    def _init_mask_head(cls, cfg, input_shape):
        if not cfg.MODEL.MASK_ON:
            return {}
        in_features = cfg.MODEL.ROI_HEADS.IN_FEATURES
        head = cfg.MODEL.ROI_MASK_HEAD
        if head.POOLER_TYPE:
            side = head.POOLER_RESOLUTION
            pooler = _build_pooler(head, in_features, input_shape)
            shape = ShapeSpec(channels=input_shape[in_features[0]].channels, height=side, width=side)
        else:
            pooler = None
            shape = {name: input_shape[name] for name in in_features}
        return dict(mask_in_features=in_features, mask_pooler=pooler, mask_head=build_mask_head(cfg, shape))

    @classmethod
    def _init_keypoint_head(cls, cfg, input_shape):
        if cfg.MODEL.KEYPOINT_ON:
            raise left_out_error("MODEL.KEYPOINT_ON", "keypoints")
        return {}

    def forward(
        self,
        images: ImageList,
        features: dict[str, torch.Tensor],
        proposals: list[Instances],
        targets: list[Instances] | None = None,
    ) -> tuple[list[Instances], dict[str, torch.Tensor]]:
        """See :meth:`ROIHeads.forward`; training returns the sampled proposals."""
        if not self.training:
            # Masks are predicted for the detections only.
            return self.forward_with_given_boxes(features, self._forward_box(features, proposals)), {}

        assert targets, "Training needs the ground truth: 'targets' is empty."
        proposals = self.label_and_sample_proposals(proposals, targets)
        losses = self._forward_box(features, proposals)
        losses.update(self._forward_mask(features, proposals))
        losses.update(self._forward_keypoint(features, proposals))
        return proposals, losses

    def forward_with_given_boxes(
        self, features: dict[str, torch.Tensor], instances: list[Instances]
    ) -> list[Instances]:
        """Predict everything but boxes for boxes that are already known; inference only.

        Args:
            features: feature maps by name.
            instances: per image, with `pred_boxes` and `pred_classes`.

        Returns:
            the same instances, with `pred_masks`.
        """
        _check_given_boxes(self, instances)
        return self._forward_keypoint(features, self._forward_mask(features, instances))

    def _forward_box(self, features: dict[str, torch.Tensor], proposals: list[Instances]):
        """Run the box head: losses by name in training, detections per image in inference.

        With `train_on_pred_boxes`, training replaces `proposal_boxes` by the predicted boxes.
        """
        levels = [features[name] for name in self.box_in_features]
        pooled = self.box_pooler(levels, [x.proposal_boxes for x in proposals])
        predictions = self.box_predictor(self.box_head(pooled))
        if not self.training:
            detections, _ = self.box_predictor.inference(predictions, proposals)
            return detections

        losses = self.box_predictor.losses(predictions, proposals)
        if self.train_on_pred_boxes:
            with torch.no_grad():
                predicted = self.box_predictor.predict_boxes_for_gt_classes(predictions, proposals)
            for x, boxes in zip(proposals, predicted, strict=True):
                x.proposal_boxes = Boxes(boxes)
        return losses

    def _forward_mask(self, features: dict[str, torch.Tensor], instances: list[Instances]):
        """Run the mask head: losses by name in training, `instances` with `pred_masks` in inference."""
        if not self.mask_on:
            return {} if self.training else instances
        box_field = "pred_boxes"
        if self.training:
            box_field = "proposal_boxes"
            instances, _ = select_foreground_proposals(instances, self.num_classes)
        if self.mask_pooler is None:
            mask_features = {name: features[name] for name in self.mask_in_features}
        else:
            levels = [features[name] for name in self.mask_in_features]
            mask_features = self.mask_pooler(levels, [x.get(box_field) for x in instances])
        return self.mask_head(mask_features, instances)

    def _forward_keypoint(self, features: dict[str, torch.Tensor], instances: list[Instances]):
        """Do nothing (keypoints are not covered); a seam for subclasses."""
        return {} if self.training else instances
