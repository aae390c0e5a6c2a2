"""What supervision by boxes changes in a Mask2Former model and its data; masks are taken out by the loader."""

from detectron2.config import LazyCall as L

from instseg_d2.data.supervision import BoxSupervision, get_supervised_dataset_dicts
from instseg_d2.modeling.meta_arch.mask2former.box_criterion import BoxLoss
from instseg_d2.modeling.meta_arch.mask2former.matcher import BoxMatcher


def supervise_by_boxes(model, dataloader):
    """Train on boxes alone, in place: masks are taken out of the records, and the mapper makes none."""
    model.supervision = L(BoxLoss)(
        matcher=L(BoxMatcher)(
            class_weight="${..class_weight}", corner_weight=5.0, giou_weight=2.0, projection_weight=0.0
        ),
        input_format="${..input_format}",
        class_weight=2.0,
        no_object_weight=0.1,
        projection_weight=5.0,
        pairwise_weight=1.25,
        warmup_iters=10000,
        color_threshold=0.3,
        bottom_pixels_removed=10,
    )
    dataloader.train.dataset.update(_target_=get_supervised_dataset_dicts, supervision=L(BoxSupervision)())
    dataloader.train.mapper.use_instance_mask = False
