import json
import os
import subprocess
import sys

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from instseg_d2.data import BUILTIN_DATASETS, DatasetError, prepare_dataset, register_builtin
from instseg_d2.data.datasets import builtin


@pytest.fixture
def root(tmp_path, monkeypatch):
    """Built-in sets under a root of their own, with OccShapes of a few images."""
    splits = {
        name: builtin._Generated(split.split, images=4, seed=split.seed, size=64)
        for name, split in builtin._SPLITS.items()
        if isinstance(split, builtin._Generated)
    }
    before = dict(builtin._roots)
    monkeypatch.setattr(builtin, "_SPLITS", {**builtin._SPLITS, **splits})
    register_builtin(tmp_path)
    yield tmp_path
    monkeypatch.undo()
    builtin._roots.update(dict.fromkeys(before))
    register_builtin(before["occshapes_train"])


def test_names_and_metadata_without_any_file(root):
    assert set(BUILTIN_DATASETS) == {
        f"{name}_{split}" for name in ("occshapes", "mandarin", "nuclei", "coco_mini") for split in ("train", "val")
    }
    assert not any(root.iterdir())
    for name in BUILTIN_DATASETS:
        metadata = MetadataCatalog.get(name)
        assert metadata.evaluator_type == "coco"
        assert metadata.json_file.startswith(str(root))
        assert metadata.image_root.startswith(str(root))


def test_occshapes_is_generated_once_and_the_splits_differ(root):
    train = DatasetCatalog.get("occshapes_train")
    assert len(train) == 4
    assert MetadataCatalog.get("occshapes_train").thing_classes[:2] == ["disc", "triangle"]
    file = root / "occshapes/v1/train_4x64_seed0/annotations.json"
    assert MetadataCatalog.get("occshapes_train").json_file == str(file)
    stamp = file.stat().st_mtime_ns
    DatasetCatalog.get("occshapes_train")
    assert file.stat().st_mtime_ns == stamp

    prepare_dataset("occshapes_val")
    val = json.loads((root / "occshapes/v1/val_4x64_seed1/annotations.json").read_text())
    assert val["annotations"] != json.loads(file.read_text())["annotations"]


def test_another_generator_version_gets_a_folder_of_its_own(root, monkeypatch):
    prepare_dataset("occshapes_val")
    monkeypatch.setattr(builtin, "GENERATOR_VERSION", "next")
    prepare_dataset("occshapes_val")
    assert sorted(path.name for path in (root / "occshapes").iterdir()) == ["v1", "vnext"]


@pytest.mark.slow
def test_processes_may_ask_at_once(tmp_path):
    code = (
        "import sys; from instseg_d2.data.datasets.builtin import _Generated;"
        "_Generated('val', images=20, seed=1, size=64).prepare('occshapes_val', sys.argv[1]);"
        "print(open(sys.argv[1] + '/occshapes/v1/val_20x64_seed1/annotations.json').read().count('file_name'))"
    )
    command = [sys.executable, "-W", "ignore", "-c", code, str(tmp_path)]
    runs = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert [run.communicate(timeout=120)[0].strip() for run in runs] == ["20", "20"]
    left = {path.name for path in (tmp_path / "occshapes/v1").iterdir()}
    assert left - {".val_20x64_seed1.lock"} == {"val_20x64_seed1"}


def test_unwritable_root_says_what_to_set(root):
    (root / "occshapes").write_text("a file in the way")
    with pytest.raises(DatasetError, match="cannot generate 'occshapes_train' in .*; set DETECTRON2_DATASETS"):
        DatasetCatalog.get("occshapes_train")


def test_missing_set_shows_the_tree_and_the_variable(root, monkeypatch):
    monkeypatch.delenv("DETECTRON2_DATASETS", raising=False)
    with pytest.raises(DatasetError) as caught:
        DatasetCatalog.get("nuclei_train")
    message = str(caught.value)
    assert "data set 'nuclei_train' is not there: no dsb2018_nuclei/annotations/instances_train.json" in message
    assert "dsb2018_nuclei/\n    annotations/instances_train.json, instances_val.json\n    images/*.png" in message
    assert "DETECTRON2_DATASETS is not set, so it is ./datasets" in message
    monkeypatch.setenv("DETECTRON2_DATASETS", "/some/where")
    with pytest.raises(DatasetError, match="DETECTRON2_DATASETS=/some/where"):
        prepare_dataset("mandarin_val")


def test_present_set_is_checked_on_loading(root, content, write):
    path, pictures = write(content)
    (root / "mandarin/annotations").mkdir(parents=True)
    (root / "mandarin/annotations/instances_train.json").write_text(path.read_text())
    pictures.rename(root / "mandarin/train")
    with pytest.raises(DatasetError, match="categories of 'mandarin_train' are mandarin, but the file has pear, cup"):
        DatasetCatalog.get("mandarin_train")

    only = {"id": content["categories"][0]["id"], "name": "mandarin"}
    content["categories"] = [only]
    for annotation in content["annotations"]:
        annotation["category_id"] = only["id"]
    (root / "mandarin/annotations/instances_train.json").write_text(json.dumps(content))
    records = DatasetCatalog.get("mandarin_train")
    assert [a["id"] for a in records[0]["annotations"]] == [11, 12]
    assert MetadataCatalog.get("mandarin_train").thing_classes == ["mandarin"]

    content["annotations"][0]["category_id"] = only["id"] + 1
    (root / "mandarin/annotations/instances_train.json").write_text(json.dumps(content))
    with pytest.raises(DatasetError, match="unknown-category: annotation 11"):
        DatasetCatalog.get("mandarin_train")


def test_preparing_a_foreign_name_does_nothing():
    prepare_dataset("coco_2017_val")


def test_foreign_registration_stays(root, monkeypatch, caplog):
    monkeypatch.setattr(builtin, "_roots", {})
    register_builtin(root / "elsewhere")
    assert "the name 'mandarin_val' is taken" in caplog.text
    assert MetadataCatalog.get("mandarin_val").image_root == str(root / "mandarin/val")


@pytest.mark.slow
def test_import_reads_the_variable_and_no_file(tmp_path):
    code = (
        "import instseg_d2.data; from detectron2.data import MetadataCatalog;"
        "print(MetadataCatalog.get('mandarin_val').image_root)"
    )
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, "DETECTRON2_DATASETS": str(tmp_path / "absent")},
        cwd=tmp_path,
    )
    assert run.stdout.strip() == str(tmp_path / "absent/mandarin/val"), run.stderr
    assert not any(tmp_path.iterdir())
