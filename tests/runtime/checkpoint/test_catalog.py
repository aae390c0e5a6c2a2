"""Published addresses, and the path prefixes that lead to them."""

import pytest
from detectron2.checkpoint.catalog import ModelCatalog
from detectron2.utils.file_io import PathManager

ROOT = "https://dl.fbaipublicfiles.com/detectron/"
COCO = "output/train/coco_2014_train%3Acoco_2014_valminusminival"


@pytest.mark.parametrize(
    ("name", "address"),
    [
        ("ImageNetPretrained/MSRA/R-50", "ImageNetPretrained/MSRA/R-50.pkl"),
        ("ImageNetPretrained/FAIR/X-101-64x4d", "ImageNetPretrained/FBResNeXt/X-101-64x4d.pkl"),
        (
            "Caffe2Detectron/COCO/35858933/e2e_mask_rcnn_R-50-FPN_1x",
            "35858933/12_2017_baselines/e2e_mask_rcnn_R-50-FPN_1x.yaml.01_48_14.DzEQe4wC/"
            f"{COCO}/generalized_rcnn/model_final.pkl",
        ),
        (
            "Caffe2Detectron/COCO/35998355/rpn_R-50-C4_1x",
            f"35998355/12_2017_baselines/rpn_R-50-C4_1x.yaml.08_00_43.njH5oD9L/{COCO}/rpn/model_final.pkl",
        ),
        (
            "Caffe2Detectron/COCO/48616381/e2e_mask_rcnn_R-50-FPN_2x_gn",
            "GN/48616381/04_2018_gn_baselines/e2e_mask_rcnn_R-50-FPN_2x_gn_0416.13_23_38.bTlTI97Q/"
            f"{COCO}/generalized_rcnn/model_final.pkl",
        ),
    ],
)
def test_addresses(name, address):
    assert ModelCatalog.get(name) == ROOT + address


def test_unknown_names():
    with pytest.raises(RuntimeError, match="Nowhere/R-50"):
        ModelCatalog.get("Nowhere/R-50")
    with pytest.raises(KeyError):
        ModelCatalog.get("ImageNetPretrained/R-7")


@pytest.mark.parametrize(
    ("path", "address"),
    [
        ("catalog://ImageNetPretrained/MSRA/R-101", ROOT + "ImageNetPretrained/MSRA/R-101.pkl"),
        ("detectron2://a/b.pkl", "https://dl.fbaipublicfiles.com/detectron2/a/b.pkl"),
    ],
)
def test_prefixes_resolve(path, address, monkeypatch):
    handler = next(h for p, h in PathManager._path_handlers.items() if path.startswith(p))
    asked = []
    monkeypatch.setattr(PathManager, "get_local_path", lambda p, **kwargs: asked.append(p) or "/local/file")
    assert handler._get_local_path(path) == "/local/file"
    assert asked == [address]
