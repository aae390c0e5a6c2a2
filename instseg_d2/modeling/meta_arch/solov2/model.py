"""SOLOv2 (arXiv:2003.10152): each cell of a grid predicts the object centered in it, mask and all, without boxes."""

from collections.abc import Sequence
from functools import partial

import torch
from detectron2.structures import Boxes, ImageList, Instances
from detectron2.utils.events import get_event_storage
from torch import nn

from instseg_d2.layers.dynamic_conv import convolve_shared
from instseg_d2.layers.focal_loss import focal_loss_of_labels
from instseg_d2.layers.mask_boxes import tight_boxes
from instseg_d2.layers.mask_losses import dice_losses
from instseg_d2.layers.point_nms import point_nms
from instseg_d2.layers.ranks import mean_over_ranks

from ..base import KernelDetector, output_sizes
from .decoding import GridDecoder, soft_masks
from .targets import GridAssigner, GridTargets

# Class logits (N, K, S, S) and kernels (N, D, S, S) per level, and mask features (N, D, h, w).
Predictions = tuple[list[torch.Tensor], list[torch.Tensor], torch.Tensor]

_DICE_EPSILON = 0.002


def flatten_levels(levels: Sequence[torch.Tensor]) -> torch.Tensor:
    """(N, C, X) of maps (N, X, S, S): the cells of all levels, each level row by row."""
    return torch.cat([level.flatten(start_dim=2).transpose(1, 2) for level in levels], dim=1)


class SOLOv2(KernelDetector):
    """Segments objects by locations, following the paper and AdelaiDet's code, whose weights load.

    A cell of a grid predicts a class and a kernel; the kernel, a 1x1 convolution, draws the mask of the object whose
    center lies in the cell out of features that all masks share. Duplicates are removed by matrix NMS of the masks.

    Where this differs from AdelaiDet on purpose (none of it needs other weights):

    - The mask loss is divided by the number of trained masks, the class loss by 1 + the number of positive cells, both
      averaged over all processes; AdelaiDet counts in each process, and fails without objects.
    - An object whose target at the size of the mask features is empty trains the class alone; there its loss is a
      constant without gradient, that counts.
    - Centers of mass are those of pixels' middles (there: upper left corners), and ground truth is shrunk by exactly
      the stride, whatever the size of the image (there: to a rounded size, shifted by up to a pixel).
    - Sizes beyond all ranges count as the nearest; there such objects are left out.
    - Images of a batch may have any sizes in inference; there masks of much smaller ones are misplaced.
    - `pred_boxes` are tight around the masks; there they are zeros.

    Naming: N images, C cells of all grids, K classes, D channels of kernels and mask features.

    Args:
        head: see `SOLOv2Head`.
        head_in_features: its levels, finest first.
        mask_branch: see `SOLOv2MaskBranch`.
        mask_in_features: its levels, finest first.
        assigner: decides what every cell learns; its grids are the head's.
        decoder: makes instances of predictions.
        num_classes: K.
        mask_loss_weight: factor on the dice loss (Eq. 6: lambda, 3).
        category_loss_weight: factor on the focal loss.
        focal_loss_alpha: see RetinaNet, arXiv:1708.02002.
        focal_loss_gamma: as `focal_loss_alpha`.
        masks_per_image: at most that many masks of an image are trained in a step; more are drawn from at random.
            Bounds the memory for crowds: 512 masks of 200x336 take 140 MB a copy.
        kwargs: for detectron2's `DenseDetector`: `backbone`, `pixel_mean`, `pixel_std`.
    """

    def __init__(
        self,
        *,
        head: nn.Module,
        head_in_features: Sequence[str],
        mask_branch: nn.Module,
        mask_in_features: Sequence[str],
        assigner: GridAssigner,
        decoder: GridDecoder,
        num_classes: int,
        mask_loss_weight: float = 3.0,
        category_loss_weight: float = 1.0,
        focal_loss_alpha: float = 0.25,
        focal_loss_gamma: float = 2.0,
        masks_per_image: int = 512,
        **kwargs,
    ):
        super().__init__(
            head=head,
            head_in_features=head_in_features,
            mask_branch=mask_branch,
            mask_in_features=mask_in_features,
            num_classes=num_classes,
            **kwargs,
        )
        self.assigner = assigner
        self.decoder = decoder
        self.mask_loss_weight = mask_loss_weight
        self.category_loss_weight = category_loss_weight
        self.focal_loss_alpha = focal_loss_alpha
        self.focal_loss_gamma = focal_loss_gamma
        self.masks_per_image = masks_per_image

    def predict(self, features: dict[str, torch.Tensor]) -> Predictions:
        """Run both branches on the backbone's features."""
        categories, kernels = self.head([features[name] for name in self.head_in_features])
        return categories, kernels, self.mask_branch([features[name] for name in self.mask_in_features])

    def forward_training(
        self,
        images: ImageList,
        features: dict[str, torch.Tensor],
        predictions: Predictions,
        gt_instances: Sequence[Instances],
    ) -> dict[str, torch.Tensor]:
        """Assign the cells and compute `loss_category` and `loss_mask`, see `losses`."""
        targets = [
            self.assigner.assign(
                instances,
                num_classes=self.num_classes,
                stride=self.mask_branch.stride,
                mask_size=tuple(predictions[2].shape[-2:]),
            )
            for instances in gt_instances
        ]
        return self.losses(predictions, [target.sample(self.masks_per_image) for target in targets])

    def losses(self, predictions: Predictions, targets: Sequence[GridTargets]) -> dict[str, torch.Tensor]:
        """Compute `loss_category` (focal) and `loss_mask` (dice; Sec. 3.3.3).

        Without objects both are finite, and the second is a zero that keeps the graph. Logs the positive cells and the
        trained masks per image, `solov2/positive_cells` and `solov2/masks`.

        Args:
            predictions: of the batch.
            targets: per image.
        """
        categories, kernels, mask_features = predictions
        labels = torch.stack([target.labels for target in targets])
        positive = (labels != self.num_classes).sum()
        trained = sum(len(target.cells) for target in targets)
        storage = get_event_storage()
        storage.put_scalar("solov2/positive_cells", positive.item() / len(targets))
        storage.put_scalar("solov2/masks", trained / len(targets))
        mean_positive, mean_trained = mean_over_ranks(torch.stack([positive, positive.new_tensor(trained)]).float())
        category_loss = focal_loss_of_labels(
            flatten_levels(categories), labels, alpha=self.focal_loss_alpha, gamma=self.focal_loss_gamma
        )
        chosen = [own[target.cells] for own, target in zip(flatten_levels(kernels), targets, strict=True)]
        counts = [len(target.cells) for target in targets]
        logits = convolve_shared(mask_features, torch.cat(chosen)[:, None], counts)[:, 0]
        masks = torch.cat([target.masks[target.objects] for target in targets])
        dice = dice_losses(logits, masks, epsilon=_DICE_EPSILON)
        return {
            "loss_category": self.category_loss_weight * category_loss / (mean_positive + 1),
            "loss_mask": self.mask_loss_weight * dice.sum() / mean_trained.clamp(min=1),
        }

    def inference(
        self,
        batched_inputs: list[dict],
        detected_instances: list[Instances] | None = None,
        do_postprocess: bool = True,
    ) -> list[dict[str, Instances]] | list[Instances]:
        """Detect and segment, or segment given boxes.

        Args:
            batched_inputs: see `forward`.
            detected_instances: per image, with `pred_boxes` and `pred_classes`, in pixels of the network's input.
                Nothing is detected then: of the cells that would be trained on an object in the box, the one that is
                surest of the class gives the mask. The instances keep their number, order and boxes.
            do_postprocess: bring boxes and masks to the size of the output.

        Returns:
            as `forward`; without postprocessing the instances per image, in pixels of the network's input, with
            `pred_masks` (R, h, w), probabilities on the mask features over the padded input.
        """
        assert not self.training, "inference() needs eval mode."
        images = self.preprocess_image(batched_inputs)
        features = self.backbone(images.tensor)
        predictions = self.predict(features)
        given = detected_instances is not None
        if given:
            instances = self.segment_boxes(predictions, [x.to(self.device) for x in detected_instances])
        else:
            instances = self.forward_inference(images, features, predictions)
        if not do_postprocess:
            return instances
        finish = partial(self.decoder.finish, stride=self.mask_branch.stride, keep_boxes=given)
        sizes = output_sizes(batched_inputs, images)
        return [{"instances": finish(x, output_size=size)} for x, size in zip(instances, sizes, strict=True)]

    @torch.no_grad()
    def forward_inference(
        self, images: ImageList, features: dict[str, torch.Tensor], predictions: Predictions
    ) -> list[Instances]:
        """Decode the detections of every image.

        Returns:
            per image, best first, `scores`, `pred_classes`, `pred_masks` as `inference` gives them without
            postprocessing, and `pred_boxes`, tight around the masks up to the stride of the mask features.
        """
        categories, kernels, mask_features = predictions
        probabilities = flatten_levels([point_nms(level.float().sigmoid()) for level in categories])
        # A mask must have more pixels of the mask features than the stride of its level.
        min_areas = [
            probabilities.new_full((level[0, 0].numel(),), stride)
            for level, stride in zip(categories, self.head.strides, strict=True)
        ]
        results = []
        for scores, own, maps, size in zip(
            probabilities, flatten_levels(kernels), mask_features, images.image_sizes, strict=True
        ):
            found = self.decoder.decode(scores, own, maps, min_areas=torch.cat(min_areas), image_size=size)
            found.pred_boxes = Boxes(tight_boxes(found.pred_masks > self.decoder.mask_thresh) * self.mask_branch.stride)
            found.pred_boxes.clip(size)
            results.append(found)
        return results

    @torch.no_grad()
    def segment_boxes(self, predictions: Predictions, instances: list[Instances]) -> list[Instances]:
        """Attach `pred_masks` (R, h, w), probabilities, to instances with `pred_boxes` and `pred_classes`."""
        categories, kernels, mask_features = predictions
        probabilities = flatten_levels(categories).float().sigmoid()
        padded_size = tuple(side * self.mask_branch.stride for side in mask_features.shape[-2:])
        for scores, own, maps, x in zip(probabilities, flatten_levels(kernels), mask_features, instances, strict=True):
            cells = self.assigner.best_cells(x.pred_boxes, scores[:, x.pred_classes].T, padded_size)
            x.pred_masks = soft_masks(maps, own[cells])
        return instances
