"""PEP, third step: which descriptors are of the same object (Sec. 3.4, eq. 5)."""

import torch
from detectron2.structures import Instances
from torch import nn
from torch.nn import functional as F

SIMILARITIES = ("cosine", "half_cosine", "distance")
MERGES = ("greedy", "components")
MERGED = ("mean", "best")


@torch.no_grad()
def similarity_targets(objects: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The matrix that the similarities shall approach, and where it says something.

    Args:
        objects: (n,) int64, the object of each descriptor, -1 for none.

    Returns:
        (n, n) float32, symmetric: 1 for descriptors of the same object and on the diagonal, else 0; and (n, n) bool: of
        a descriptor without object only its diagonal is known.
    """
    itself = torch.eye(len(objects), dtype=torch.bool, device=objects.device)
    has_object = objects >= 0
    same = (objects[:, None] == objects[None, :]) & has_object
    return (same | itself).float(), (has_object[:, None] & has_object[None, :]) | itself


@torch.no_grad()
def merge_groups(match: torch.Tensor, *, chains: bool = False) -> torch.Tensor:
    """Put descriptors together that match, best first.

    Each descriptor in its turn, unless it is taken already, becomes a seed and takes all that match it and are not
    taken.

    All seeds are found at once, by repetition until nothing changes: a descriptor is a seed if no better seed matches
    it. The first r are right after r rounds; two or three rounds are usual.

    Args:
        match: (n, n) bool, symmetric; in the order of falling scores.
        chains: everything that hangs together by matches becomes one group, in place of the above.

    Returns:
        (n,) int64, the best of each descriptor's group; its own index for a seed.
    """
    count = len(match)
    index = torch.arange(count, device=match.device)
    match = match | torch.eye(count, dtype=torch.bool, device=match.device)
    if chains:
        leaders = index
        for _ in range(count):
            # The lowest leader among those that one is joined with.
            lowest = torch.where(match, leaders[None, :], count).amin(dim=1)
            if torch.equal(lowest, leaders):
                break
            leaders = lowest
        return leaders
    better = match.triu(diagonal=1)
    seeds = torch.ones(count, dtype=torch.bool, device=match.device)
    for _ in range(count):
        changed = ~(better & seeds[:, None]).any(dim=0)
        if torch.equal(changed, seeds):
            break
        seeds = changed
    return torch.where(match & seeds[None, :], index[None, :], count).amin(dim=1) if count else index


@torch.no_grad()
def merge_descriptors(descriptors: torch.Tensor, scores: torch.Tensor, leaders: torch.Tensor) -> torch.Tensor:
    """Mean of each group, weighted by score.

    Args:
        descriptors: (n, C).
        scores: (n,), positive.
        leaders: (n,) from `merge_groups`.

    Returns:
        (n, C) float32; the rows of seeds hold the means, the others zeros.
    """
    weights = scores.float().clamp(min=1e-12)[:, None]
    total = torch.zeros(len(scores), 1, device=scores.device).index_add_(0, leaders, weights)
    summed = torch.zeros_like(descriptors, dtype=torch.float32).index_add_(0, leaders, weights * descriptors.float())
    return summed / total.clamp(min=1e-12)


class InstancePurifying(nn.Module):
    """Embeds descriptors so that those of one object are close, and joins close ones.

    The paper asks for a matrix of similarities by distance in feature space, trained by cross entropy, and for merging
    of what is close. Embedding, measure and rule of merging are ours.

    Args:
        channels: C of the descriptors.
        embedding_dims: channels of the two linear layers.
        coordinates: the embedding is also made from the places.
        similarity: probability that two descriptors are of one object. "cosine": the sigmoid of scale times cosine
            plus bias, both trained, at first 10 and -5; "half_cosine": (1 + cosine) / 2; "distance": exp(-d), d the
            distance of the embeddings without normalisation.
        balanced: positive and negative pairs have half of the weight each, and the diagonal, which is always 1, has
            none; else the mean over the whole matrix, as printed.
        merge_threshold: in inference, descriptors of the same class match above this probability.
        merge: "greedy" or "components" (with chains), see `merge_groups`.
        merged: descriptor of a group, "mean" (see `merge_descriptors`) or that of its "best".
        loss_weight: gamma of eq. 8.

    Raises:
        ValueError: an option has a value that it does not know.
    """

    def __init__(
        self,
        *,
        channels: int = 256,
        embedding_dims: tuple[int, int] = (256, 128),
        coordinates: bool = False,
        similarity: str = "cosine",
        balanced: bool = True,
        merge_threshold: float = 0.5,
        merge: str = "greedy",
        merged: str = "mean",
        loss_weight: float = 1.0,
    ):
        super().__init__()
        options = (("similarity", similarity, SIMILARITIES), ("merge", merge, MERGES), ("merged", merged, MERGED))
        for name, value, known in options:
            if value not in known:
                raise ValueError(f"{name}='{value}': must be one of {known}")
        hidden, width = embedding_dims
        self.embedding = nn.Sequential(
            nn.Linear(channels + 2 * coordinates, hidden), nn.ReLU(), nn.Linear(hidden, width)
        )
        if similarity == "cosine":
            self.scale = nn.Parameter(torch.tensor(10.0))
            self.bias = nn.Parameter(torch.tensor(-5.0))
        self.coordinates = coordinates
        self.similarity = similarity
        self.balanced = balanced
        self.merge_threshold = merge_threshold
        self.merge = merge
        self.merged = merged
        self.loss_weight = loss_weight

    def forward(self, descriptors: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        """The matrix M as logits.

        Args:
            descriptors: (n, C).
            places: (n, 2) in [-1, 1]; looked at only with `coordinates`.

        Returns:
            (n, n) float32, symmetric: the sigmoid is the probability of being the same object.
        """
        # Products of many numbers, and differences of probabilities near 1: not in 16 bits.
        with torch.autocast(descriptors.device.type, enabled=False):
            nodes = descriptors.float()
            nodes = self.embedding(torch.cat([nodes, places.float()], dim=1) if self.coordinates else nodes)
            if self.similarity == "distance":
                squares = (nodes[:, None] - nodes[None, :]).square().sum(dim=2)
                # The root has no slope at 0, where the diagonal is.
                distance = squares.clamp(min=1e-12).sqrt()
                return -torch.expm1(distance.clamp(max=80)).log()
            nodes = F.normalize(nodes, dim=1)
            cosine = nodes @ nodes.T
            if self.similarity == "cosine":
                return self.scale * cosine + self.bias
            return torch.logit((1 + cosine) / 2, eps=1e-6)

    def losses(self, logits: list[torch.Tensor], objects: list[torch.Tensor]) -> dict[str, torch.Tensor]:
        """Compute `loss_purify`, eq. 5; a zero that keeps the graph where there is no pair.

        Args:
            logits: per image (n, n), from `forward`.
            objects: per image (n,) int64, the object of each descriptor, -1 for none.
        """
        targets, used = zip(*(similarity_targets(x) for x in objects), strict=True)
        if self.balanced:
            used = [x & ~torch.eye(len(x), dtype=torch.bool, device=x.device) for x in used]
        chosen = torch.cat([x[mask] for x, mask in zip(logits, used, strict=True)])
        target = torch.cat([x[mask] for x, mask in zip(targets, used, strict=True)])
        if len(chosen) == 0:
            return {"loss_purify": chosen.sum() + 0 * sum(x.sum() for x in logits)}
        each = F.binary_cross_entropy_with_logits(chosen, target, reduction="none")
        if not self.balanced:
            return {"loss_purify": self.loss_weight * each.mean()}
        halves = [(each * x).sum() / x.sum().clamp(min=1) / 2 for x in (target, 1 - target)]
        return {"loss_purify": self.loss_weight * sum(halves)}

    @torch.no_grad()
    def inference(self, logits: torch.Tensor, nodes: Instances) -> tuple[Instances, torch.Tensor]:
        """Merge the descriptors of one image.

        Args:
            logits: (n, n), from `forward`.
            nodes: best first, with `descriptors`, `scores` and `pred_classes`.

        Returns:
            one instance a group: its best, with the group's descriptor; and (n,) the best of each node's group.
        """
        same_class = nodes.pred_classes[:, None] == nodes.pred_classes[None, :]
        match = (logits.sigmoid() > self.merge_threshold) & same_class
        leaders = merge_groups(match, chains=self.merge == "components")
        seeds = (leaders == torch.arange(len(nodes), device=leaders.device)).nonzero(as_tuple=True)[0]
        result = nodes[seeds]
        if self.merged == "mean":
            means = merge_descriptors(nodes.descriptors, nodes.scores, leaders)
            result.descriptors = means[seeds].to(nodes.descriptors.dtype)
        return result, leaders
