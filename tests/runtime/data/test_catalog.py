import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog


@pytest.fixture
def name():
    yield "catalog_test_set"
    for catalog in (DatasetCatalog, MetadataCatalog):
        catalog.data.pop("catalog_test_set", None)


def test_register_get_remove(name):
    DatasetCatalog.register(name, lambda: [1, 2])
    assert DatasetCatalog.get(name) == [1, 2]
    assert name in DatasetCatalog.list()
    with pytest.raises(AssertionError):
        DatasetCatalog.register(name, list)
    DatasetCatalog.remove(name)
    assert name not in DatasetCatalog
    with pytest.raises(AssertionError):
        DatasetCatalog.register(name, [1, 2])


def test_unknown_name():
    with pytest.raises(KeyError, match="coco_2017_vall"):
        DatasetCatalog.get("coco_2017_vall")


@pytest.mark.bundled_only
def test_unknown_name_suggests_the_nearest():
    with pytest.raises(KeyError, match="Did you mean coco_2017_val,"):
        DatasetCatalog.get("coco_2017_vall")


def test_metadata_is_one_object_per_name(name):
    metadata = MetadataCatalog.get(name)
    assert metadata is MetadataCatalog.get(name)
    assert metadata.set(thing_classes=["a"], size=3) is metadata
    assert metadata.get("size") == 3
    assert metadata.get("other", 8) == 8
    copy = metadata.as_dict()
    copy["size"] = 5
    assert metadata.size == 3
    assert copy["name"] == name


def test_metadata_refuses_other_values(name):
    metadata = MetadataCatalog.get(name)
    metadata.thing_classes = ["a"]
    metadata.thing_classes = ["a"]
    with pytest.raises(AssertionError, match="thing_classes"):
        metadata.thing_classes = ["b"]
    assert metadata.class_names == ["a"]  # an earlier name of the key
    with pytest.raises(AttributeError, match=name):
        metadata.no_such_key  # noqa: B018
