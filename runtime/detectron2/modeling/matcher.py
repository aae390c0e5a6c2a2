"""Assignment of predictions to ground truth by thresholds on their pairwise quality."""

import math

import torch

__all__ = ["Matcher"]


class Matcher:
    """Gives each prediction its best ground truth, and a label by how good that match is.

    With thresholds [0.3, 0.5] and labels [0, -1, 1], a prediction whose best IoU is below 0.3 is background (0), from
    0.3 to below 0.5 ignored (-1), and from 0.5 on foreground (1).

    Args:
        thresholds (list[float]): positive, ascending borders between the labels.
        labels (list[int]): one more than thresholds, each -1 (ignore), 0 (background) or 1 (foreground).
        allow_low_quality_matches (bool): also label as foreground the predictions that no other prediction beats for
            some ground truth; see :meth:`set_low_quality_matches_`.
    """

    def __init__(self, thresholds: list[float], labels: list[int], allow_low_quality_matches: bool = False):
        borders = [-math.inf, *thresholds, math.inf]
        assert borders[1] > 0, f"thresholds must be positive, got {thresholds}"
        assert borders == sorted(borders), f"thresholds must ascend, got {thresholds}"
        assert set(labels) <= {-1, 0, 1}, f"labels must be -1, 0 or 1, got {labels}"
        assert len(labels) == len(borders) - 1, f"{len(labels)} labels for {len(borders) - 2} thresholds"
        self.thresholds = borders
        self.labels = labels
        self.allow_low_quality_matches = allow_low_quality_matches

    def __call__(self, match_quality_matrix):
        """Args:
            match_quality_matrix (Tensor): (M, N), quality >= 0 of each of N predictions for each of M ground truths.

        Returns:
            Tensor: (N,) int64, index of the best ground truth; 0 if there is none.
            Tensor: (N,) int8, labels; `labels[0]` if there is no ground truth.
        """
        quality = match_quality_matrix
        assert quality.dim() == 2, f"match_quality_matrix must be (M, N), got {tuple(quality.shape)}"
        if quality.numel() == 0:
            matches = quality.new_zeros(quality.shape[1], dtype=torch.int64)
            return matches, torch.full_like(matches, self.labels[0], dtype=torch.int8)
        assert quality.min() >= 0, "match_quality_matrix must be >= 0"

        best, matches = quality.max(dim=0)
        match_labels = torch.ones_like(matches, dtype=torch.int8)
        for label, low, high in zip(self.labels, self.thresholds, self.thresholds[1:], strict=False):
            match_labels.masked_fill_((best >= low) & (best < high), label)
        if self.allow_low_quality_matches:
            self.set_low_quality_matches_(match_labels, quality)
        return matches, match_labels

    def set_low_quality_matches_(self, match_labels, match_quality_matrix):
        """Label as foreground, in place, the best prediction of each ground truth, ties included.

        The matched index stays the prediction's own best ground truth, which may be another one (case (i) in
        Sec. 3.1.2 of arXiv:1506.01497).

        Args:
            match_labels (Tensor): (N,) int8, changed.
            match_quality_matrix (Tensor): (M, N).
        """
        best_of_gt = match_quality_matrix.amax(dim=1, keepdim=True)
        match_labels.masked_fill_((match_quality_matrix == best_of_gt).any(dim=0), 1)
