from pathlib import Path

import numpy as np
import pytest

from instseg_d2.data.run_lengths import encode_mask
from instseg_d2.data.video_inpainting.tracks import Track, TrackRules

RULES = TrackRules(frames=3, area=(0.05, 0.5))


def track(boxes, size=(20, 40)):
    """A rectangle (top, left, height, width) in each frame, or None."""
    masks = []
    for box in boxes:
        mask = np.zeros(size, dtype=bool)
        if box is not None:
            top, left, height, width = box
            mask[top : top + height, left : left + width] = True
        masks.append(None if box is None else encode_mask(mask))
    files = tuple(Path(f"{number}.png") for number in range(len(boxes)))
    return Track("set", "video", 1, "dog", files, tuple(masks), size)


def test_longest_row_is_kept():
    box = (5, 5, 8, 8)
    kept, reason = RULES.judge(track([box, None, box, box, box, None, box, box]))
    assert reason == ""
    assert [file.stem for file in kept.files] == ["2", "3", "4"]
    assert kept.stack().sum(axis=(1, 2)).tolist() == [64] * 3


@pytest.mark.parametrize(
    ("boxes", "reason"),
    [
        ([(5, 5, 8, 8)] * 2, "too few frames in a row"),
        ([None] * 5, "too few frames in a row"),
        ([(5, 5, 4, 8)] * 3, "too small or too large"),
        ([(1, 1, 17, 30)] * 3, "too small or too large"),
        ([(5, 5, 8, 8), (5, 5, 4, 5), (5, 5, 8, 8)], "area jumps"),
        ([(0, 5, 8, 8), (0, 5, 8, 8), (1, 5, 8, 8)], "cut off by the border"),
    ],
)
def test_no_targets(boxes, reason):
    assert RULES.judge(track(boxes)) == (None, reason)


def test_each_border_counts():
    for box in ((0, 5, 8, 8), (12, 5, 8, 8), (5, 0, 8, 8), (5, 32, 8, 8)):
        assert RULES.judge(track([box] * 3))[1] == "cut off by the border"


def test_small_frames():
    wanted = TrackRules(frames=3, size=(480, 640))
    assert wanted.judge(track([(5, 5, 8, 8)] * 3)) == (None, "frames too small")


def test_one_frame():
    assert TrackRules(frames=1).judge(track([(5, 5, 8, 8)]))[1] == ""


def test_wrong_rules():
    with pytest.raises(ValueError, match="two rising shares"):
        TrackRules(area=(0.5, 0.1))
