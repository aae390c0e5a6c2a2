"""PEP: perceive, excavate and purify (Su, Yin, Chen, Luo, CVPR Workshops 2023)."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from detectron2.structures import Boxes, ImageList, Instances
from detectron2.utils.events import get_event_storage
from torch import nn

from instseg_d2.layers.mask_boxes import tight_boxes
from instseg_d2.layers.mask_losses import dice_losses, mask_bce
from instseg_d2.layers.ranks import mean_over_ranks

from ..base import KernelDetector, output_sizes
from .excavate import ObjectExcavating
from .masks import DescriptorDecoder, mask_logits
from .perceive import Perceived, SemanticsPerceiving, flat_cells
from .purify import InstancePurifying
from .targets import CellAssigner, CellTargets, mask_targets, prepare_truth, sample_originals

# What the printed equations say, by part: `model.merge_with(LITERAL)` in a config, with `LevelFeatures` as mask branch.
LITERAL = {
    "head": {"grid_numbers": None, "classifier": "softmax"},
    "assigner": {"semantic_region": "mask", "descriptor_region": "mask"},
    "excavating": {"key_loss": "bce"},
    "purifying": {"balanced": False},
    "dice_weight": 0.0,
    "bce_weight": 1.0,
}
_DICE_EPSILON = 0.002

# What is perceived, and the general features: one map (N, D, h, w), or one a level.
Predictions = tuple[Perceived, list[torch.Tensor]]


@dataclass(frozen=True)
class Mining:
    """The way from perceived to final instances of one image.

    Attributes:
        originals: n, with `locations` (n, 2) xy pixels of the input, `scores`, `pred_classes`, `descriptors`, and,
            with excavating, `windows` as `Boxes`.
        key_maps: (n, S, S) probabilities of key pixels in these windows; None without excavating.
        nodes: m, originals and mined instances in the order of falling scores, with the same fields but windows, and
            `sources` (m,): -1 for originals, the index of its original for a mined one.
        similarity: (m, m) probabilities of being the same object; None without purifying.
        groups: (m,) int64, the best node of each node's group.
        merged: one instance a group, with its descriptor.
    """

    originals: Instances
    key_maps: torch.Tensor | None
    nodes: Instances
    similarity: torch.Tensor | None
    groups: torch.Tensor
    merged: Instances


class PEP(KernelDetector):
    """Perceives easy objects, looks for others around them, merges what is the same object, and draws masks.

    An object is a descriptor throughout, the kernel of a 1x1 convolution on a general feature that gives its mask. The
    original ones come from classified cells; mined ones are made from an original and a place in its neighbourhood.

    The paper leaves most sizes and rules open and prints its losses as sums over pixels, which would diverge at its
    rate of 0.01; here they are divided by the numbers of what is positive, averaged over all processes. Blanks are
    filled from SOLOv2 (arXiv:2003.10152), whose results the paper's resemble.

    Memory is bounded: training uses `train_originals` + `excavating.train_keys_per_image` masks an image, inference
    `head.max_originals` windows and `max_nodes` masks.

    Naming: N images, R cells of all levels, K classes, D channels of descriptors and general features.

    Args:
        head: the semantics perceiving subnetwork.
        head_in_features: its levels, finest first.
        mask_branch: makes the general feature: `SOLOv2MaskBranch`, one for all stages, or `LevelFeatures`.
        mask_in_features: its levels, finest first; for `LevelFeatures` those of the head.
        assigner: which cell stands for which object.
        excavating: None leaves it out.
        purifying: None leaves it out.
        decoder: makes instances of descriptors.
        num_classes: K.
        min_mask_areas: per level of the head; masks have more pixels of the general feature than this.
        originals_per_object: in training, cells of an object at most.
        train_originals: in training, originals of an image at most.
        max_nodes: in inference, originals and mined instances of an image; N_all, which is 30 or less in the paper.
        dice_weight: of the dice loss within `loss_mask`; SOLOv2's.
        bce_weight: of the mean cross entropy of the pixels, eq. 7.
        mask_weight: delta of eq. 8; alpha and beta are those of `excavating`, gamma that of `purifying`.
        keep_aux: in inference also give `mining`, see `Mining`.
        kwargs: for detectron2's `DenseDetector`: `backbone`, `pixel_mean`, `pixel_std`.
    """

    def __init__(
        self,
        *,
        head: SemanticsPerceiving,
        head_in_features: Sequence[str],
        mask_branch: nn.Module,
        mask_in_features: Sequence[str],
        assigner: CellAssigner,
        excavating: ObjectExcavating | None,
        purifying: InstancePurifying | None,
        decoder: DescriptorDecoder,
        num_classes: int,
        min_mask_areas: Sequence[float] = (8, 8, 16, 32, 32),
        originals_per_object: int = 2,
        train_originals: int = 20,
        max_nodes: int = 100,
        dice_weight: float = 3.0,
        bce_weight: float = 0.0,
        mask_weight: float = 1.0,
        keep_aux: bool = False,
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
        self.excavating = excavating
        self.purifying = purifying
        self.decoder = decoder
        self.min_mask_areas = list(min_mask_areas)
        self.originals_per_object = originals_per_object
        self.train_originals = train_originals
        self.max_nodes = max_nodes
        self.dice_weight = dice_weight
        self.bce_weight = bce_weight
        self.mask_weight = mask_weight
        self.keep_aux = keep_aux
        if not dice_weight and not bce_weight:
            raise ValueError("dice_weight and bce_weight are both 0: masks would learn from nothing")
        if len(self.min_mask_areas) != len(self.head_in_features):
            raise ValueError(f"{len(self.min_mask_areas)} min_mask_areas for {len(self.head_in_features)} levels")

    def predict(self, features: dict[str, torch.Tensor]) -> Predictions:
        """Run the dense branches on the backbone's features."""
        general = self.mask_branch([features[name] for name in self.mask_in_features])
        perceived = self.head([features[name] for name in self.head_in_features])
        return perceived, [general] if isinstance(general, torch.Tensor) else general

    def forward_training(
        self,
        images: ImageList,
        features: dict[str, torch.Tensor],
        predictions: Predictions,
        gt_instances: Sequence[Instances],
    ) -> dict[str, torch.Tensor]:
        """Compute the losses, eq. 1 to 8; the same keys in every step, whatever is in the images.

        `loss_perceive`, `loss_excavate`, `loss_excavate_class`, `loss_purify`, as far as the model has these parts, and
        `loss_mask`.

        Hidden masks (`gt_has_mask`) count in no mask loss; their objects stand for themselves by class and box.
        """
        perceived, general = predictions
        truth = [prepare_truth(x) for x in gt_instances]
        targets = [self.assigner(x, perceived.grid) for x in truth]
        losses = self.head.losses(perceived, torch.stack([x.labels for x in targets]))
        nodes = self.draw_originals(perceived, targets, truth)
        get_event_storage().put_scalar("pep/originals", sum(map(len, nodes)) / len(nodes))
        if self.excavating is not None:
            own, mined = self.excavating.losses(perceived.features, perceived.grid, nodes, truth)
            losses |= own
            get_event_storage().put_scalar("pep/mined", sum(map(len, mined)) / len(mined))
            nodes = [_join(pair) for pair in zip(nodes, mined, strict=True)]
        if self.purifying is not None:
            logits = [self._similarity(x, perceived) for x in nodes]
            losses |= self.purifying.losses(logits, [x.gt_inds for x in nodes])
        return losses | self.mask_losses(general, nodes, truth, (perceived.grid.height, perceived.grid.width))

    def draw_originals(
        self, perceived: Perceived, targets: Sequence[CellTargets], truth: Sequence[Instances]
    ) -> list[Instances]:
        """The original sets to train with, see `sample_originals`.

        Returns:
            per image, with the fields of `SemanticsPerceiving.at_cells`, `gt_inds`, and `windows` with excavating.
        """
        with torch.no_grad():
            probabilities = flat_cells([self.head.probabilities(level) for level in perceived.logits])
        originals = []
        for image, (target, x) in enumerate(zip(targets, truth, strict=True)):
            classes = torch.cat([x.gt_classes, x.gt_classes.new_zeros(1)])[target.owners]
            cells = sample_originals(
                probabilities[image].gather(1, classes[:, None])[:, 0],
                target.owners,
                per_object=self.originals_per_object,
                limit=self.train_originals,
            )
            drawn = self.head.at_cells(perceived, image, cells, x.image_size)
            drawn.gt_inds = target.owners[cells]
            if self.excavating is not None:
                drawn.windows = self.excavating.windows(x.gt_boxes[drawn.gt_inds])
            originals.append(drawn)
        return originals

    def mask_losses(
        self,
        general: list[torch.Tensor],
        nodes: Sequence[Instances],
        truth: Sequence[Instances],
        padded: tuple[int, int],
    ) -> dict[str, torch.Tensor]:
        """Compute `loss_mask`, eq. 7: dice, cross entropy or both, averaged over all descriptors.

        Descriptors of hidden or empty masks are left out.

        Args:
            general: from `predict`.
            nodes: per image, with `descriptors`, `fpn_levels`, and `gt_inds`.
            truth: per image.
            padded: (height, width) of the network's input.
        """
        total, count = general[0].new_zeros((), dtype=torch.float32), 0
        for image, (found, x) in enumerate(zip(nodes, truth, strict=True)):
            usable, targets = _usable_masks(x, found.gt_inds, general[0].shape[-2:], padded)
            logits = mask_logits(general, image, found[usable]).float()
            if self.dice_weight:
                total = total + self.dice_weight * dice_losses(logits, targets, epsilon=_DICE_EPSILON).sum()
            if self.bce_weight:
                total = total + self.bce_weight * mask_bce(logits, targets) * len(targets)
            count += len(targets)
        return {"loss_mask": self.mask_weight * total / mean_over_ranks(total.new_tensor(count)).clamp(min=1)}

    def inference(
        self,
        batched_inputs: list[dict],
        detected_instances: list[Instances] | None = None,
        do_postprocess: bool = True,
    ) -> list[dict] | list[Instances]:
        """Detect and segment, or segment given boxes.

        Args:
            batched_inputs: see `forward`.
            detected_instances: per image, with `pred_boxes` and `pred_classes`, in pixels of the network's input.
                Nothing is detected, excavated or merged then: of the cells in the middle of the box, the one that is
                surest of the class gives the mask. The instances keep their number, order and boxes.
            do_postprocess: bring boxes and masks to the size of the output.

        Returns:
            as `forward`, with `keep_aux` also `mining`; without postprocessing the instances per image, in pixels of
            the network's input, with `pred_masks` (R, h, w), probabilities on the general feature over the padded
            input.
        """
        assert not self.training, "inference() needs eval mode."
        images = self.preprocess_image(batched_inputs)
        features = self.backbone(images.tensor)
        predictions = self.predict(features)
        given, mining = detected_instances is not None, None
        if given:
            instances = self.segment_boxes(predictions, [x.to(self.device) for x in detected_instances])
        else:
            mining = self.mine(predictions, images.image_sizes)
            instances = self.draw(predictions, mining)
        if not do_postprocess:
            return instances
        results = []
        for index, (x, size) in enumerate(zip(instances, output_sizes(batched_inputs, images), strict=True)):
            finished = self.decoder.finish(x, stride=self.mask_branch.stride, output_size=size, keep_boxes=given)
            aux = {"mining": mining[index]} if self.keep_aux and not given else {}
            results.append({"instances": finished, **aux})
        return results

    def forward_inference(
        self, images: ImageList, features: dict[str, torch.Tensor], predictions: Predictions
    ) -> list[Instances]:
        """Instances of every image, as `inference` gives them without postprocessing."""
        return self.draw(predictions, self.mine(predictions, images.image_sizes))

    @torch.no_grad()
    def mine(self, predictions: Predictions, image_sizes: Sequence[tuple[int, int]]) -> list[Mining]:
        """Select originals, excavate around them, and merge, for every image."""
        perceived, general = predictions
        originals = self.head.originals(perceived, image_sizes)
        key_maps, mined = [None] * len(originals), [None] * len(originals)
        if self.excavating is not None:
            for image, x in enumerate(originals):
                x.windows = self.excavating.windows(self._provisional_boxes(perceived, general, image, x))
            mined, key_maps = self.excavating.inference(perceived.features, perceived.grid, originals)
        result = []
        for x, maps, found in zip(originals, key_maps, mined, strict=True):
            x.sources = torch.full_like(x.fpn_levels, -1)
            nodes = _join([x] if found is None else [x, found])
            nodes = nodes[nodes.scores.argsort(descending=True, stable=True)[: self.max_nodes]]
            merged, groups, similarity = nodes, torch.arange(len(nodes), device=self.device), None
            if self.purifying is not None:
                logits = self._similarity(nodes, perceived)
                similarity = logits.sigmoid()
                merged, groups = self.purifying.inference(logits, nodes)
            result.append(Mining(x, maps, nodes, similarity, groups, merged))
        return result

    @torch.no_grad()
    def draw(self, predictions: Predictions, mining: Sequence[Mining]) -> list[Instances]:
        """The masks of what was mined, with final scores, for every image."""
        _, general = predictions
        areas = torch.tensor(self.min_mask_areas, device=self.device)
        return [
            self.decoder.decode_nodes(
                x.merged,
                mask_logits(general, image, x.merged).float().sigmoid(),
                min_areas=areas[x.merged.fpn_levels],
                stride=self.mask_branch.stride,
                purified=self.purifying is not None,
            )
            for image, x in enumerate(mining)
        ]

    @torch.no_grad()
    def segment_boxes(self, predictions: Predictions, instances: list[Instances]) -> list[Instances]:
        """Attach `pred_masks` (R, h, w), probabilities, to instances with `pred_boxes` and `pred_classes`."""
        perceived, general = predictions
        probabilities = flat_cells([self.head.probabilities(level) for level in perceived.logits])
        for image, x in enumerate(instances):
            scores = probabilities[image][:, x.pred_classes].T
            cells = self.assigner.best_cells(x.pred_boxes, scores, perceived.grid)
            nodes = self.head.at_cells(perceived, image, cells, x.image_size)
            x.pred_masks = mask_logits(general, image, nodes).float().sigmoid()
        return instances

    def _provisional_boxes(
        self, perceived: Perceived, general: list[torch.Tensor], image: int, originals: Instances
    ) -> Boxes:
        """Boxes of the originals' masks; of the cell, where there is no mask."""
        stride = self.mask_branch.stride
        boxes = tight_boxes(mask_logits(general, image, originals).sigmoid() > self.decoder.mask_thresh) * stride
        half = perceived.grid.cell_sizes[originals.cells] / 2
        cells = torch.cat([originals.locations - half, originals.locations + half], dim=1)
        return Boxes(torch.where((boxes[:, 2:] > boxes[:, :2]).all(dim=1, keepdim=True), boxes, cells))

    def _similarity(self, nodes: Instances, perceived: Perceived) -> torch.Tensor:
        return self.purifying(nodes.descriptors, perceived.grid.normalized(nodes.locations))


def _join(parts: Sequence[Instances]) -> Instances:
    """Originals and mined instances of an image as one, with the fields that all of them have."""
    names = [name for name in parts[0].get_fields() if all(part.has(name) for part in parts)]
    return Instances.cat([Instances(part.image_size, **{name: part.get(name) for name in names}) for part in parts])


@torch.no_grad()
def _usable_masks(
    truth: Instances, objects: torch.Tensor, shape: tuple[int, int], padded: tuple[int, int]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Which of the objects (n,) have a mask that may be seen, (n,) bool, and these masks at the size of a map."""
    usable = torch.ones_like(objects, dtype=torch.bool)
    if truth.has("gt_has_mask"):
        usable = truth.gt_has_mask[objects]
    if len(objects) == 0 or not usable.any():
        return usable & False, torch.zeros(0, *shape, device=objects.device)
    masks = truth.gt_masks.tensor.to(objects.device, torch.bool)
    used, index = objects[usable].unique(return_inverse=True)
    targets = mask_targets(masks[used], shape, padded)[index]
    filled = targets.flatten(1).any(dim=1)
    return usable.index_put((usable.nonzero(as_tuple=True)[0],), filled), targets[filled]
