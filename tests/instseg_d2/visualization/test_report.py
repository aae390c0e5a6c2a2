import json
import math

import numpy as np
import pytest
from detectron2.data import MetadataCatalog
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from instseg_d2.data import register_coco
from instseg_d2.testing import write_tiny_coco
from instseg_d2.visualization.report import loss_names, precision_recall, read_metrics, write_report


@pytest.fixture
def run(tmp_path):
    """An output folder as an evaluation leaves it: every box found, shifted a little, and one false positive."""
    json_file, images = write_tiny_coco(tmp_path / "data")
    dataset = register_coco(tmp_path.name, json_file, images)
    truth = COCO(str(json_file))
    rng = np.random.default_rng(0)
    found = []
    for annotation in truth.anns.values():
        x, y, w, h = annotation["bbox"]
        found.append(
            {
                "image_id": annotation["image_id"],
                "category_id": annotation["category_id"],
                "score": float(rng.uniform(0.5, 1)),
                "bbox": [x + float(rng.integers(0, 8)), y, w, h],
                "segmentation": truth.annToRLE(annotation),
            }
        )
        found[-1]["segmentation"]["counts"] = found[-1]["segmentation"]["counts"].decode()
    found.append({**found[0], "image_id": 4, "score": 0.8})
    out = tmp_path / "out"
    out.mkdir()
    (out / "coco_instances_results.json").write_text(json.dumps(found))
    results = {
        "bbox": {"AP": 50.0, "APs": math.nan, "AP-green": 40.0},
        "segm": {"AP": 51.0, "AP50": 60.0, "AP-green": 41.0},
    }
    (out / "results.json").write_text(json.dumps(results))
    return dataset, out


@pytest.mark.parametrize("task", ["bbox", "segm"])
def test_mean_of_the_curve_is_pycocotools_ap(run, task, capsys):
    dataset, out = run
    curves = precision_recall(dataset.json_file, out / "coco_instances_results.json", task)
    truth = COCO(str(dataset.json_file))
    reference = COCOeval(truth, truth.loadRes(str(out / "coco_instances_results.json")), task)
    reference.evaluate()
    reference.accumulate()
    reference.summarize()
    assert curves[0.5].shape == (101,)
    assert curves[0.5].mean() == pytest.approx(reference.stats[1], abs=1e-9)
    assert curves[0.75].mean() == pytest.approx(reference.stats[2], abs=1e-9)
    assert 0 < curves[0.75].mean() < 1
    assert capsys.readouterr().out.count("Average Precision") == 6


def test_report_is_one_file_with_everything(run):
    dataset, out = run
    lines = [{"iteration": i, "total_loss": 3 - i, "loss_mask": 0.5, "lr": 0.1, "time": 0.2} for i in range(3)]
    (out / "metrics.json").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"iteration": 3, "tot')
    path = write_report(out, dataset.name, pictures=3)
    text = path.read_text()
    assert text.count('src="data:image/png;base64,') == 2 + 2  # loss, learning rate; one curve a task
    assert text.count('src="data:image/jpeg;base64,') == 3
    for part in ("<td>50.0</td>", "<td>n/a</td>", "green"):
        assert part in text
    assert 'src="http' not in text
    assert len(list((out / "overlays").glob("*.jpg"))) == 3


def test_report_of_videos_has_no_instances_of_images(run):
    _, out = run
    (out / "coco_instances_results.json").unlink()
    (out / "results.json").write_text(json.dumps({"segm": {"AP": 1, "AP50": 2}, "mots": {"IDSw": 7, "MOTSA-car": 44}}))
    MetadataCatalog.get("report_of_videos").evaluator_type = "youtube_vis"
    text = write_report(out, "report_of_videos").read_text()
    MetadataCatalog.remove("report_of_videos")
    for part in ("<td>2.0</td>", "<h3>mots</h3>", "<td>car</td>", "<td>44.0</td>"):
        assert part in text
    assert "Pictures" not in text


def test_report_of_an_evaluation_without_predictions(run):
    dataset, out = run
    (out / "coco_instances_results.json").write_text("[]")
    assert "Precision and recall" not in write_report(out, dataset.name, pictures=2).read_text()


def test_later_entries_of_an_iteration_count(tmp_path):
    path = tmp_path / "metrics.json"
    path.write_text('{"iteration": 5, "a": 1}\n{"iteration": 6, "a": 2}\n{"iteration": 5, "a": 3, "text": "x"}\n')
    assert read_metrics(path) == {"a": ([5, 6], [3, 2])}


def test_categories_that_sound_like_losses_are_none():
    series = dict.fromkeys(["total_loss", "loss_mask", "segm/AP-blossom", "lr", "bbox/AP-loss"])
    assert loss_names(series) == ["loss_mask", "total_loss"]
