"""Hidden objects of OccVideo, the generated data set, drawn as they are needed at 96 x 64 px, with exact truth.

For shape completion, as `youtube_voi.py`; the flow of the clean frames is given too.
"""

from detectron2.config import LazyCall as L

from instseg_d2.data.video_inpainting.exact import occvideo_tracks

from .youtube_voi import dataloader

_train, _test = dataloader["train"], dataloader["test"]
_train.dataset.names = "occvideo_voi_train"
_train.dataset.clips.update(tracks=L(occvideo_tracks)(videos=40, seed=0, frames=16, size=(64, 96)), size=(64, 96))
# Pixels: 7 of 432 are 1.5 of 96.
_train.dataset.clips.erasing.jitter = 1
_train.update(total_batch_size=4, num_workers=1)
_test.dataset.names = "occvideo_voi_val"
_test.dataset.clips.update(tracks=L(occvideo_tracks)(videos=12, seed=1, frames=16, size=(64, 96)), length=8, flow=True)
_test.num_workers = 1
