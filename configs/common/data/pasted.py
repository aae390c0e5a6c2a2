"""Training images with objects of the same set pasted over their instances."""

from detectron2.config import LazyCall as L

from instseg_d2.data.occlusion_paste import OcclusionPasteMapper, PasteOcclusion


def paste_occlusion(dataloader, **settings):
    """Let the mapper paste, in place; `settings` are those of `PasteOcclusion`.

    The training set is read a second time, for the objects to cut out, so a supervision hides masks in both.
    """
    dataloader["train"].mapper.update(
        _target_=OcclusionPasteMapper, paste=L(PasteOcclusion)(**settings), sources="${dataloader.train.dataset}"
    )
