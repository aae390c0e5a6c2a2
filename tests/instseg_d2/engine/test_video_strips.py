import numpy as np
import pytest
import torch

from instseg_d2.benchmark.models import make_it_detect
from instseg_d2.data import DatasetError
from instseg_d2.engine import Predictor, VideoPredictor
from instseg_d2.engine.auxiliary_maps import keep_auxiliary_maps
from instseg_d2.engine.coco_file import Categories
from instseg_d2.engine.video_files import TrackFile
from instseg_d2.engine.video_predictor import follow
from instseg_d2.engine.video_strips import RecordedTracks, VideoStrips
from instseg_d2.testing import tiny_tracking_rcnn


def test_frames_are_kept_at_growing_steps(color_tracker, color_frames):
    strips = VideoStrips(color_tracker, columns=3)
    found = VideoPredictor(Predictor(color_tracker)).step(color_frames[0])
    counts = []
    for _ in range(50):
        strips.add(color_frames[0], found)
        counts.append(len(strips._kept))
    assert max(counts) < 6
    assert [one.number for one in strips._kept] == [0, 16, 32, 48]
    assert torch.equal(strips._kept[1].unpacked().pred_masks, found.pred_masks)
    strips.reset()
    assert strips.draw("tracks") is None


def test_tracks_in_a_file_come_back_as_they_were(color_tracker, color_frames, clip, metadata, tmp_path):
    path = tmp_path / "tracks.json"
    predictor = VideoPredictor(Predictor(color_tracker))
    list(follow(predictor, color_frames, [TrackFile(path, clip, metadata)]))
    recorded = RecordedTracks(path, Categories(metadata))
    predictor.reset()
    for number, frame in enumerate(color_frames):
        found, expected = recorded.at(number, (24, 32)), predictor.step(frame)
        expected = expected[expected.pred_ids > 0]
        for name in ("pred_ids", "pred_classes", "pred_masks"):
            assert torch.equal(found.get(name), expected.get(name))
        assert torch.equal(found.pred_boxes.tensor, expected.pred_boxes.tensor)
    with pytest.raises(DatasetError, match="of another video: 5 frames of 32 x 24 px; here is frame 5 with 32 x 24"):
        recorded.at(5, (24, 32))


@pytest.mark.parametrize("content", [None, "no json", "{}", '{"videos": [], "annotations": []}'])
def test_other_files_are_named(tmp_path, content):
    path = tmp_path / "tracks.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(DatasetError, match=r"tracks\.json"):
        RecordedTracks(path, Categories(None))


def test_a_row_for_each_model_and_for_each_track(color_tracker, color_frames, clip, metadata, tmp_path):
    strips = VideoStrips(color_tracker, columns=4, rows=2)
    outputs = [TrackFile(tmp_path / "tracks.json", clip, metadata), strips]
    list(follow(VideoPredictor(Predictor(color_tracker)), color_frames, outputs))
    alone = strips.draw("tracks", metadata.thing_classes)
    others = {"baseline": RecordedTracks(tmp_path / "tracks.json", Categories(metadata))}
    both = strips.draw("tracks", metadata.thing_classes, others)
    assert both.shape[1] == alone.shape[1] > 4 * 160 * 32 / 24
    assert 160 < len(both) - len(alone) < 180
    assert not strips.has_regions


@pytest.fixture
def frames():
    """A picture that drifts."""
    picture = np.random.default_rng(0).integers(0, 255, (9, 13, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
    return [np.ascontiguousarray(picture[shift : shift + 64, shift : shift + 96]) for shift in range(4)]


def test_prototypes_of_pcan_are_seen(frames):
    model = tiny_tracking_rcnn(recipe="pcan")
    pixels = torch.from_numpy(frames[0].transpose(2, 0, 1).copy())
    make_it_detect(model, [{"image": pixels, "height": 64, "width": 96}])
    model.reset()
    assert "instance_attention" in keep_auxiliary_maps(model)
    strips = VideoStrips(model, columns=2, rows=1)
    assert strips.has_regions
    list(follow(VideoPredictor(Predictor(model)), frames, [strips]))
    assert [one.number for one in strips._kept] == [0, 2]
    first, second = strips._kept
    # The first frame has no memory to look at; frames between those that are kept cost nothing.
    assert first.regions == {}
    assert set(second.regions) == set(model.frame_attention.in_features)
    for maps in second.regions.values():
        assert len(maps) == 8
        assert np.allclose(maps.sum(axis=0), 1, atol=1e-5)
    found = second.unpacked()
    assert found.pred_attention.shape[1:] == (8, 14, 14)
    assert found.has("pred_soft_masks")
    assert strips.draw("tracks").shape[0] > 160 + len(second.regions) * 4 * 120
