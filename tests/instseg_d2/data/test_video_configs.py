from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.config import LazyConfig, instantiate
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import Instances
from omegaconf import OmegaConf
from pycocotools import mask as mask_util

from instseg_d2.data import register_bdd100k, register_youtube_vis
from instseg_d2.data.synthetic.video_set import write_occvideo

CONFIGS = Path(__file__).resolve().parents[3] / "configs/common/data"
NAMES = ("video_configs_tracks", "video_configs_mots")


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """Two videos of six frames of 64 px, as YouTube-VIS and as BDD100K."""
    folder = tmp_path_factory.mktemp("occvideo") / "made"
    write_occvideo(folder, videos=2, frames=6, seed=3, size=64, layouts=("ytvis", "mots"), progress=False)
    register_youtube_vis(NAMES[0], folder / "ytvis/annotations.json", folder / "ytvis/JPEGImages")
    classes = MetadataCatalog.get(NAMES[0]).thing_classes
    register_bdd100k(NAMES[1], folder / "mots/rles", folder / "mots/images", classes=classes)
    yield NAMES
    for name in NAMES:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def dataloader(config, name, tmp_path):
    cfg = LazyConfig.load(str(CONFIGS / f"{config}.py"))
    cfg.model = OmegaConf.create({"num_classes": 10, "input_format": "RGB"})
    cfg.train = OmegaConf.create({"output_dir": str(tmp_path)})
    cfg.dataloader.train.dataset.names = cfg.dataloader.test.dataset.names = name
    cfg.dataloader.train.update(total_batch_size=2, num_workers=0)
    cfg.dataloader.test.num_workers = 0
    return cfg.dataloader


@pytest.mark.parametrize(
    ("config", "which", "size"), [("youtube_vis", 0, 360), ("occvideo", 0, 64), ("bdd100k", 1, 720)]
)
def test_pairs_and_frames(sets, tmp_path, config, which, size):
    loaders = dataloader(config, sets[which], tmp_path)
    batch = next(iter(instantiate(loaders.train)))
    assert len(batch) == 2
    for sample in batch:
        (reference,) = sample["references"]
        assert reference["video_id"] == sample["video_id"]
        assert reference["frame_index"] != sample["frame_index"]
        if config == "bdd100k":
            assert abs(reference["frame_index"] - sample["frame_index"]) <= 3
            assert set(reference["instances"].gt_ids.tolist()) & set(sample["instances"].gt_ids.tolist())
        for frame in (sample, reference):
            assert frame["image"].shape == (3, size, size)
            assert {"gt_boxes", "gt_classes", "gt_masks", "gt_ids"} <= set(frame["instances"].get_fields())
    loader = instantiate(loaders.test)
    assert list(loader.batch_sampler) == [[position] for position in range(12)]
    (frame,) = next(iter(loader))
    assert frame["image"].shape == (3, size, size)
    keys = ("height", "width", "video_id", "frame_index", "video_length", "video_name")
    assert [frame[key] for key in keys] == [64, 64, 1, 0, 6, "video_0000"]
    assert "instances" not in frame


def test_first_stage_of_bdd100k_trains_on_boxes(sets, tmp_path):
    train_on_boxes = LazyConfig.load(str(CONFIGS / "bdd100k.py"), "train_on_boxes")
    loaders = dataloader("bdd100k", sets[1], tmp_path)
    train_on_boxes(loaders)
    assert list(loaders.train.dataset.names) == ["bdd100k_mot_train", "bdd100k_det_train"]
    loaders.train.dataset.names = sets[1]
    sample = next(iter(instantiate(loaders.train)))[0]
    assert not sample["instances"].has("gt_masks")
    assert len(sample["instances"].gt_ids) > 0


@pytest.mark.parametrize(("config", "which"), [("occvideo", 0), ("bdd100k", 1)])
def test_the_truth_itself_is_a_perfect_prediction(sets, tmp_path, config, which):
    loaders = dataloader(config, sets[which], tmp_path)
    if config == "occvideo":
        loaders.evaluator.evaluators[1].dataset_name = sets[1]
    evaluator = instantiate(loaders.evaluator)
    evaluator.reset()
    for record in DatasetCatalog.get(sets[which]):
        found = Instances((record["height"], record["width"]))
        truth = record["annotations"]
        masks = [mask_util.decode(one["segmentation"]).astype(bool) for one in truth]
        found.pred_masks = torch.from_numpy(np.stack(masks))
        found.pred_classes = torch.tensor([one["category_id"] for one in truth])
        found.pred_ids = torch.tensor([one["instance_id"] for one in truth])
        found.scores = torch.ones(len(truth))
        evaluator.process([record], [{"instances": found}])
    results = evaluator.evaluate()
    frames = "segm" if config == "bdd100k" else "segm_frames"
    assert set(results) == {"segm", "mots", frames}
    assert results["segm"]["AP"] == results[frames]["AP"] == pytest.approx(100)
    assert results["mots"]["MOTSA-OVERALL"] == pytest.approx(100)
    assert results["mots"]["IDSw"] == 0
