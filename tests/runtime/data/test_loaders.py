import itertools
import pickle

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.data import (
    DatasetCatalog,
    DatasetFromList,
    MapDataset,
    MetadataCatalog,
    ToIterableDataset,
    build_batch_data_loader,
    build_detection_test_loader,
    build_detection_train_loader,
    get_detection_dataset_dicts,
    load_proposals_into_dataset,
    print_instances_class_histogram,
)
from detectron2.data.build import filter_images_with_only_crowd_annotations, worker_init_reset_seed
from detectron2.data.common import AspectRatioGroupedDataset, set_default_dataset_from_list_serialize_method
from detectron2.data.samplers import InferenceSampler, TrainingSampler
from torch.utils.data import IterableDataset


class Stream(IterableDataset):
    def __init__(self, items):
        self.items = items

    def __iter__(self):
        return iter(self.items)


@pytest.fixture
def register():
    names = []

    def _register(name, records, **metadata):
        names.append(name)
        DatasetCatalog.register(name, lambda: records)
        MetadataCatalog.get(name).set(**metadata)

    yield _register
    for name in names:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def record(i, *categories, crowd=0):
    return {
        "file_name": f"{i}.png",
        "image_id": i,
        "annotations": [{"category_id": c, "iscrowd": crowd} for c in categories],
    }


@pytest.mark.parametrize("options", [{}, {"serialize": False}, {"copy": False}])
def test_list_elements_are_fresh(options):
    dataset = DatasetFromList([{"a": [1]}, {"b": 2}], **options)
    assert len(dataset) == 2
    assert dataset[1] == {"b": 2}
    dataset[0]["a"].append(5)
    assert dataset[0] == {"a": [1]}
    with pytest.raises(IndexError):
        dataset[2]
    assert list(dataset) == [{"a": [1]}, {"b": 2}]
    assert pickle.loads(pickle.dumps(dataset))[0] == {"a": [1]}


def test_list_without_copy_or_serialization_is_the_list():
    items = [[1], [2]]
    dataset = DatasetFromList(items, copy=False, serialize=False)
    assert dataset[0] is items[0]
    with pytest.raises(TypeError):
        DatasetFromList(items, serialize="yes")


def test_default_serialization_is_restored_after_an_error():
    with set_default_dataset_from_list_serialize_method(tuple):
        assert isinstance(DatasetFromList([1])._lst, tuple)
    assert not isinstance(DatasetFromList([1])._lst, tuple)


@pytest.mark.bundled_only
def test_serialized_list_corner_cases():
    assert len(DatasetFromList([])) == 0
    assert DatasetFromList([4, 5, 6])[-3] == 4
    with pytest.raises(RuntimeError), set_default_dataset_from_list_serialize_method(tuple):
        raise RuntimeError
    assert not isinstance(DatasetFromList([1])._lst, tuple)


def test_map_dataset_replaces_what_cannot_be_mapped():
    dataset = MapDataset(DatasetFromList(list(range(10))), lambda x: None if x % 2 else x * 10)
    assert dataset[4] == 40
    assert {dataset[1] for _ in range(50)} <= {0, 20, 40, 60, 80}
    assert pickle.loads(pickle.dumps(dataset))[2] == 20
    assert list(MapDataset(Stream([1, 2, 3]), lambda x: None if x == 2 else -x)) == [-1, -3]


@pytest.mark.bundled_only
def test_map_dataset_gives_up_when_nothing_can_be_mapped():
    with pytest.raises(RuntimeError, match="3 elements"):
        MapDataset([1, 2, 3], lambda x: None)[0]


def test_aspect_ratio_groups():
    sizes = [(4, 3), (3, 4), (5, 5), (9, 1), (1, 9), (8, 2)]
    records = [{"width": w, "height": h} for w, h in sizes]
    batches = list(AspectRatioGroupedDataset(records, 2))
    assert [[(r["width"], r["height"]) for r in b] for b in batches] == [[(3, 4), (5, 5)], [(4, 3), (9, 1)]]


def test_workers_share_the_sampler():
    dataset = ToIterableDataset(list(range(23)), InferenceSampler(23), shard_chunk_size=3)
    assert list(dataset) == list(range(23))
    loader = build_batch_data_loader(list(range(23)), InferenceSampler(23), 3, num_workers=2, drop_last=False)
    assert list(loader) == [list(range(i, min(i + 3, 23))) for i in range(0, 23, 3)]


def test_batch_sizes():
    dataset, sampler = list(range(8)), InferenceSampler(8)
    assert list(build_batch_data_loader(dataset, sampler, 3)) == [[0, 1, 2], [3, 4, 5]]
    assert list(build_batch_data_loader(dataset, sampler, None, single_gpu_batch_size=4)) == [
        [0, 1, 2, 3],
        [4, 5, 6, 7],
    ]
    with pytest.raises(ValueError, match="total_batch_size"):
        build_batch_data_loader(dataset, sampler, 4, single_gpu_batch_size=4)
    with pytest.raises(AssertionError):
        build_batch_data_loader(dataset, sampler, 0)
    assert list(build_batch_data_loader(Stream(range(4)), None, 2, collate_fn=sum)) == [1, 5]


def test_workers_have_seeds_of_their_own():
    torch.manual_seed(3)
    seed = torch.initial_seed()
    worker_init_reset_seed(4)
    assert torch.initial_seed() == seed % 2**31 + 4


def test_train_loader_order_and_grouping():
    records = [{"width": 4 + i % 2 * 4, "height": 5, "i": i} for i in range(6)]
    order = itertools.islice(TrainingSampler(6, seed=2), 24)
    loader = build_detection_train_loader(
        records, mapper=lambda r: r, sampler=TrainingSampler(6, seed=2), total_batch_size=2
    )
    got = [[r["i"] for r in batch] for batch in itertools.islice(loader, 6)]
    expected, wide, high = [], [], []
    for i in order:
        bucket = wide if i % 2 else high
        bucket.append(i)
        if len(bucket) == 2:
            expected.append(bucket[:])
            bucket.clear()
    assert got == expected[:6]


def test_test_loader():
    loader = build_detection_test_loader([{"i": i} for i in range(5)], mapper=lambda r: r["i"], batch_size=2)
    assert list(loader) == [[0, 1], [2, 3], [4]]
    assert list(build_detection_test_loader(Stream([1, 2]), mapper=lambda x: -x)) == [[-1], [-2]]


def test_crowds_do_not_count_as_annotations():
    records = [record(0, 1), record(1, 1, crowd=1), record(2)]
    assert [r["image_id"] for r in filter_images_with_only_crowd_annotations(records)] == [0]


def test_loading_records(register):
    register("loaders_a", [record(0, 1), record(1)], thing_classes=["x", "y"])
    register("loaders_b", [record(2, 0)], thing_classes=["x", "y"])
    register("loaders_c", [record(3, 0)], thing_classes=["x", "z"])
    register("loaders_stream", Stream([1]))
    assert [r["image_id"] for r in get_detection_dataset_dicts(["loaders_a", "loaders_b"])] == [0, 2]
    assert len(get_detection_dataset_dicts("loaders_a", filter_empty=False)) == 2
    with pytest.raises(ValueError, match="thing_classes"):
        get_detection_dataset_dicts(["loaders_a", "loaders_c"])
    assert len(get_detection_dataset_dicts(["loaders_a", "loaders_c"], check_consistency=False)) == 2
    assert isinstance(get_detection_dataset_dicts("loaders_stream"), Stream)
    with pytest.raises(KeyError):
        get_detection_dataset_dicts("loaders_unknown")


def test_empty_data_sets_are_refused(register):
    register("loaders_empty", [])
    register("loaders_crowds", [record(0, 1, crowd=1)])
    with pytest.raises((AssertionError, ValueError), match="loaders_empty"):
        get_detection_dataset_dicts("loaders_empty")
    with pytest.raises((AssertionError, ValueError), match="loaders_crowds"):
        get_detection_dataset_dicts("loaders_crowds")


@pytest.mark.bundled_only
def test_empty_data_sets_say_what_to_do(register):
    register("loaders_empty", [], json_file="some/file.json")
    register("loaders_crowds", [record(0, 1, crowd=1)])
    with pytest.raises(ValueError, match=r"some/file\.json lists no images"):
        get_detection_dataset_dicts("loaders_empty")
    with pytest.raises(ValueError, match="none of the 1 images.*FILTER_EMPTY_ANNOTATIONS"):
        get_detection_dataset_dicts("loaders_crowds")


def test_histogram(monkeypatch):
    shown = []
    monkeypatch.setattr("detectron2.data.build.log_first_n", lambda level, message, **_: shown.append(message))
    names = ["ant", "bee", "a very long class name", "dog"]
    print_instances_class_histogram([record(0, 1, 1, 3), record(1, 2), record(2, 0, crowd=1)], names)
    cells = [cell.strip() for line in shown[0].splitlines() for cell in line.split("|")]
    counts = {name: cells[cells.index(name) + 1] for name in ("ant", "bee", "a very long..", "dog", "total")}
    assert counts == {"ant": "0", "bee": "2", "a very long..": "1", "dog": "1", "total": "4"}
    for wrong in (4, -1):
        with pytest.raises((AssertionError, ValueError), match=f"{wrong}"):
            print_instances_class_histogram([record(0, wrong)], names)


@pytest.mark.bundled_only
def test_precomputed_proposals_are_left_out():
    with pytest.raises(NotImplementedError, match="proposals"):
        load_proposals_into_dataset([], "file.pkl")


def test_loaders_from_a_config(register):
    register("loaders_cfg", [{**record(i, i % 2), "width": 3, "height": 3} for i in range(6)], thing_classes=["x", "y"])
    cfg = get_cfg()
    cfg.DATASETS.TRAIN = ("loaders_cfg",)
    cfg.SOLVER.IMS_PER_BATCH = 2
    cfg.DATALOADER.NUM_WORKERS = 0
    cfg.SEED = 8
    batches = itertools.islice(build_detection_train_loader(cfg, mapper=lambda r: r), 3)
    got = [r["image_id"] for batch in batches for r in batch]
    assert got == list(itertools.islice(TrainingSampler(6, seed=8), 6))
    batches = list(build_detection_test_loader(cfg, "loaders_cfg", mapper=lambda r: r["image_id"]))
    assert batches == [[i] for i in range(6)]
    cfg.DATALOADER.SAMPLER_TRAIN = "NoSuchSampler"
    with pytest.raises(ValueError, match="NoSuchSampler"):
        build_detection_train_loader(cfg, mapper=lambda r: r)
