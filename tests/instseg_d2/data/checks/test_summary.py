from instseg_d2.data.checks import check_dataset


def test_numbers_of_a_small_set(content):
    content["images"].append({"id": 3, "file_name": "c.png", "height": 50, "width": 60})
    content["annotations"][2].update(iscrowd=1, area=120 * 120)
    assert check_dataset(content).summary == [
        "3 images, 1 without instances; height 40 to 50, width 60 to 60, 2 sizes",
        "3 instances; masks: 2 of polygons, 1 of run lengths, 0 missing; 1 crowd regions",
        "per image or frame: mean 1.0, median 1, most 2",
        "sizes: 67 % small (below 32 x 32 px), 0 % medium, 33 % large (from 96 x 96 px)",
        "instances of 2 of 2 categories: pear 2, cup 1",
    ]
    assert check_dataset(content, limit=1).summary[0] == "2 more were left out by the limit"
    assert check_dataset(content, limit=1).summary[-1] == "instances of 2 of 2 categories: cup 1, pear 1"


def test_categories_without_instances_are_named(content):
    content["categories"].append({"id": 9, "name": "lemon"})
    assert check_dataset(content).summary[-1].endswith("pear 2, cup 1; none of: lemon")


def test_unusable_entries_do_not_count(content):
    content["annotations"][0]["category_id"] = 99
    assert "2 instances" in check_dataset(content).summary[1]
    assert check_dataset([1, 2]).summary == ["no usable images"]
    assert check_dataset({**content, "annotations": []}).summary[-1] == "no usable instances"


def test_masks_may_be_missing(content):
    for annotation in content["annotations"]:
        del annotation["segmentation"], annotation["area"]
    summary = check_dataset(content).summary
    assert "0 of run lengths, 3 missing" in summary[1]
    assert "100 % small" in summary[3]
