"""What the stages of VOIN ask of their data, and pictures of what they make."""

from detectron2.config import LazyCall as L

from instseg_d2.data.video_inpainting.clips import Erasing
from instseg_d2.engine.inpainting_samples import SampleGrids
from instseg_d2.inpainting.flow.backends import DISFlow


def estimate_flow(dataloader, *, exact_truth, **mappers):
    """Consecutive frames with flow and exact masks, for the stages after shape completion, in place.

    Args:
        dataloader: of a stage.
        exact_truth: the data have the flow of the clean frames; else it is estimated, as the observed one is.
        mappers: by split, further settings of `ClipMapper`.
    """
    for split, settings in mappers.items():
        dataloader[split].mapper.update(flow=L(DISFlow)(), **settings)
        dataloader[split].dataset.clips.update(
            consecutive=1.0,
            erasing=L(Erasing)(behind=0.0, fills=(1.0, 0.0, 0.0), jitter=0, drop=0.0),
            flow=exact_truth,
        )


def shape_errors(dataloader, *, jitter):
    """Visible masks with errors in the training of all stages together, in place.

    Args:
        dataloader: of a stage.
        jitter: see `Erasing`, pixels.
    """
    dataloader["train"].dataset.clips.erasing.update(jitter=jitter, drop=0.05)


def draw_samples(train, *, period):
    """Pictures of two clips of the test every `period` iterations, in place."""
    train["hooks"] = [
        L(SampleGrids)(
            dataset="${dataloader.test.dataset}",
            mapper="${dataloader.test.mapper}",
            output_dir="${train.output_dir}",
            period=period,
        )
    ]
