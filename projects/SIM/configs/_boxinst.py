"""What BoxInst changes in a CondInst model and its data: losses of boxes and colors, and no masks from the loader."""

from detectron2.config import LazyCall as L

from instseg_d2.data.supervision import BoxSupervision, get_supervised_dataset_dicts
from instseg_d2.modeling.meta_arch.condinst.boxinst import BoxInstLoss


def supervise_by_boxes(model, dataloader):
    """Train on boxes alone, in place: masks are taken out of the records, and the mapper makes none."""
    model.supervision = L(BoxInstLoss)(
        input_format="${..input_format}",
        warmup_iters=10000,
        color_threshold=0.3,
        neighbor_size=3,
        neighbor_dilation=2,
        bottom_pixels_removed=10,
    )
    model.mask_branch.out_channels = 16
    model.update(max_positives=None, positives_per_image=64)
    model.detector.center_sampling = "box"
    dataloader.train.dataset.update(_target_=get_supervised_dataset_dicts, supervision=L(BoxSupervision)())
    dataloader.train.mapper.use_instance_mask = False
