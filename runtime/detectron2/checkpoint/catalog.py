"""Names of the published Caffe2 models, and the ``catalog://`` paths that resolve to their addresses."""

from __future__ import annotations

import logging
from typing import Any

from detectron2.utils.file_io import PathHandler, PathManager

_BASELINES = "12_2017_baselines"


class ModelCatalog:
    """Maps the names of third-party models to the addresses they are published at.

    The ImageNet models expect pixels that were not divided by a standard deviation, and hold BatchNorm folded into
    an affine layer: they belong into models with ``FrozenBN``. The MSRA ones stride in the 1x1 convolution.
    """

    S3_C2_DETECTRON_PREFIX = "https://dl.fbaipublicfiles.com/detectron"

    C2_IMAGENET_MODELS = {
        name: f"ImageNetPretrained/{path}.pkl"
        for name, path in {
            "MSRA/R-50": "MSRA/R-50",
            "MSRA/R-101": "MSRA/R-101",
            "FAIR/R-50-GN": "47261647/R-50-GN",
            "FAIR/R-101-GN": "47592356/R-101-GN",
            "FAIR/X-101-32x8d": "20171220/X-101-32x8d",
            "FAIR/X-101-64x4d": "FBResNeXt/X-101-64x4d",
            "FAIR/X-152-32x8d-IN5k": "25093814/X-152-32x8d-IN5k",
        }.items()
    }

    C2_DETECTRON_PATH_FORMAT = "{prefix}/{url}/output/train/{dataset}/{type}/model_final.pkl"
    C2_DATASET_COCO = "coco_2014_train%3Acoco_2014_valminusminival"
    C2_DATASET_COCO_KEYPOINTS = "keypoints_coco_2014_train%3Akeypoints_coco_2014_valminusminival"

    # model name -> folder of its training run
    C2_DETECTRON_MODELS = {
        f"{run}/{name}": f"{group}{run}/{series}/{recipe or name}{date}"
        for run, name, group, series, recipe, date in (
            ("35857197", "e2e_faster_rcnn_R-50-C4_1x", "", _BASELINES, "", ".yaml.01_33_49.iAX0mXvW"),
            ("35857345", "e2e_faster_rcnn_R-50-FPN_1x", "", _BASELINES, "", ".yaml.01_36_30.cUF7QR7I"),
            ("35857890", "e2e_faster_rcnn_R-101-FPN_1x", "", _BASELINES, "", ".yaml.01_38_50.sNxI7sX7"),
            ("36761737", "e2e_faster_rcnn_X-101-32x8d-FPN_1x", "", _BASELINES, "", ".yaml.06_31_39.5MIHi1fZ"),
            ("35858791", "e2e_mask_rcnn_R-50-C4_1x", "", _BASELINES, "", ".yaml.01_45_57.ZgkA7hPB"),
            ("35858933", "e2e_mask_rcnn_R-50-FPN_1x", "", _BASELINES, "", ".yaml.01_48_14.DzEQe4wC"),
            ("35861795", "e2e_mask_rcnn_R-101-FPN_1x", "", _BASELINES, "", ".yaml.02_31_37.KqyEK4tT"),
            ("36761843", "e2e_mask_rcnn_X-101-32x8d-FPN_1x", "", _BASELINES, "", ".yaml.06_35_59.RZotkLKI"),
            (
                "48616381",
                "e2e_mask_rcnn_R-50-FPN_2x_gn",
                "GN/",
                "04_2018_gn_baselines",
                "e2e_mask_rcnn_R-50-FPN_2x_gn_0416",
                ".13_23_38.bTlTI97Q",
            ),
            ("37697547", "e2e_keypoint_rcnn_R-50-FPN_1x", "", _BASELINES, "", ".yaml.08_42_54.kdzV35ao"),
            ("35998355", "rpn_R-50-C4_1x", "", _BASELINES, "", ".yaml.08_00_43.njH5oD9L"),
            ("35998814", "rpn_R-50-FPN_1x", "", _BASELINES, "", ".yaml.08_06_03.Axg0r179"),
            ("36225147", "fast_R-50-FPN_1x", "", _BASELINES, "fast_rcnn_R-50-FPN_1x", ".yaml.08_39_09.L3obSdQ2"),
        )
    }

    @classmethod
    def get(cls, name: str) -> str:
        """The URL of a model.

        Args:
            name: ``ImageNetPretrained/<key of C2_IMAGENET_MODELS>`` or
                ``Caffe2Detectron/COCO/<key of C2_DETECTRON_MODELS>``.

        Raises:
            RuntimeError: the name starts like neither.
            KeyError: the catalog has no such model.
        """
        for prefix, resolve in (
            ("ImageNetPretrained/", cls._imagenet_url),
            ("Caffe2Detectron/COCO/", cls._detectron_url),
        ):
            if name.startswith(prefix):
                return resolve(name.removeprefix(prefix))
        raise RuntimeError(f"model not present in the catalog: {name}")

    @classmethod
    def _imagenet_url(cls, key: str) -> str:
        return f"{cls.S3_C2_DETECTRON_PREFIX}/{cls.C2_IMAGENET_MODELS[key]}"

    @classmethod
    def _detectron_url(cls, key: str) -> str:
        return cls.C2_DETECTRON_PATH_FORMAT.format(
            prefix=cls.S3_C2_DETECTRON_PREFIX,
            url=cls.C2_DETECTRON_MODELS[key],
            dataset=cls.C2_DATASET_COCO_KEYPOINTS if "keypoint_rcnn" in key else cls.C2_DATASET_COCO,
            # of the two RPN models only this one was published in a folder of its own kind
            type="rpn" if key == "35998355/rpn_R-50-C4_1x" else "generalized_rcnn",
        )


class ModelCatalogHandler(PathHandler):
    """Lets :data:`PathManager` open ``catalog://<name in ModelCatalog>``."""

    PREFIX = "catalog://"

    def _get_supported_prefixes(self) -> list[str]:
        return [self.PREFIX]

    def _get_local_path(self, path: str, **kwargs: Any) -> str:
        url = ModelCatalog.get(path.removeprefix(self.PREFIX))
        logging.getLogger(__name__).info(f"Catalog entry {path} points to {url}")
        return PathManager.get_local_path(url, **kwargs)

    def _open(self, path: str, mode: str = "r", **kwargs: Any) -> Any:
        return PathManager.open(self._get_local_path(path), mode, **kwargs)


PathManager.register_handler(ModelCatalogHandler())
