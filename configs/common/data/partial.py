"""Masks of some categories alone in training, and figures of the seen and the unseen ones in the evaluation."""

from detectron2.config import LazyCall as L

from instseg_d2.data import PartialSupervision, get_supervised_dataset_dicts
from instseg_d2.data.category_splits import seen_and_unseen
from instseg_d2.evaluation import SubsetCOCOEvaluator, overlap_at_least


def hide_masks(dataloader, *, seen, class_names):
    """Let the loader keep masks of the categories `seen` alone, in place; tasks `segm_seen`, `segm_unseen`.

    The other direction is one override, as the evaluation follows it: `dataloader.train.dataset.supervision.seen`.
    `segm_unseen_overlap_0.3` are the objects whose box another one's mask fills to 0.3 or more.

    Args:
        dataloader: with `train`, `test` and `evaluator`.
        seen: a split of `CATEGORY_SPLITS`, or names of categories.
        class_names: all categories of the data set.
    """
    dataloader["train"].dataset.update(
        _target_=get_supervised_dataset_dicts, supervision=L(PartialSupervision)(seen=seen)
    )
    link = "${dataloader.train.dataset.supervision.seen}"
    dataloader["evaluator"].update(
        _target_=SubsetCOCOEvaluator,
        category_subsets=L(seen_and_unseen)(seen=link, class_names=list(class_names)),
        instance_subsets=[L(overlap_at_least)(threshold=0.3)],
    )
