"""Key frames and their references in training: which frames, and which regions show the same object in both."""

from collections.abc import Sequence

import torch
from detectron2.structures import Instances
from torch.nn import functional as F

from instseg_d2.data.errors import DatasetError


def reference_frames(batched_inputs: Sequence[dict], count: int) -> list[list[dict]]:
    """Arrange the references of a batch by their place in time.

    The result has the same length in every batch, as all processes must take the same steps.

    Args:
        batched_inputs: B key frames, each with `references` in the order of time.
        count: how many places. Of more references the last ones are taken; where there are fewer, the first one stands
            in for those before it.

    Returns:
        per place B frames, one of each key frame.

    Raises:
        DatasetError: a key frame has no reference.
    """
    rows = []
    for item in batched_inputs:
        found = list(item.get("references", ()))[-count:]
        if not found:
            raise DatasetError(
                f"image '{item.get('file_name', '?')}' came without `references`: a video model is trained with "
                "a loader of key frames and references, such as that of configs/common/data/occvideo.py"
            )
        rows.append([found[0]] * (count - len(found)) + found)
    return [list(frames) for frames in zip(*rows, strict=True)]


def identities(instances: Instances) -> torch.Tensor:
    """`gt_ids` (N,) int64 of regions or objects; of an image without any, which may lack the field, an empty tensor."""
    if len(instances) == 0 and not instances.has("gt_ids"):
        return torch.zeros(0, dtype=torch.int64)
    return instances.gt_ids


@torch.no_grad()
def pair_regions(
    embeddings: torch.Tensor,
    ids: torch.Tensor,
    reference_embeddings: torch.Tensor,
    reference_ids: torch.Tensor,
    *,
    threshold: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Pair each region of a key frame with the region of its reference that shows the same object most alike.

    Args:
        embeddings: (R, D) of the key frame's regions.
        ids: (R,) int64, which object each shows.
        reference_embeddings: (Q, D).
        reference_ids: (Q,) int64.
        threshold: of the cosine similarity; regions that find no more than this have no partner.

    Returns:
        (P,) int64 indices of regions of the key frame, and (P,) int64 those of their partners.
    """
    if len(reference_ids) == 0:
        return ids.new_zeros(0), ids.new_zeros(0)
    similarity = F.normalize(embeddings.float(), dim=1) @ F.normalize(reference_embeddings.float(), dim=1).T
    similarity = similarity.masked_fill(ids[:, None] != reference_ids[None], -torch.inf)
    best, partner = similarity.max(dim=1)
    rows = (best > threshold).nonzero()[:, 0]
    return rows, partner[rows]
