import copy
import json
from types import SimpleNamespace

import cv2
import detectron2.data.transforms as T
import numpy as np
import pytest
import torch
from detectron2.data import MetadataCatalog
from detectron2.structures import Boxes, Instances
from torch import nn

from instseg_d2.data import DatasetError
from instseg_d2.data.checks import check_dataset
from instseg_d2.data.run_lengths import decode_mask
from instseg_d2.engine import Predictor
from instseg_d2.engine.mask_annotation import annotate_masks, read_boxes
from instseg_d2.engine.overrides import SettingError
from instseg_d2.testing import tiny_condinst, tiny_mask_rcnn, write_tiny_coco

NAMES = ["red", "green", "unused"]  # in another order than in the file


class Painter(nn.Module):
    """Draws in each given box of class c the columns up to its middle, and 3 px beyond its left side; nothing for 2."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.calls = []

    def inference(self, batched_inputs, detected_instances):
        self.calls.append(detected_instances)
        outputs = []
        for item, given in zip(batched_inputs, detected_instances, strict=True):
            size = item["height"], item["width"]
            assert given.image_size == tuple(item["image"].shape[-2:])
            boxes = given.pred_boxes.tensor * (size[1] / given.image_size[1])
            columns = torch.arange(size[1]) + 0.5
            middle = (boxes[:, 0] + boxes[:, 2]) / 2
            across = (columns >= boxes[:, :1] - 3) & (columns < middle[:, None])
            masks = across[:, None, :].expand(-1, size[0], -1) & (given.pred_classes != 2)[:, None, None]
            outputs.append({"instances": Instances(size, pred_boxes=Boxes(boxes), pred_masks=masks)})
        return outputs


def metadata(names=NAMES):
    return SimpleNamespace(thing_classes=names) if names else SimpleNamespace()


@pytest.fixture
def data(tmp_path):
    """A data set of boxes: its content, json and image folder."""
    json_file, images = write_tiny_coco(tmp_path)
    content = json.loads(json_file.read_text())
    for annotation in content["annotations"]:
        for key in ("segmentation", "area", "iscrowd"):
            del annotation[key]
    content["info"] = {"year": 2026}
    json_file.write_text(json.dumps(content))
    return content, json_file, images


def annotate(content, images, predictor=None, **options):
    return annotate_masks(predictor or Predictor(Painter(), metadata=metadata()), content, images, **options)


def test_masks_are_cut_at_their_boxes_and_all_else_stays(data):
    content, _, images = data
    content["annotations"][1]["attributes"] = {"ripe": True}
    before = copy.deepcopy(content)
    result = annotate(content, images)
    assert content == before
    assert (result.predicted, result.kept, result.without, result.unreadable) == (6, 0, [], [])
    assert {key: value for key, value in result.content.items() if key != "annotations"} == {
        key: value for key, value in before.items() if key != "annotations"
    }
    for old, new in zip(before["annotations"], result.content["annotations"], strict=True):
        assert set(new) - set(old) == {"segmentation", "area", "iscrowd"}
        assert {key: new[key] for key in old} == old
        x, y, width, height = old["bbox"]
        expected = np.zeros((64, 96), bool)
        expected[y : y + height, x : x + width // 2] = True
        assert (decode_mask(new["segmentation"], 64, 96) == expected).all()
        assert new["area"] == expected.sum()
        assert new["iscrowd"] == 0
    json.dumps(result.content)
    assert check_dataset(result.content, images).is_usable


def test_classes_are_matched_by_name(data):
    content, _, images = data
    painter = Painter()
    annotate(content, images, Predictor(painter, metadata=metadata()))
    assert all(given[0].pred_classes.tolist() == [1, 0] for given in painter.calls)  # green, red
    painter = Painter()
    annotate(content, images, Predictor(painter, metadata=metadata(None)))
    assert all(given[0].pred_classes.tolist() == [0, 1] for given in painter.calls)  # in the order of ids


def test_only_categories_in_use_must_be_known(data):
    content, _, images = data
    assert annotate(content, images, Predictor(Painter(), metadata=metadata(["red", "green"]))).predicted == 6
    with pytest.raises(DatasetError, match="the model has no class 'green'; it was trained for red, blue"):
        annotate(content, images, Predictor(Painter(), metadata=metadata(["red", "blue"])))


def test_boxes_reach_the_model_in_the_pixels_of_its_input(data):
    content, _, images = data
    painter = Painter()
    result = annotate(content, images, Predictor(painter, [T.ResizeShortestEdge(128, 256)], metadata=metadata()))
    assert painter.calls[0][0].pred_boxes.tensor.tolist() == [[12, 16, 72, 88], [88, 36, 160, 96]]
    assert decode_mask(result.content["annotations"][0]["segmentation"], 64, 96).sum() == 15 * 36


def test_masks_that_are_there_and_crowds_stay(data):
    content, _, images = data
    polygon = [[6, 8, 20, 8, 20, 30]]
    content["annotations"][0].update(segmentation=polygon, area=7)
    content["annotations"][1].update(iscrowd=1)
    content["annotations"][2].update(segmentation=[])
    result = annotate(content, images)
    assert (result.predicted, result.kept) == (4, 1)
    assert result.content["annotations"][0] == content["annotations"][0]
    assert result.content["annotations"][1] == content["annotations"][1]
    assert result.content["annotations"][2]["area"] > 0


def test_boxes_that_cannot_have_a_mask_are_named(data):
    content, _, images = data
    content["annotations"][0]["bbox"] = [100, 10, 5, 5]
    content["annotations"][1]["category_id"] = 3
    result = annotate(content, images)
    assert result.predicted == 4
    assert result.without[0] == "annotation 1 of image 1: its box [100, 10, 5, 5] has no area in the image"
    assert result.without[1] == "annotation 2 of image 1: the model draws nothing in its box"
    assert result.content["annotations"][:2] == content["annotations"][:2]


@pytest.mark.parametrize("batch_size", [2, 10])
def test_batches_give_the_same_masks(data, batch_size):
    content, _, images = data
    painter = Painter()
    result = annotate(content, images, Predictor(painter, metadata=metadata()), batch_size=batch_size)
    assert [len(given) for given in painter.calls] == ([2, 1] if batch_size == 2 else [3])
    assert result.content == annotate(content, images).content


def test_image_that_cannot_be_read_keeps_the_others(data):
    content, _, images = data
    (images / "2.png").write_bytes(b"no image")
    result = annotate(content, images, batch_size=2)
    assert result.predicted == 4
    assert [str(images / "2.png") in text for text in result.unreadable] == [True]
    assert result.without == [f"annotation {i} of image 2: the image cannot be read" for i in (3, 4)]


def test_image_of_another_size_stops(data):
    content, _, images = data
    cv2.imwrite(str(images / "1.png"), np.zeros((96, 64, 3), np.uint8))
    with pytest.raises(DatasetError, match=r"image 1 is 64 x 96 px .* has 96 x 64 px"):
        annotate(content, images)


def test_nothing_to_do(data):
    content, _, images = data
    content["annotations"] = []
    result = annotate(content, images)
    assert result.content == content
    assert result.predicted == 0


def test_data_sets_that_cannot_be_used(data):
    content, json_file, images = data
    assert read_boxes(json_file, images) == content
    (images / "2.png").unlink()
    with pytest.raises(DatasetError, match=r"cannot be used:\n.*2\.png"):
        read_boxes(json_file, images)
    content["annotations"][0]["bbox"] = [1, 2, 3]
    json_file.write_text(json.dumps(content))
    with pytest.raises(DatasetError, match="annotation 1 of image 1"):
        read_boxes(json_file, images)


def test_models_without_boxes_or_masks_are_refused(data):
    content, _, images = data
    with pytest.raises(SettingError, match="Linear has no inference"):
        annotate(content, images, Predictor(nn.Linear(1, 1), metadata=metadata()))
    painter = Painter()
    painter.inference = lambda inputs, detected_instances: [{"instances": Instances((64, 96), scores=torch.zeros(0))}]
    with pytest.raises(SettingError, match="was given 2 boxes and returned 0 instances with scores"):
        annotate(content, images, Predictor(painter, metadata=metadata()))


@pytest.mark.parametrize("build", [lambda: tiny_condinst(3, recipe="boxinst"), tiny_mask_rcnn])
def test_masks_are_those_of_the_model(data, build):
    """The model called by hand with the same boxes, at the size of the image."""
    content, _, images = data
    model = build().eval()
    result = annotate(content, images, Predictor(model, metadata=metadata()))
    given = Instances((64, 96), pred_boxes=Boxes(torch.tensor([[6.0, 8, 36, 44], [44, 18, 80, 48]])))
    given.pred_classes, given.scores = torch.tensor([1, 0]), torch.ones(2)
    pixels = torch.from_numpy(cv2.imread(str(images / "1.png")).transpose(2, 0, 1).copy())
    with torch.no_grad():
        (output,) = model.inference([{"image": pixels, "height": 64, "width": 96}], detected_instances=[given])
    for annotation, mask in zip(result.content["annotations"], output["instances"].pred_masks, strict=False):
        x, y, width, height = annotation["bbox"]
        cut = torch.zeros_like(mask)
        cut[y : y + height, x : x + width] = mask[y : y + height, x : x + width]
        found = annotation.get("segmentation")
        assert cut.any() == (found is not None)
        if found:
            assert (decode_mask(found, 64, 96) == cut.numpy()).all()
    assert result.predicted + len(result.without) == 6


def test_metadata_of_a_registered_set_names_the_classes(data):
    content, _, images = data
    predictor = Predictor(Painter(), metadata=MetadataCatalog.get("occshapes_val"))
    with pytest.raises(DatasetError, match="no class 'green', 'red'"):
        annotate(content, images, predictor)
