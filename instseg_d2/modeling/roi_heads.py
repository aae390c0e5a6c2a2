"""Region heads whose masks are told where in the box its class is seen (OPMask)."""

import torch
from detectron2.modeling.roi_heads import StandardROIHeads, select_foreground_proposals
from detectron2.structures import Boxes, Instances

from instseg_d2.layers.class_activation import class_activation_maps, stretch_maps

from .mask_heads.base import attach

# What regions carry from the box head to the mask head, and shed there: (R, h, w) class activation maps.
_FIELD = "class_activation"


class CAMROIHeads(StandardROIHeads):
    """The heads of Faster R-CNN, with the object mask prior of OPMask (arXiv:2011.11787, Sec. 3.1) between them.

    The box head is fully convolutional; what it predicts from is the average of its last map. Its classifier, applied
    to each position of the map, says where the class is seen. That map, from 0 to 1 and of the size of the mask
    features, is added to all their channels. So every mask head that takes pooled features takes the prior.

    The class is the true one in training and the predicted one in inference. There the map comes from the proposal that
    the detection was made of, while mask features are pooled at the detection; with given boxes both come from these.
    The mask loss reaches the box head's convolutions through its map, but not the classifier.

    Args:
        box_head: from pooled features to maps (R, C, h, w), such as `FastRCNNConvFCHead` with `fc_dims=[]`.
        box_predictor: from their average; its `cls_score` is linear, with a row of weights a class.
        mask_in_features: as the parent's; must be there.
        mask_pooler: as the parent's; must be there, as the prior is added to pooled features.
        keep_aux: in inference also give `pred_class_activation`, (R, 1, M, M) in [0, 1], the prior.
        kwargs: for detectron2's `StandardROIHeads`.

    Raises:
        ValueError: there is no mask head, or it pools for itself.
    """

    def __init__(self, *, keep_aux: bool = False, **kwargs):
        super().__init__(**kwargs)
        if not self.mask_on or self.mask_pooler is None:
            raise ValueError("the prior is added to pooled mask features: set mask_in_features and mask_pooler")
        self.keep_aux = keep_aux

    def _box_maps(self, features: dict[str, torch.Tensor], boxes: list[Boxes]) -> torch.Tensor:
        return self.box_head(self.box_pooler([features[name] for name in self.box_in_features], boxes))

    def _activation(self, maps: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
        return class_activation_maps(maps, self.box_predictor.cls_score.weight.detach(), classes)

    def _forward_box(self, features: dict[str, torch.Tensor], proposals: list[Instances]):
        """As the parent's; proposals (training) or detections get their class activation maps."""
        maps = self._box_maps(features, [x.proposal_boxes for x in proposals])
        predictions = self.box_predictor(maps.mean(dim=(2, 3)))
        if not self.training:
            detections, kept = self.box_predictor.inference(predictions, proposals)
            starts = [0, *torch.tensor([len(x) for x in proposals]).cumsum(dim=0).tolist()]
            rows = torch.cat([index + start for index, start in zip(kept, starts, strict=False)])
            classes = torch.cat([x.pred_classes for x in detections])
            attach(detections, _FIELD, self._activation(maps[rows], classes))
            return detections
        attach(proposals, _FIELD, self._activation(maps, torch.cat([x.gt_classes for x in proposals])))
        losses = self.box_predictor.losses(predictions, proposals)
        if self.train_on_pred_boxes:
            with torch.no_grad():
                boxes = self.box_predictor.predict_boxes_for_gt_classes(predictions, proposals)
            for x, predicted in zip(proposals, boxes, strict=True):
                x.proposal_boxes = Boxes(predicted)
        return losses

    def _forward_mask(self, features: dict[str, torch.Tensor], instances: list[Instances]):
        """As the parent's, with the prior in the features."""
        if self.training:
            instances, _ = select_foreground_proposals(instances, self.num_classes)
        boxes = [x.proposal_boxes if self.training else x.pred_boxes for x in instances]
        if not instances[0].has(_FIELD):
            classes = torch.cat([x.pred_classes for x in instances])
            attach(instances, _FIELD, self._activation(self._box_maps(features, boxes), classes))
        x = self.mask_pooler([features[name] for name in self.mask_in_features], boxes)
        prior = stretch_maps(torch.cat([x.get(_FIELD) for x in instances]), tuple(x.shape[2:]))
        for image in instances:
            image.remove(_FIELD)
        result = self.mask_head(x + prior.to(x.dtype), instances)
        if self.keep_aux and not self.training:
            attach(result, "pred_class_activation", prior)
        return result
