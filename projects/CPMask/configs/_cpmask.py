"""What CPMask changes in a model, and the protocol of its tables: masks of some categories alone, few shots."""

from detectron2.config import LazyCall as L
from detectron2.data import MetadataCatalog

from instseg_d2.data import FewShot, FullSupervision, OnlyCategories, get_supervised_dataset_dicts
from instseg_d2.evaluation import SubsetCOCOEvaluator
from instseg_d2.modeling.ignored_regions import IgnoringROIHeads, IgnoringRPN
from instseg_d2.modeling.mask_heads.cpmask import CPMaskHead

from ....configs.common.data.partial import hide_masks

_HALVES = {"voc": "coco_voc", "nonvoc": "coco_nonvoc"}


def give_cpmask(owner):
    """Put CPMask's head in the place of Mask R-CNN's, in place.

    `owner` is the node that has `mask_head`: `model.roi_heads`, or `model` of a detector with a mask head behind it.
    """
    plain = owner.mask_head
    owner.mask_head = L(CPMaskHead)(
        input_shape=plain.input_shape,
        num_classes=1,
        conv_dim=plain.conv_dims[-1],
        num_convs=4,
        num_boundary_convs=4,
        boundary=True,
        affinity=True,
        embed_dim=None,
        scale=True,
        affinity_form="rows",
        boundary_weight=1.0,
        affinity_weight=1.0,
        keep_aux=False,
    )


def see_masks_of(dataloader, half):
    """Keep the masks of "voc" or "nonvoc" alone on COCO, in place; tasks `segm_seen`, `segm_unseen`, `segm_voc`, ..."""
    class_names = MetadataCatalog.get("coco_2017_val").thing_classes
    hide_masks(dataloader, seen=_HALVES[half], class_names=class_names)
    dataloader.evaluator.category_subsets.update(_HALVES)


def see_all_masks(dataloader, subsets=_HALVES):
    """The oracle: masks of all categories, in place. It serves both directions, so there is no seen and unseen on COCO.

    `subsets` are the categories that it is evaluated on, by name.
    """
    dataloader.train.dataset.supervision = L(FullSupervision)()
    dataloader.evaluator.category_subsets = subsets


def few_shots(dataloader, shots, novel="coco_voc", halves=_HALVES):
    """Train on `shots` instances of each novel category, with their masks, in place.

    `halves` are what is evaluated apart, by the name of its task: of VOC's categories `segm_voc`. `file` of the
    supervision takes a list in place of a draw, see `tools/select_shots.py`.
    """
    supervision = L(FewShot)(shots=shots, categories=novel, seed="${train.seed}", ignore=True, file=None)
    _supervise(dataloader, supervision, halves)


def base_categories(dataloader, base="coco_nonvoc", halves=_HALVES):
    """Train on the base categories, as if no other were annotated, in place; by default those that VOC lacks."""
    _supervise(dataloader, L(OnlyCategories)(categories=base), halves)


def _supervise(dataloader, supervision, halves):
    dataloader.train.dataset.update(_target_=get_supervised_dataset_dicts, supervision=supervision)
    dataloader.evaluator.update(_target_=SubsetCOCOEvaluator, category_subsets=halves)


def small_images(dataloader):
    """Short edge 600, long edge up to 1000, in training and test: the images of Meta R-CNN's protocol."""
    dataloader.train.mapper.augmentations[0].update(short_edge_length=(600,), max_size=1000)
    dataloader.test.mapper.augmentations[0].update(short_edge_length=600, max_size=1000)


def ignore_regions(rcnn):
    """Let a two-stage detector take no background from objects that were not drawn, in place; FCOS does by itself."""
    rcnn.proposal_generator._target_ = IgnoringRPN
    rcnn.roi_heads._target_ = IgnoringROIHeads


def fine_tune(optimizer, lr_multiplier, train, *, start):
    """2,000 iterations at a rate of 0.001, with one drop, from the weights of the run in the folder `start`, in place.

    `tools/convert_weights.py --from base_stage` makes the file of them: what scores classes lacks, and starts anew.
    """
    optimizer.lr = 0.001
    lr_multiplier.update(drop_at=[0.75], warmup_iters=100)
    train.recipe.lr = 0.001
    train.update(max_iter=2000, init_checkpoint=f"{start}/without_classes.pth")
