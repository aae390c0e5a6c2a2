import detectron2.data.transforms as T
import numpy as np
import pytest
import torch
from detectron2.config import instantiate

from instseg_d2.checkpoint import Checkpointer, CheckpointMismatchError
from instseg_d2.engine import Predictor
from instseg_d2.model_zoo import get_config
from instseg_d2.testing import tiny_mask_rcnn

RECIPE = "Baselines/mask_rcnn_narrow_fpn_occshapes_quick"


@pytest.fixture(scope="module")
def model():
    model = tiny_mask_rcnn()
    model.roi_heads.box_predictor.test_score_thresh = 0.0
    return model


@pytest.fixture
def image():
    return np.random.default_rng(0).integers(0, 255, (64, 96, 3), dtype=np.uint8)


def test_equals_the_model_called_by_hand(model, image):
    found = Predictor(model)(image)["instances"]
    with torch.no_grad():
        pixels = torch.from_numpy(image.transpose(2, 0, 1).copy())
        expected = model.eval()([{"image": pixels, "height": 64, "width": 96}])[0]["instances"]
    assert len(found) == len(expected) > 0
    assert torch.equal(found.pred_boxes.tensor, expected.pred_boxes.tensor)
    assert torch.equal(found.pred_masks, expected.pred_masks)
    assert not found.scores.requires_grad


def test_results_are_in_pixels_of_the_given_image(model, image):
    found = Predictor(model, [T.ResizeShortestEdge(128, 256)])(image)["instances"]
    assert found.image_size == (64, 96)
    assert found.pred_masks.shape[1:] == (64, 96)
    assert found.pred_boxes.tensor[:, 2].max() <= 96


def test_rgb_models_get_rgb(model, image):
    as_bgr = Predictor(model)(image)["instances"]
    as_rgb = Predictor(model, input_format="RGB")(image[:, :, ::-1])["instances"]
    assert torch.equal(as_bgr.scores, as_rgb.scores)


def test_batch_of_different_sizes(model, image):
    small = image[:48, :64]
    found = Predictor(model).predict_batch([image, small])
    assert [item["instances"].image_size for item in found] == [(64, 96), (48, 64)]


def test_autocast_gives_nearly_the_same_scores(model, image):
    exact = Predictor(model)(image)["instances"].scores
    rough = Predictor(model, amp_dtype=torch.bfloat16)(image)["instances"].scores
    assert rough[:5].float() == pytest.approx(exact[:5], abs=0.05)


@pytest.mark.parametrize("bad", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3), np.float32), "photo.jpg"])
def test_other_inputs_are_named(model, bad):
    with pytest.raises(ValueError, match=r"\(H, W, 3\) uint8 array in BGR, not"):
        Predictor(model)(bad)


def test_from_config(tmp_path, image):
    model = instantiate(get_config(RECIPE).model)
    Checkpointer(model, str(tmp_path)).write("weights")
    weights = str(tmp_path / "weights.pth")
    predictor = Predictor.from_config(
        RECIPE, weights=weights, device="cpu", overrides=["model.roi_heads.box_predictor.test_score_thresh=0.0"]
    )
    assert len(predictor(image)["instances"]) > 0
    assert predictor.metadata.thing_classes[0] == "disc"
    with pytest.raises(CheckpointMismatchError):
        Predictor.from_config(RECIPE, weights=weights, device="cpu", overrides=["model.roi_heads.num_classes=3"])
