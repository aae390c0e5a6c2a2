import pytest

from instseg_d2 import model_zoo

NAME = "Baselines/mask_rcnn_r50_fpn_coco_1x"


def test_names_with_and_without_suffix_and_paths_give_the_same_file():
    path = model_zoo.config_path(NAME)
    assert path.is_file()
    assert model_zoo.config_path(NAME + ".py") == path
    assert model_zoo.config_path(path) == path


def test_list_filters_by_pattern():
    assert NAME in model_zoo.list_configs()
    quick = model_zoo.list_configs("*_quick")
    assert quick
    assert all(name.endswith("_quick") for name in quick)


def test_every_load_is_fresh():
    first = model_zoo.get_config(NAME)
    first.train.max_iter = 1
    assert model_zoo.get_config(NAME).train.max_iter == 90000


@pytest.mark.parametrize("name", ["Baselines/mask_rcnn_r50_fpn_coco_2x", "mask_rcnn_r50_fpn_coco_1x"])
def test_unknown_name_lists_the_nearest(name):
    with pytest.raises(FileNotFoundError, match=NAME):
        model_zoo.get_config(name)
