"""What comes out of a mapper, in numbers."""

import textwrap
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
from detectron2.structures import Instances


class SampleStatistics:
    """Collects what mapped images hold.

    Args:
        class_names: by class index; indices are told without them.
    """

    def __init__(self, class_names: Sequence[str] | None = None) -> None:
        self._names = class_names
        self._sizes: set[tuple[int, int]] = set()
        self._counts: list[int] = []
        self._recorded = 0
        self._crowds = 0
        self._classes: Counter[int] = Counter()
        # Of each instance; NaN where a field is not there.
        self._columns: dict[str, list[float]] = {"side": [], "has_mask": [], "occluded": [], "hidden": []}

    def add(self, instances: Instances, annotations: Iterable[dict] = ()) -> None:
        """Add a mapped image.

        Args:
            instances: what the mapper gives, on the CPU.
            annotations: of the record that it was made from.
        """
        annotations = list(annotations)
        self._recorded += len(annotations)
        self._crowds += sum(bool(annotation.get("iscrowd")) for annotation in annotations)
        self._sizes.add(tuple(instances.image_size))
        self._counts.append(len(instances))
        self._classes.update(instances.gt_classes.tolist())
        count = len(instances)
        nothing = [np.nan] * count
        self._columns["side"] += instances.gt_boxes.area().sqrt().tolist()
        has_mask = instances.gt_has_mask.tolist() if instances.has("gt_has_mask") else None
        self._columns["has_mask"] += has_mask or [float(instances.has("gt_masks"))] * count
        occluded = instances.has("gt_occluders")
        self._columns["occluded"] += instances.gt_occluders.nonempty().tolist() if occluded else nothing
        self._columns["hidden"] += _hidden_shares(instances) if instances.has("gt_amodal_masks") else nothing

    def lines(self) -> list[str]:
        """The numbers as text."""
        counts = np.array(self._counts)
        if not len(counts):
            return ["no images"]
        heights, widths = zip(*self._sizes, strict=True)
        lost = self._recorded - self._crowds - int(counts.sum())
        lines = [
            f"{len(counts)} images after augmentation: height {min(heights)} to {max(heights)}, "
            f"width {min(widths)} to {max(widths)} px",
            f"{counts.sum()} instances: mean {counts.mean():.1f} an image, median {np.median(counts):g}, most "
            f"{counts.max()}; {int((counts == 0).sum())} images without any ({100 * (counts == 0).mean():.0f} %)",
            f"{self._recorded} annotations in the records: {self._crowds} crowd regions, "
            f"{max(lost, 0)} left out by the mapper, or emptied by augmentation"
            + (f"; {-lost} more than these, pasted by the mapper" if lost < 0 else ""),
        ]
        if counts.sum():
            lines += self._of_instances()
        return lines

    def _of_instances(self) -> list[str]:
        columns = {name: np.array(values, dtype=float) for name, values in self._columns.items()}
        low, middle, high = np.percentile(columns["side"], [5, 50, 95])
        shares = [(columns["side"] < 32).mean(), (columns["side"] >= 96).mean()]
        lines = [
            f"size (square root of the box area): 5 % below {low:.0f} px, median {middle:.0f}, 5 % above {high:.0f}; "
            f"{100 * shares[0]:.0f} % below 32 px, {100 * shares[1]:.0f} % from 96 px",
            f"without a mask for the loss: {100 * (1 - columns['has_mask'].mean()):.1f} %",
        ]
        if not np.isnan(columns["occluded"]).all():
            lines.append(f"with an occluder in the box: {100 * np.nanmean(columns['occluded']):.1f} %")
        if not np.isnan(columns["hidden"]).all():
            hidden = columns["hidden"][~np.isnan(columns["hidden"])]
            lines.append(
                f"part of the amodal mask that gt_masks lacks: mean {100 * hidden.mean():.1f} %, more than a fifth of "
                f"{100 * (hidden > 0.2).mean():.1f} % of the instances"
            )
        text = ", ".join(f"{self._name(index)} {count}" for index, count in self._classes.most_common())
        known = f" of {len(self._names)}" if self._names else ""
        lines += textwrap.wrap(f"{len(self._classes)}{known} classes: {text}", 118, subsequent_indent="  ")
        return lines

    def _name(self, index: int) -> str:
        return self._names[index] if self._names and index < len(self._names) else str(index)


def _hidden_shares(instances: Instances) -> list[float]:
    """Share of each amodal mask that `gt_masks` lacks; NaN where the mask is hidden from the loss."""
    amodal = instances.gt_amodal_masks.tensor.bool()
    visible = (amodal & instances.gt_masks.tensor.bool()).flatten(1).sum(dim=1)
    shares = 1 - visible / amodal.flatten(1).sum(dim=1).clamp(min=1)
    if instances.has("gt_has_mask"):
        shares[~instances.gt_has_mask] = float("nan")
    return shares.tolist()
