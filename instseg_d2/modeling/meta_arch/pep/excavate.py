"""PEP, second step: find the objects around those that were perceived (Sec. 3.3, eq. 3 and 4)."""

import math
from collections.abc import Sequence
from itertools import accumulate

import fvcore.nn.weight_init as weight_init
import torch
from detectron2.structures import Boxes, Instances
from fvcore.nn import sigmoid_focal_loss_jit
from torch import nn
from torch.nn import functional as F
from torchvision.ops import roi_align

from instseg_d2.layers.focal_loss import focal_loss_of_labels
from instseg_d2.layers.key_points import key_point_focal_loss, paint_points
from instseg_d2.layers.mask_losses import mask_bce
from instseg_d2.layers.point_nms import point_nms
from instseg_d2.layers.ranks import mean_over_ranks

from .targets import CellGrid

INTERACTIONS = ("modulate", "dynamic")
KEY_LOSSES = ("focal", "gaussian", "bce")
CLASSIFIERS = ("softmax", "sigmoid")


class ModulatedWindow(nn.Module):
    """Key-pixel logits from the window's features times the original's descriptor, channel by channel.

    Args:
        channels: of features and descriptors.
        conv_dims: 3x3 convolutions with ReLU before the one that gives the logit.
    """

    def __init__(self, channels: int, conv_dims: Sequence[int]):
        super().__init__()
        widths = [channels, *conv_dims]
        self.tower = nn.Sequential()
        for before, after in zip(widths, widths[1:], strict=False):
            convolution = nn.Conv2d(before, after, 3, padding=1)
            weight_init.c2_msra_fill(convolution)
            self.tower.append(convolution)
            self.tower.append(nn.ReLU())
        self.logits = nn.Conv2d(widths[-1], 1, 3, padding=1)
        nn.init.normal_(self.logits.weight, std=0.01)

    def forward(self, windows: torch.Tensor, descriptors: torch.Tensor) -> torch.Tensor:
        """(n, C, S, S) and (n, C) to (n, S, S)."""
        return self.logits(self.tower(windows * descriptors[:, :, None, None]))[:, 0]


class DynamicWindow(nn.Module):
    """Key-pixel logits by a 1x1 convolution whose kernel is a linear map of the original's descriptor.

    Args:
        channels: of features and descriptors.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.kernel = nn.Linear(channels, channels)
        nn.init.normal_(self.kernel.weight, std=0.01)
        nn.init.zeros_(self.kernel.bias)
        self.logits = nn.Conv2d(1, 1, 1)
        nn.init.ones_(self.logits.weight)

    def forward(self, windows: torch.Tensor, descriptors: torch.Tensor) -> torch.Tensor:
        """(n, C, S, S) and (n, C) to (n, S, S)."""
        return self.logits((windows * self.kernel(descriptors)[:, :, None, None]).sum(dim=1, keepdim=True))[:, 0]


class ObjectExcavating(nn.Module):
    """Looks around each original for centers of other objects, the key pixels, and makes descriptors of them.

    The paper fixes this much: a binary map around each original; for each key pixel the original's descriptor is
    copied, the coordinates are appended, and convolutions give the new descriptor and its class. It names neither the
    region, nor what the map is predicted from, nor thresholds: those are arguments. A descriptor alone knows no places;
    here it weighs the channels of the features in a window around the original.

    Instances of originals need `descriptors` (n, C), `fpn_levels` (n,), and `windows` (n, 4) as `Boxes`.

    Args:
        channels: C, of descriptors and features alike.
        num_classes: K.
        window_scale: side of the window as a multiple of the object's box.
        window_size: S, cells a side that the window is sampled to.
        interaction: "modulate" (`ModulatedWindow`) or "dynamic" (`DynamicWindow`).
        conv_dims: of `ModulatedWindow`.
        key_loss: "focal", 1 in the cells of the centers, divided by their number; "gaussian", the same with lenience
            within a cell or so; "bce", the mean over all cells of the cross entropy of eq. 3.
        focal_alpha: of "focal", and of the classifier if it is "sigmoid".
        focal_gamma: as `focal_alpha`.
        prior_prob: probability of a key pixel before training.
        classifier: "softmax" over K classes and background, or "sigmoid".
        sample_feature: a new descriptor is also made from the features at the key pixel; as printed, nothing but the
            coordinates tells it what is there.
        train_keys_per_original: true key pixels of an original that train descriptors, the nearest ones.
        train_keys_per_image: and those of an image, drawn at random.
        key_threshold: in inference, key pixels are more probable than that.
        keys_per_original: in inference, at most.
        detach: the losses of this step do not reach the originals' descriptors.
        class_weight: beta of eq. 8.
        key_weight: alpha of eq. 8.

    Raises:
        ValueError: an option has a value that it does not know.
    """

    def __init__(
        self,
        *,
        channels: int = 256,
        num_classes: int,
        window_scale: float = 3.0,
        window_size: int = 32,
        interaction: str = "modulate",
        conv_dims: Sequence[int] = (128, 128),
        key_loss: str = "focal",
        focal_alpha: float = 0.25,
        focal_gamma: float = 2.0,
        prior_prob: float = 0.01,
        classifier: str = "softmax",
        sample_feature: bool = False,
        train_keys_per_original: int = 3,
        train_keys_per_image: int = 10,
        key_threshold: float = 0.3,
        keys_per_original: int = 3,
        detach: bool = False,
        class_weight: float = 1.0,
        key_weight: float = 1.0,
    ):
        super().__init__()
        for name, value, known in (
            ("interaction", interaction, INTERACTIONS),
            ("key_loss", key_loss, KEY_LOSSES),
            ("classifier", classifier, CLASSIFIERS),
        ):
            if value not in known:
                raise ValueError(f"{name}='{value}': must be one of {known}")
        self.num_classes = num_classes
        self.window_scale = window_scale
        self.window_size = window_size
        self.key_loss = key_loss
        self.focal = {"alpha": focal_alpha, "gamma": focal_gamma}
        self.classifier = classifier
        self.sample_feature = sample_feature
        self.train_keys_per_original = train_keys_per_original
        self.train_keys_per_image = train_keys_per_image
        self.key_threshold = key_threshold
        self.keys_per_original = keys_per_original
        self.detach = detach
        self.class_weight = class_weight
        self.key_weight = key_weight
        self.keys = ModulatedWindow(channels, list(conv_dims)) if interaction == "modulate" else DynamicWindow(channels)
        # Convolutions over single pixels are linear maps.
        self.describe = nn.Sequential(
            nn.Linear(channels * (1 + sample_feature) + 2, channels), nn.ReLU(), nn.Linear(channels, channels)
        )
        self.classes = nn.Linear(channels, num_classes + (classifier == "softmax"))
        nn.init.normal_(self.classes.weight, std=0.01)
        rare = -math.log((1 - prior_prob) / prior_prob)
        nn.init.constant_(self.keys.logits.bias, rare)
        nn.init.constant_(self.classes.bias, rare if classifier == "sigmoid" else 0.0)

    def windows(self, boxes: Boxes) -> Boxes:
        """Where to look for neighbours of the objects in these boxes; may reach beyond the image.

        Sides are at least a pixel, also of empty boxes.
        """
        centers = boxes.get_centers()
        half = (boxes.tensor[:, 2:] - boxes.tensor[:, :2]).mul(self.window_scale).clamp(min=1) / 2
        return Boxes(torch.cat([centers - half, centers + half], dim=1))

    def losses(
        self, features: list[torch.Tensor], grid: CellGrid, originals: list[Instances], truth: list[Instances]
    ) -> tuple[dict[str, torch.Tensor], list[Instances]]:
        """Train on the true key pixels, and make the mined descriptors.

        Args:
            features: per level (N, C, h, w), the maps of `grid`.
            grid: of the batch.
            originals: per image, see the class, with `gt_inds` (n,), their objects.
            truth: per image, with `gt_classes` and `gt_centers` (M, 2) xy pixels.

        Returns:
            `loss_excavate` (eq. 3) and `loss_excavate_class` (eq. 4); and per image the mined instances with
            `descriptors`, `fpn_levels`, `locations`, and `gt_inds`.
        """
        logits = self.key_logits(features, grid, originals)
        true = [self.true_keys(x, y) for x, y in zip(originals, truth, strict=True)]
        mined = self.mine(features, grid, originals, [keys for keys, _, _ in true])
        labels = torch.cat([y.gt_classes[x.gt_inds] for x, y in zip(mined, truth, strict=True)])
        class_logits = self.classes(torch.cat([x.descriptors for x in mined])).float()
        return {
            "loss_excavate": self.key_weight
            * self._key_loss(logits, [(len(x), *cells) for x, (_, *cells) in zip(originals, true, strict=True)]),
            "loss_excavate_class": self.class_weight * self._class_loss(class_logits, labels),
        }, mined

    def inference(
        self, features: list[torch.Tensor], grid: CellGrid, originals: list[Instances]
    ) -> tuple[list[Instances], list[torch.Tensor]]:
        """Find key pixels and make the mined descriptors.

        Args:
            features: see `losses`.
            grid: of the batch.
            originals: per image, see the class.

        Returns:
            per image the mined instances with `descriptors`, `fpn_levels`, `locations`, `sources` (index of the
            original), `pred_classes`, and `scores`, probability of the key pixel times that of the class; and the
            key-pixel probabilities (n, S, S) of the originals' windows.
        """
        maps = self.key_logits(features, grid, originals).float().sigmoid().split([len(x) for x in originals])
        mined = self.mine(features, grid, originals, [self.peaks(m, x) for m, x in zip(maps, originals, strict=True)])
        for found in mined:
            logits = self.classes(found.descriptors).float()
            probabilities = logits.softmax(dim=1)[:, :-1] if self.classifier == "softmax" else logits.sigmoid()
            best, found.pred_classes = probabilities.max(dim=1)
            found.scores = found.scores * best
        return mined, list(maps)

    def key_logits(self, features: list[torch.Tensor], grid: CellGrid, originals: list[Instances]) -> torch.Tensor:
        """(n, S, S) logits of all images' originals: is a cell of the window the center of another object."""
        descriptors = torch.cat([x.descriptors for x in originals])
        if self.detach:
            descriptors = descriptors.detach()
        return self.keys(self._pool(features, grid, originals), descriptors)

    @torch.no_grad()
    def true_keys(self, originals: Instances, truth: Instances) -> tuple[Instances, torch.Tensor, torch.Tensor]:
        """The centers of other objects in the originals' windows; an original's own object is no key pixel.

        Args:
            originals: of one image, with `windows` and `gt_inds`.
            truth: with `gt_centers`.

        Returns:
            the key pixels that descriptors are made of, with `sources`, `locations` and `gt_inds`; and all of them as
            original (P,) and cell (P, 2), column and line.
        """
        own = originals.gt_inds[:, None] == torch.arange(len(truth), device=originals.gt_inds.device)
        sides = originals.windows.tensor[:, None, 2:] - originals.windows.tensor[:, None, :2]
        places = (truth.gt_centers - originals.windows.tensor[:, None, :2]) / sides
        inside = ((places >= 0) & (places < 1)).all(dim=2) & ~own
        source, target = inside.nonzero(as_tuple=True)
        cells = (places[source, target] * self.window_size).long().clamp(max=self.window_size - 1)
        # Distances in pixels, from the middle of the window.
        distance = ((places - 0.5) * sides).norm(dim=2).masked_fill(~inside, math.inf)
        near = (distance.argsort(dim=1).argsort(dim=1) < self.train_keys_per_original)[source, target]
        chosen = near.nonzero(as_tuple=True)[0]
        chosen = chosen[torch.randperm(len(chosen), device=chosen.device)[: self.train_keys_per_image]]
        keys = Instances(
            originals.image_size,
            sources=source[chosen],
            locations=self._locations(originals.windows[source[chosen]], cells[chosen]),
            gt_inds=target[chosen],
        )
        return keys, source, cells

    @torch.no_grad()
    def peaks(self, maps: torch.Tensor, originals: Instances) -> Instances:
        """The key pixels in probability maps: highest of 3x3 cells, above the threshold, inside the image.

        Args:
            maps: (n, S, S).
            originals: of one image, with `windows`.

        Returns:
            with `sources`, `locations` and `scores`, the probabilities.
        """
        peaks = point_nms(maps[:, None], size=3).flatten(1)
        values, flat = peaks.topk(min(self.keys_per_original, peaks.shape[1]), dim=1)
        sources = torch.arange(len(maps), device=maps.device)[:, None].expand_as(flat)
        height, width = originals.image_size
        keep = (values > self.key_threshold).flatten()
        sources, flat, values = sources.flatten()[keep], flat.flatten()[keep], values.flatten()[keep]
        cells = torch.stack([flat % self.window_size, flat // self.window_size], dim=1)
        points = self._locations(originals.windows[sources], cells)
        inside = ((points >= 0) & (points < points.new_tensor([width, height]))).all(dim=1)
        return Instances(originals.image_size, sources=sources[inside], locations=points[inside], scores=values[inside])

    def mine(
        self, features: list[torch.Tensor], grid: CellGrid, originals: list[Instances], keys: list[Instances]
    ) -> list[Instances]:
        """Give key pixels `descriptors` and `fpn_levels`, from those of their originals.

        Args:
            features: see `losses`.
            grid: of the batch.
            originals: per image.
            keys: per image, with `sources` and `locations`.

        Returns:
            the same key pixels, with all their fields.
        """
        for index, (x, found) in enumerate(zip(originals, keys, strict=True)):
            found.fpn_levels = x.fpn_levels[found.sources]
            places = grid.normalized(found.locations)
            descriptors = x.descriptors.detach() if self.detach else x.descriptors
            parts = [descriptors[found.sources], places.to(descriptors.dtype)]
            if self.sample_feature:
                maps = [level[index] for level in features]
                parts.append(_sample(maps, places, found.fpn_levels).to(descriptors.dtype))
            found.descriptors = self.describe(torch.cat(parts, dim=1))
        return keys

    def _pool(self, features: list[torch.Tensor], grid: CellGrid, originals: list[Instances]) -> torch.Tensor:
        """(n, C, S, S) features of the windows, each from its original's level."""
        image = torch.repeat_interleave(
            torch.arange(len(originals), device=grid.device),
            torch.tensor([len(x) for x in originals], device=grid.device),
        )
        windows = torch.cat([x.windows.tensor for x in originals])
        levels = torch.cat([x.fpn_levels for x in originals])
        pooled = windows.new_zeros(len(windows), features[0].shape[1], self.window_size, self.window_size)
        for level, (maps, (rows, columns)) in enumerate(zip(features, grid.shapes, strict=True)):
            chosen = (levels == level).nonzero(as_tuple=True)[0]
            # Cells need not be square, so the windows are brought to each map's own units.
            unit = windows.new_tensor([columns / grid.width, rows / grid.height]).repeat(2)
            rois = torch.cat([image[chosen, None].float(), windows[chosen] * unit], dim=1)
            values = roi_align(maps.float(), rois, self.window_size, sampling_ratio=2, aligned=True)
            pooled = pooled.index_copy(0, chosen, values)
        return pooled

    def _locations(self, windows: Boxes, cells: torch.Tensor) -> torch.Tensor:
        """Middle of a cell (column, line) of each window, xy pixels."""
        corners, ends = windows.tensor.split(2, dim=1)
        return corners + (cells + 0.5) / self.window_size * (ends - corners)

    def _key_loss(self, logits: torch.Tensor, found: list[tuple[int, torch.Tensor, torch.Tensor]]) -> torch.Tensor:
        """Eq. 3, from the number of originals, and originals and cells of the true key pixels, of each image."""
        before = accumulate((count for count, _, _ in found), initial=0)
        rows = torch.cat([source + start for (_, source, _), start in zip(found, before, strict=False)])
        cells = torch.cat([cells for _, _, cells in found])
        # A Gaussian that is 0.14 in the next cell: CenterNet's for a radius of one.
        targets = paint_points(rows, cells, tuple(logits.shape), sigma=0.5 if self.key_loss == "gaussian" else 0)
        if self.key_loss == "bce":
            return mask_bce(logits, targets)
        if self.key_loss == "gaussian":
            loss = key_point_focal_loss(logits, targets)
        else:
            loss = sigmoid_focal_loss_jit(logits.float(), targets, reduction="sum", **self.focal)
        return loss / _mean_count(rows)

    def _class_loss(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        if self.classifier == "sigmoid":
            loss = focal_loss_of_labels(logits, labels, **self.focal)
        else:
            loss = F.cross_entropy(logits, labels, reduction="sum")
        return loss / _mean_count(labels)


def _mean_count(items: torch.Tensor) -> torch.Tensor:
    """How many items a process has in the mean of all, 1 at least: what a sum over its own is divided by."""
    return mean_over_ranks(torch.tensor(float(len(items)), device=items.device)).clamp(min=1)


def _sample(maps: list[torch.Tensor], places: torch.Tensor, levels: torch.Tensor) -> torch.Tensor:
    """(k, C) features at places (k, 2) in [-1, 1], each of the map (C, h, w) of its level."""
    sampled = places.new_zeros(len(places), maps[0].shape[0])
    for level, features in enumerate(maps):
        chosen = (levels == level).nonzero(as_tuple=True)[0]
        values = F.grid_sample(features[None].float(), places[None, None, chosen], align_corners=False)
        sampled = sampled.index_copy(0, chosen, values[0, :, 0].T)
    return sampled
