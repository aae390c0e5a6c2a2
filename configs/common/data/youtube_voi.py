"""YouTube-VOI under `$DETECTRON2_DATASETS/youtube_voi`: 432 x 240 px, as `tools/build_voi.py` writes it.

For shape completion: occluders are shown as pixels, grey or texture, and visible masks have errors. The published masks
come without pictures of occluders: with them set `erasing.fills` to (0, 0.5, 0.5) in training, and in the test, as
`AS_PUBLISHED` does, to (0, 1, 0) with `clipped=True`.
"""

import os

from detectron2.config import LazyCall as L
from detectron2.data import build_detection_test_loader, build_detection_train_loader

from instseg_d2.data.video_inpainting.clips import Erasing, InpaintingClips
from instseg_d2.data.video_inpainting.voi import read_voi
from instseg_d2.evaluation.inpainting import InpaintingEvaluator
from instseg_d2.evaluation.inpainting_stages import StageEvaluator
from instseg_d2.inpainting.stages.mapper import ClipMapper, NamedClips

_root = os.path.join(os.getenv("DETECTRON2_DATASETS", "datasets"), "youtube_voi")
dataloader = dict(
    train=L(build_detection_train_loader)(
        dataset=L(NamedClips)(
            names="youtube_voi_train",
            clips=L(InpaintingClips)(
                tracks=L(read_voi)(root=_root, split="train"),
                length=5,
                size=(240, 432),
                erasing=L(Erasing)(behind=0.2, fills=(0.5, 0.25, 0.25), jitter=7, drop=0.05),
                consecutive=0.5,
                flip=0.5,
                flow=False,
                seed=None,
            ),
        ),
        mapper=L(ClipMapper)(flow=None, harmonic=False, along=None),
        total_batch_size=8,
        num_workers=8,
        aspect_ratio_grouping=False,
    ),
    test=L(build_detection_test_loader)(
        dataset=L(NamedClips)(
            names="youtube_voi_evaluation",
            clips=L(InpaintingClips)(
                tracks=L(read_voi)(root=_root, split="evaluation"),
                length=15,
                size="${....train.dataset.clips.size}",
                erasing=L(Erasing)(behind=0.0, fills=(1.0, 0.0, 0.0), jitter=0, drop=0.0),
                consecutive=1.0,
                flip=0.0,
                flow=False,
                seed=0,
            ),
        ),
        mapper=L(ClipMapper)(flow=None, harmonic=False, along=None),
        num_workers=4,
    ),
    evaluator=L(StageEvaluator)(evaluator=L(InpaintingEvaluator)(lpips=None), instead=None),
)
