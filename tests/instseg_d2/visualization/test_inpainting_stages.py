import numpy as np
import pytest
import torch

from instseg_d2.visualization.inpainting_stages import _FOUND, _MISSED, _WRONG, draw_stage


@pytest.fixture
def item(hidden_clips):
    item = hidden_clips(1, length=4)[0]
    for direction in ("forward", "backward"):
        item[f"observed_{direction}_flow"] = torch.zeros_like(item["forward_flow"])
    return item


def colours(picture):
    return {tuple(colour) for colour in np.unique(picture.reshape(-1, 3), axis=0).tolist()}


def test_rows_are_frames_and_columns_what_there_is(item):
    masks, frames = {"complete": item["complete"]}, {"frames": item["clean"]}
    flows = {"flows": (item["forward_flow"], item["backward_flow"])}
    propagated = {**item, "propagated_frames": item["clean"], "propagated_visible": item["complete"]}
    # Observed and truth, and one column or three more.
    for clip, output, columns in (
        (item, masks, 3),
        (item, masks | frames, 4),
        (item, flows, 5),
        (propagated, frames, 4),
    ):
        assert draw_stage(clip, output, frames=4).shape[1] == 4 + columns * 224
    two, four = (draw_stage(item, masks, frames=count).shape[0] for count in (2, 4))
    assert four == 2 * two


def test_masks_show_what_is_found_missed_and_wrong(item):
    perfect = draw_stage(item, {"complete": item["complete"]})
    assert _FOUND in colours(perfect)
    assert not {_MISSED, _WRONG} & colours(perfect)
    assert {_MISSED} == {_FOUND, _MISSED, _WRONG} & colours(draw_stage(item, {"complete": item["visible"]}))
    everything = draw_stage(item, {"complete": torch.ones_like(item["complete"])})
    assert {_FOUND, _WRONG} == {_FOUND, _MISSED, _WRONG} & colours(everything)


def test_wide_frames_are_shrunk(hidden_clips):
    item = hidden_clips(1, width=480, height=320)[0]
    picture = draw_stage(item, {"frames": item["clean"]}, frames=1)
    assert picture.shape[1] < 800
    assert picture.dtype == np.uint8
