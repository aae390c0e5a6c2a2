"""Mask IoU with the true boxes given: by hand with a toy model, and a real one against a plain computation."""

import json
import math
import subprocess
import sys

import cv2
import numpy as np
import pytest
import torch
from detectron2.config import LazyCall as L
from detectron2.data import DatasetCatalog, MetadataCatalog, build_detection_test_loader, get_detection_dataset_dicts
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.structures import Boxes, Instances
from pycocotools import mask as mask_util
from torch import nn

from instseg_d2.data import DatasetError, InstanceMapper, register_coco, write_occshapes
from instseg_d2.engine.run import evaluate
from instseg_d2.evaluation import OCCLUSION_BINS, GivenBoxesEvaluation, SubsetCOCOEvaluator, overlap_at_least
from instseg_d2.model_zoo import get_config
from instseg_d2.testing import tiny_mask_rcnn, tiny_mask_rcnn_config


class LeftHalf(nn.Module):
    """Fills the left half of every box, and pastes as detectron2's models do; remembers what it was given."""

    def __init__(self):
        super().__init__()
        self.given, self.modes = [], []

    def inference(self, batched_inputs, detected_instances=None, do_postprocess=True):
        self.modes.append(self.training)
        outputs = []
        for record, instances in zip(batched_inputs, detected_instances, strict=True):
            self.given.append((instances.image_size, instances.pred_boxes.tensor.tolist(), instances.pred_classes))
            instances.pred_masks = torch.zeros(len(instances), 1, 28, 28)
            instances.pred_masks[..., :14] = 1
            outputs.append({"instances": detector_postprocess(instances, record["height"], record["width"])})
        return outputs


def records(scale=2, images=2):
    """Batches of one image as a loader gives them, resized from 60 x 80 px."""
    size = (60 * scale, 80 * scale)
    return [[{"image_id": i, "image": torch.zeros(3, *size), "height": 60, "width": 80}] for i in range(1, images + 1)]


def test_by_hand(dataset, annotation):
    """Of the 20 x 10 box the left half is true, of the 40 x 20 box all: IoU 1 and 1/2 with the left halves."""
    left = [[10.0, 10.0, 20.0, 10.0, 20.0, 20.0, 10.0, 20.0]]
    truth = [
        annotation(1, 1, 8, (10, 10, 30, 20), segmentation=left, covered=0.5),
        annotation(2, 2, 20, (20, 30, 60, 50), covered=0),
        annotation(3, 2, 20, (0, 0, 80, 60), iscrowd=1, covered=0),
    ]
    model = LeftHalf().train()
    results = GivenBoxesEvaluation(loader=records(scale=2, images=3), dataset_name=dataset(truth, images=3))(model)
    assert list(results) == ["given_boxes"]
    expected = {"IoU": 75, "IoU-0": 50, "IoU-0-0.2": math.nan, "IoU-0.2-0.5": 100, "IoU-0.5-1": math.nan}
    numbers = {"instances": 2, "instances-0": 1, "instances-0-0.2": 0, "instances-0.2-0.5": 1, "instances-0.5-1": 0}
    pooled = {"IoU-0.2-1": 100, "instances-0.2-1": 1}
    assert results["given_boxes"] == pytest.approx({**expected, **numbers, **pooled}, nan_ok=True)
    # Boxes in pixels of the input, contiguous classes; the image without instances was not asked for.
    assert [(size, boxes, classes.tolist()) for size, boxes, classes in model.given] == [
        ((120, 160), [[20, 20, 60, 40]], [1]),
        ((120, 160), [[40, 60, 120, 100]], [2]),
    ]
    assert model.training
    assert model.modes == [False, False]


def test_category_subsets(dataset, annotation):
    """A pear whose left half is true has IoU 1 with the left half of its box, a cup that fills its box 1/2."""
    left = [[10.0, 10.0, 20.0, 10.0, 20.0, 20.0, 10.0, 20.0]]
    name = dataset([annotation(1, 1, 8, (10, 10, 30, 20), segmentation=left), annotation(2, 2, 3, (20, 30, 60, 50))])
    subsets = {"seen": ["cup", "leaf"], "unseen": ["pear"], "none": ["leaf"]}
    evaluation = GivenBoxesEvaluation(loader=records(), dataset_name=name, bins=[], category_subsets=subsets)
    results = evaluation(LeftHalf())
    assert list(results) == ["given_boxes", "given_boxes_seen", "given_boxes_unseen", "given_boxes_none"]
    assert [figures["IoU"] for figures in results.values()] == pytest.approx([75, 50, 100, math.nan], nan_ok=True)
    assert [figures["instances"] for figures in results.values()] == [2, 1, 1, 0]
    with pytest.raises(DatasetError, match=r"no category 'cups' \(near: cup\)"):
        GivenBoxesEvaluation(loader=records(), dataset_name=name, category_subsets={"seen": ["cups"]})


def test_uneven_resizing(dataset, annotation):
    batches = [[{"image_id": 1, "image": torch.zeros(3, 90, 40), "height": 60, "width": 80}]]
    model = LeftHalf().eval()
    name = dataset([annotation(1, 1, 3, (20, 30, 60, 50))])
    results = GivenBoxesEvaluation(loader=batches, dataset_name=name, bins=[])(model)
    assert results == {"given_boxes": {"IoU": pytest.approx(50), "instances": 1}}
    assert model.given[0][1] == [[10, 45, 30, 75]]
    assert not model.training


def test_instances_without_area_are_left_out(dataset, annotation):
    truth = [
        annotation(1, 1, 3, (20, 30, 20, 50)),
        annotation(2, 1, 3, (90, 30, 99, 50)),
        annotation(3, 1, 3, (20, 30, 60, 50), segmentation={"size": [60, 80], "counts": [4800]}),
        annotation(4, 1, 3, (20, 30, 60, 50)),
    ]
    results = GivenBoxesEvaluation(loader=records(), dataset_name=dataset(truth), bins=())(LeftHalf())
    assert results["given_boxes"] == {"IoU": pytest.approx(50), "instances": 1}
    nothing = GivenBoxesEvaluation(loader=records(), dataset_name=dataset(truth[:3]), bins=[[0, 1]])(LeftHalf())
    assert nothing["given_boxes"] == pytest.approx(
        {"IoU": math.nan, "instances": 0, "IoU-0-1": math.nan, "instances-0-1": 0}, nan_ok=True
    )


def test_other_masks_of_the_annotations(dataset, annotation, rle):
    """Whole object 20 x 10; the amodal mask is the left half of its box, the visible one its left quarter."""
    one = annotation(1, 1, 3, (10, 10, 30, 20), segmentation=rle((10, 10, 15, 20)))
    name = dataset([{**one, "amodal_segmentation": rle((10, 10, 20, 20))}])
    for masks, expected in (("segmentation", 50), ("amodal_segmentation", 100)):
        evaluation = GivenBoxesEvaluation(loader=records(), dataset_name=name, masks=masks)
        results = evaluation(LeftHalf())["given_boxes"]
        assert results["IoU"] == results["IoU-0.2-0.5"] == pytest.approx(expected)


def test_the_same_image_twice_counts_once(dataset, annotation):
    name = dataset([annotation(1, 1, 3, (20, 30, 60, 50))])
    results = GivenBoxesEvaluation(loader=records(images=1) * 2, dataset_name=name, bins=())(LeftHalf())
    assert results["given_boxes"]["instances"] == 1


class Forgetful(LeftHalf):
    def inference(self, *args, **options):
        return [{"instances": output["instances"][1:]} for output in super().inference(*args, **options)]


@pytest.mark.parametrize(
    ("model", "message"), [(Forgetful(), "given 1 boxes for image 1"), (nn.Identity(), "Identity has")]
)
def test_models_that_cannot_be_given_boxes(dataset, annotation, model, message):
    evaluation = GivenBoxesEvaluation(
        loader=records(), dataset_name=dataset([annotation(1, 1, 3, (20, 30, 60, 50))]), bins=()
    )
    with pytest.raises(TypeError, match=message):
        evaluation(model)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"image_id": 5}, "has no image 5"), ({"height": 30}, "image 1 is 60 x 80 px .* predictions are 30 x 80")],
)
def test_loader_and_file_must_agree(dataset, annotation, change, message):
    batches = [[{**records()[0][0], **change}]]
    name = dataset([annotation(1, 1, 3, (20, 30, 60, 50))])
    with pytest.raises(DatasetError, match=message):
        GivenBoxesEvaluation(loader=batches, dataset_name=name, bins=())(LeftHalf())


def test_bins_need_to_know_what_is_hidden(dataset, annotation):
    name = dataset([annotation(4, 1, 3, (20, 30, 60, 50))])
    with pytest.raises(DatasetError, match="annotation 4 of image 1 .*'covered'"):
        GivenBoxesEvaluation(loader=records(), dataset_name=name)(LeftHalf())


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    """Five OccShapes images of 64 px under a name."""
    folder = tmp_path_factory.mktemp("shapes") / "set"
    write_occshapes(folder, images=5, size=64, progress=False)
    name = "given_boxes_shapes"
    register_coco(name, folder / "annotations.json", folder / "images")
    yield name
    DatasetCatalog.remove(name)
    MetadataCatalog.remove(name)


def loader_of(name):
    return build_detection_test_loader(
        dataset=get_detection_dataset_dicts(name, filter_empty=False),
        mapper=InstanceMapper(is_train=False, augmentations=[]),
        batch_size=2,
    )


def test_a_real_model_against_a_plain_computation(shapes):
    """Boxes and masks straight from the json, one image at a time, IoU in NumPy on whole images."""
    model = tiny_mask_rcnn(num_classes=10).eval()
    content = json.loads(open(MetadataCatalog.get(shapes).json_file).read())
    root, ious, shares = MetadataCatalog.get(shapes).image_root, [], []
    for record in content["images"]:
        annotations = [one for one in content["annotations"] if one["image_id"] == record["id"]]
        image = torch.from_numpy(cv2.imread(f"{root}/{record['file_name']}").transpose(2, 0, 1).copy())
        given = Instances((64, 64))
        corners = np.array([one["bbox"] for one in annotations], dtype=np.float32)
        corners[:, 2:] += corners[:, :2]
        given.pred_boxes = Boxes(torch.from_numpy(corners))
        given.pred_classes = torch.tensor([one["category_id"] - 1 for one in annotations])
        with torch.no_grad():
            output = model.inference([{"image": image, "height": 64, "width": 64}], [given])[0]["instances"]
        predicted = output.pred_masks.numpy()
        true = np.stack([mask_util.decode(one["segmentation"]) for one in annotations]).astype(bool)
        union = (predicted | true).sum(axis=(1, 2))
        ious += ((predicted & true).sum(axis=(1, 2)) / union).tolist()
        shares += [one["covered"] for one in annotations]
    results = GivenBoxesEvaluation(loader=loader_of(shapes), dataset_name=shapes)(model)["given_boxes"]
    ious, shares = np.array(ious), np.array(shares)
    assert results["instances"] == len(ious) > 15
    assert results["IoU"] == pytest.approx(100 * ious.mean())
    assert results["IoU-0"] == pytest.approx(100 * ious[shares == 0].mean())
    assert results["IoU-0.2-1"] == pytest.approx(100 * ious[shares > 0.2].mean())
    parts = [results[f"instances-{label}"] for label in ("0", "0-0.2", "0.2-0.5", "0.5-1")]
    assert sum(parts) == len(ious)


def test_in_a_recipe(shapes, tmp_path):
    cfg = get_config("Baselines/mask_rcnn_narrow_fpn_occshapes_quick")
    cfg.model = tiny_mask_rcnn_config(num_classes=10)
    cfg.train.output_dir = str(tmp_path)
    cfg.dataloader.test.dataset.names = shapes
    cfg.dataloader.test.num_workers = 0
    cfg.dataloader.evaluator = L(SubsetCOCOEvaluator)(
        dataset_name="${..test.dataset.names}",
        output_dir="${train.output_dir}",
        category_subsets={"seen": "occshapes_seen", "unseen": "occshapes_unseen"},
        instance_subsets=[L(overlap_at_least)(threshold=0.3)],
        occlusion_bins=OCCLUSION_BINS,
    )
    cfg.dataloader.further_evaluations = [
        L(GivenBoxesEvaluation)(loader="${dataloader.test}", dataset_name="${dataloader.test.dataset.names}")
    ]
    model = tiny_mask_rcnn(num_classes=10)
    results = evaluate(cfg, model)
    assert {"bbox", "segm_seen", "segm_unseen_overlap_0.3", "segm_by_occlusion", "given_boxes"} <= set(results)
    written = json.loads((tmp_path / "results.json").read_text())
    assert written["given_boxes"]["IoU"] == pytest.approx(results["given_boxes"]["IoU"])
    assert 0 < written["given_boxes"]["IoU"] < 100
    assert (tmp_path / "coco_instances_results.json").is_file()


JOB = """
import json
import sys
import torch
from detectron2.data import build_detection_test_loader, get_detection_dataset_dicts
from detectron2.engine import launch
from detectron2.evaluation import inference_on_dataset
from detectron2.utils import comm
from instseg_d2.data import InstanceMapper, register_coco
from instseg_d2.evaluation import *
from instseg_d2.testing import tiny_mask_rcnn


def job(json_file, image_root, out):
    torch.set_num_threads(1)
    register_coco("given_boxes_shapes", json_file, image_root)
    loader = build_detection_test_loader(
        dataset=get_detection_dataset_dicts("given_boxes_shapes", filter_empty=False),
        mapper=InstanceMapper(is_train=False, augmentations=[]),
    )
    model = tiny_mask_rcnn(num_classes=10)
    evaluator = SubsetCOCOEvaluator(
        "given_boxes_shapes", category_subsets={"unseen": "occshapes_unseen"}, occlusion_bins=OCCLUSION_BINS
    )
    results = inference_on_dataset(model, loader, evaluator)
    results.update(GivenBoxesEvaluation(loader=loader, dataset_name="given_boxes_shapes")(model))
    if comm.is_main_process():
        json.dump(results, open(out, "w"))
    else:
        assert results == {}


if __name__ == "__main__":
    launch(job, int(sys.argv[1]), dist_url="auto", args=tuple(sys.argv[2:]))
"""


@pytest.mark.slow
def test_two_processes_give_what_one_gives(shapes, tmp_path):
    metadata = MetadataCatalog.get(shapes)
    files = [metadata.json_file, metadata.image_root]
    here = {"__name__": "job"}
    exec(JOB, here)
    here["job"](*files, str(tmp_path / "one.json"))
    (tmp_path / "job.py").write_text(JOB)
    command = [sys.executable, "job.py", "2", *files, str(tmp_path / "two.json")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    one, two = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("one", "two"))
    assert one.keys() == two.keys() >= {"segm_unseen", "segm_by_occlusion", "given_boxes"}
    for task, metrics in one.items():
        assert metrics == pytest.approx(two[task], nan_ok=True), task
    assert one["given_boxes"]["instances"] > 15
