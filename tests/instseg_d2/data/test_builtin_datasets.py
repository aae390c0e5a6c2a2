import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from instseg_d2.data import BUILTIN_DATASETS, DatasetError, prepare_dataset, register_builtin, write_occshapes
from instseg_d2.data.datasets import builtin
from instseg_d2.data.datasets.bdd100k import read_bdd100k
from instseg_d2.data.datasets.splits import Generated
from instseg_d2.data.datasets.youtube_vis import YTVIS_2019_CLASSES
from instseg_d2.data.instance_maps import read_bitmask, write_bitmask


@pytest.fixture
def root(tmp_path, monkeypatch):
    """Built-in sets under a root of their own, with OccShapes of a few images."""
    splits = {
        f"occshapes_{kind}{split}": builtin.occshapes_split(split, images=4, seed=seed, size=64, amodal=bool(kind))
        for split, seed in (("train", 0), ("val", 1))
        for kind in ("", "amodal_")
    }
    for split, seed in (("train", 0), ("val", 1)):
        splits |= builtin.occvideo_splits(split, videos=2, frames=3, seed=seed, size=64)
    before = dict(builtin._roots)
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(builtin, "_SPLITS", {**builtin._SPLITS, **splits})
    register_builtin(tmp_path / "data")
    (tmp_path / "data").mkdir()
    yield tmp_path / "data"
    monkeypatch.undo()
    builtin._roots.update(dict.fromkeys(before))
    register_builtin(before["occshapes_train"])


def test_names_and_metadata_without_any_file(root):
    families = ("occshapes", "occshapes_amodal", "mandarin", "nuclei", "coco_mini", "kins", "cocoa")
    families += ("occvideo", "occvideo_mots", "ytvis_2019", "ytvis_2021")
    families += tuple(f"bdd100k_{task}" for task in ("det", "mot", "ins_seg", "seg_track"))
    assert set(BUILTIN_DATASETS) >= {f"{name}_{split}" for name in families for split in ("train", "val")}
    assert not any(root.iterdir())
    assert not (root.parent / "cache").exists()
    for name in BUILTIN_DATASETS:
        metadata = MetadataCatalog.get(name)
        video = name.startswith(("occvideo", "ytvis", "bdd100k"))
        assert (metadata.evaluator_type == "coco") != video
        # Derived files, such as the COCO form of amodal sets, are kept apart from the data.
        keys = ("amodal_json_file", "full_json_file", "list_file", "json_file")
        source = next(metadata.get(key) for key in keys if metadata.get(key))
        assert source.startswith(str(root))
        assert metadata.image_root.startswith(str(root))
        assert metadata.thing_classes


def test_occshapes_is_generated_once_and_the_splits_differ(root):
    train = DatasetCatalog.get("occshapes_train")
    assert len(train) == 4
    assert MetadataCatalog.get("occshapes_train").thing_classes[:2] == ["disc", "triangle"]
    file = root / "occshapes/v2/train_4x64_seed0/annotations.json"
    assert MetadataCatalog.get("occshapes_train").json_file == str(file)
    stamp = file.stat().st_mtime_ns
    DatasetCatalog.get("occshapes_train")
    assert file.stat().st_mtime_ns == stamp

    prepare_dataset("occshapes_val")
    val = json.loads((root / "occshapes/v2/val_4x64_seed1/annotations.json").read_text())
    assert val["annotations"] != json.loads(file.read_text())["annotations"]


def test_another_generator_version_gets_a_folder_of_its_own(root, monkeypatch):
    prepare_dataset("occshapes_val")
    monkeypatch.setattr(builtin, "GENERATOR_VERSION", "next")
    builtin.occshapes_split("val", images=2, seed=1, size=64).prepare("occshapes_val", str(root))
    assert sorted(path.name for path in (root / "occshapes").iterdir()) == ["v2", "vnext"]


def test_amodal_and_visible_names_share_the_pictures(root):
    visible, amodal = DatasetCatalog.get("occshapes_val"), DatasetCatalog.get("occshapes_amodal_val")
    assert [path.name for path in (root / "occshapes/v2").iterdir() if path.is_dir()] == ["val_4x64_seed1"]
    assert MetadataCatalog.get("occshapes_amodal_val").masks == "amodal"
    some_are_hidden = False
    for one, two in zip(visible, amodal, strict=True):
        assert one["file_name"] == two["file_name"]
        for seen, whole in zip(one["annotations"], two["annotations"], strict=True):
            assert seen["segmentation"] == seen["visible_segmentation"] == whole["visible_segmentation"]
            assert whole["segmentation"] == whole["amodal_segmentation"] == seen["amodal_segmentation"]
            assert (seen["depth"], seen["covered"], seen["id"]) == (whole["depth"], whole["covered"], whole["id"])
            some_are_hidden |= seen["segmentation"] != whole["segmentation"]
    assert some_are_hidden


def test_occvideo_has_one_truth_in_two_layouts(root):
    tracks, labels = DatasetCatalog.get("occvideo_val"), DatasetCatalog.get("occvideo_mots_val")
    assert [path.name for path in (root / "occvideo/v1").iterdir() if path.is_dir()] == ["val_2x3x64_seed1"]
    metadata, other = MetadataCatalog.get("occvideo_val"), MetadataCatalog.get("occvideo_mots_val")
    assert (metadata.evaluator_type, other.evaluator_type) == ("youtube_vis", "bdd100k_mots")
    assert metadata.thing_classes == other.thing_classes
    assert metadata.thing_dataset_id_to_contiguous_id == {number + 1: number for number in range(10)}
    bitmasks, _ = read_bdd100k(other.bitmask_root, other.image_root, other.thing_classes)
    assert len(tracks) == len(labels) == len(bitmasks) == 6
    for one, two, three in zip(tracks, labels, bitmasks, strict=True):
        for key in ("video_id", "video_name", "frame_index", "video_length", "image_id", "height", "width"):
            assert one[key] == two[key] == three[key]
        assert one["annotations"]

        def essence(record):
            return sorted((a["bbox"], a["category_id"], a["iscrowd"]) for a in record["annotations"])

        assert essence(one) == essence(two) == essence(three)
        with open(one["file_name"], "rb") as file, open(two["file_name"], "rb") as again:
            assert file.read() == again.read()


def test_youtube_vis_tree_of_the_release(root, tmp_path):
    prepare_dataset("occvideo_train")
    made = root / "occvideo/v1/train_2x3x64_seed0/ytvis"
    content = json.loads((made / "annotations.json").read_text())
    content["categories"] = [{"id": at, "name": name} for at, name in enumerate(YTVIS_2019_CLASSES, start=1)]
    (root / "ytvis_2019/valid").mkdir(parents=True)
    (made / "JPEGImages").rename(root / "ytvis_2019/valid/JPEGImages")
    file = root / "ytvis_2019/valid.json"
    file.write_text(json.dumps({**content, "annotations": None}))
    records = DatasetCatalog.get("ytvis_2019_val")
    assert len(records) == 6
    assert "annotations" not in records[0]
    content["categories"].append({**content["categories"].pop(0), "id": 41})
    file.write_text(json.dumps({**content, "annotations": None}))
    with pytest.raises(DatasetError, match="the category ids of 'ytvis_2019_val' are 1 to 40 in the order person, gia"):
        DatasetCatalog.get("ytvis_2019_val")


def test_bdd100k_tree_of_the_release(root):
    prepare_dataset("occvideo_mots_val")
    made = root / "occvideo/v1/val_2x3x64_seed1/mots"
    with pytest.raises(DatasetError) as caught:
        DatasetCatalog.get("bdd100k_seg_track_val")
    assert "no bdd100k/labels/seg_track_20/rles/val and no bdd100k/images/seg_track_20/val" in str(caught.value)
    assert "labels/seg_track_20/rles/val    (or seg_track_20/bitmasks/val)" in str(caught.value)
    for task in ("images", "labels"):
        (root / f"bdd100k/{task}/seg_track_20").mkdir(parents=True)
    (root / "bdd100k/labels/seg_track_20/bitmasks").mkdir()
    (made / "images").rename(root / "bdd100k/images/seg_track_20/val")
    (made / "bitmasks").rename(root / "bdd100k/labels/seg_track_20/bitmasks/val")
    # Classes of OccVideo beyond the eighth have no meaning there.
    for file in (root / "bdd100k/labels/seg_track_20/bitmasks/val").rglob("*.png"):
        objects = read_bitmask(file)
        write_bitmask(file, replace(objects, classes=objects.classes % 8))
    records = DatasetCatalog.get("bdd100k_seg_track_val")
    assert len(records) == 6
    assert all(record["annotations"] for record in records)


def test_damaged_generated_folder_is_made_anew_but_a_foreign_one_stays(root):
    prepare_dataset("occshapes_amodal_val")
    out = root / "occshapes/v2/val_4x64_seed1"
    (out / "annotations_amodal.json").unlink()
    prepare_dataset("occshapes_amodal_val")
    assert (out / "annotations_amodal.json").is_file()
    (out / "annotations.json").write_text("{}")
    (out / "annotations_amodal.json").unlink()
    with pytest.raises(DatasetError, match="not written by this generator"):
        prepare_dataset("occshapes_amodal_val")


def test_generated_set_of_another_kind_brings_its_writer_and_reader(root, name, monkeypatch):
    calls = []

    def write(out, overwrite):
        calls.append((out, overwrite))
        out.mkdir(parents=True)
        (out / "index.json").write_text("[1, 2]")
        return "two videos"

    def read(json_file, image_root, name):
        return [{"video": number, "name": name, "images": image_root} for number in json.loads(open(json_file).read())]

    split = Generated(
        folder="films/v1",
        write=write,
        read=read,
        json_file="films/v1/index.json",
        image_root="films/v1/frames",
        classes=("disc",),
        evaluator_type="ytvis",
        extra={"fps": 12},
    )
    monkeypatch.setattr(builtin, "_SPLITS", {name: split})
    monkeypatch.setattr(builtin, "_roots", {})
    register_builtin(root)
    metadata = MetadataCatalog.get(name)
    assert (metadata.evaluator_type, metadata.fps, metadata.thing_classes) == ("ytvis", 12, ["disc"])
    assert calls == []
    for _ in range(2):
        records = DatasetCatalog.get(name)
        assert [record["video"] for record in records] == [1, 2]
        assert records[0]["images"] == str(root / "films/v1/frames")
    assert calls == [(root / "films/v1", True)]


@pytest.mark.parametrize("name", ["kins_train", "kins_val", "cocoa_train", "cocoa_val", "cocoa_samples"])
def test_missing_amodal_set_shows_its_tree(root, name):
    with pytest.raises(DatasetError, match=rf"data set '{name}' is not there(.|\n)*annotations/"):
        DatasetCatalog.get(name)


def test_kins_tree_is_read_in_the_layout_of_its_authors(root, tmp_path):
    write_occshapes(tmp_path / "set", images=2, size=64, progress=False)
    content = json.loads((tmp_path / "set/annotations_kins.json").read_text())
    names = ["cyclist", "pedestrian", "rider", "car", "tram", "truck", "van", "misc"]
    content["categories"] = [{"id": number, "name": name} for number, name in enumerate(names, start=1)]
    for annotation in content["annotations"]:
        annotation["category_id"] = 4
    content["annotations"][0]["a_segm"] = [[1, 1, 9, 1, 9, 9], [1, 2]]
    (root / "kins/annotations").mkdir(parents=True)
    (root / "kins/training").mkdir()
    (root / "kins/annotations/update_train_2020.json").write_text(json.dumps(content))
    (tmp_path / "set/images").rename(root / "kins/training/image_2")
    records = DatasetCatalog.get("kins_train")
    metadata = MetadataCatalog.get("kins_train")
    assert tuple(metadata.thing_classes) == ("cyclist", "pedestrian", "car", "tram", "truck", "van", "misc")
    assert {a["category_id"] for record in records for a in record["annotations"]} == {2}
    assert records[0]["annotations"][0]["segmentation"] == [[1, 1, 9, 1, 9, 9]]
    assert json.loads(open(metadata.json_file).read())["annotations"][0]["segmentation"] == [[1, 1, 9, 1, 9, 9]]
    # No COCO form beside the data.
    assert [path.name for path in (root / "kins/annotations").iterdir()] == ["update_train_2020.json"]


def test_cocoa_tree_is_read_in_the_layout_of_its_authors(root, tmp_path):
    write_occshapes(tmp_path / "set", images=2, size=64, progress=False)
    (root / "cocoa/annotations").mkdir(parents=True)
    (root / "coco").mkdir()
    (tmp_path / "set/annotations_cocoa.json").rename(root / "cocoa/annotations/COCO_amodal_val2014.json")
    (tmp_path / "set/images").rename(root / "coco/val2014")
    prepare_dataset("cocoa_val")
    records = DatasetCatalog.get("cocoa_val")
    assert MetadataCatalog.get("cocoa_val").thing_classes == ["object"]
    assert [a["depth"] for a in records[0]["annotations"]] == list(range(len(records[0]["annotations"])))


@pytest.mark.slow
def test_processes_may_ask_at_once(tmp_path):
    code = (
        "import sys; from instseg_d2.data.datasets.builtin import occshapes_split;"
        "occshapes_split('val', images=20, seed=1, size=64).prepare('occshapes_val', sys.argv[1]);"
        "print(open(sys.argv[1] + '/occshapes/v2/val_20x64_seed1/annotations.json').read().count('file_name'))"
    )
    command = [sys.executable, "-W", "ignore", "-c", code, str(tmp_path)]
    runs = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert [run.communicate(timeout=120)[0].strip() for run in runs] == ["20", "20"]
    left = {path.name for path in (tmp_path / "occshapes/v2").iterdir()}
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
