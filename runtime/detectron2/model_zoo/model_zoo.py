"""Access to the zoo's configs and weights by names such as ``COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x.yaml``."""

from pathlib import Path

import torch
from omegaconf import DictConfig

from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode, LazyConfig, get_cfg, instantiate
from detectron2.modeling import build_model

__all__ = ["get_checkpoint_url", "get", "get_config_file", "get_config"]

_CONFIGS = Path(__file__).parent / "configs"

_SERVER = "https://dl.fbaipublicfiles.com/detectron2"

# Published weights: {folder: {config: "<run>/<hash>"}}.
_RELEASED = {
    "COCO-Detection": {
        "faster_rcnn_R_50_C4_1x": "137257644/721ade",
        "faster_rcnn_R_50_C4_3x": "137849393/f97cb7",
        "faster_rcnn_R_50_DC5_1x": "137847829/51d356",
        "faster_rcnn_R_50_DC5_3x": "137849425/68d202",
        "faster_rcnn_R_50_FPN_1x": "137257794/b275ba",
        "faster_rcnn_R_50_FPN_3x": "137849458/280758",
        "faster_rcnn_R_101_C4_3x": "138204752/298dad",
        "faster_rcnn_R_101_DC5_3x": "138204841/3e0943",
        "faster_rcnn_R_101_FPN_3x": "137851257/f6e8b1",
        "faster_rcnn_X_101_32x8d_FPN_3x": "139173657/68b088",
        "retinanet_R_50_FPN_1x": "190397773/bfca0b",
        "retinanet_R_50_FPN_3x": "190397829/5bd44e",
        "retinanet_R_101_FPN_3x": "190397697/971ab9",
    },
    "COCO-InstanceSegmentation": {
        "mask_rcnn_R_50_C4_1x": "137259246/9243eb",
        "mask_rcnn_R_50_C4_3x": "137849525/4ce675",
        "mask_rcnn_R_50_DC5_1x": "137260150/4f86c3",
        "mask_rcnn_R_50_DC5_3x": "137849551/84107b",
        "mask_rcnn_R_50_FPN_1x": "137260431/a54504",
        "mask_rcnn_R_50_FPN_3x": "137849600/f10217",
        "mask_rcnn_R_101_C4_3x": "138363239/a2914c",
        "mask_rcnn_R_101_DC5_3x": "138363294/0464b7",
        "mask_rcnn_R_101_FPN_3x": "138205316/a3ec72",
        "mask_rcnn_X_101_32x8d_FPN_3x": "139653917/2d9806",
    },
    "new_baselines": {
        "mask_rcnn_R_50_FPN_100ep_LSJ": "42047764/bb69de",
        "mask_rcnn_R_50_FPN_200ep_LSJ": "42047638/89a8d3",
        "mask_rcnn_R_50_FPN_400ep_LSJ": "42019571/14d201",
        "mask_rcnn_R_101_FPN_100ep_LSJ": "42025812/4f7b58",
        "mask_rcnn_R_101_FPN_200ep_LSJ": "42131867/0bb7ae",
        "mask_rcnn_R_101_FPN_400ep_LSJ": "42073830/f96b26",
    },
    "Misc": {
        "cascade_mask_rcnn_R_50_FPN_1x": "138602847/e9d89b",
        "cascade_mask_rcnn_R_50_FPN_3x": "144998488/480dd8",
        "mask_rcnn_R_50_FPN_1x_dconv_c3-c5": "138602867/65c703",
        "mask_rcnn_R_50_FPN_3x_dconv_c3-c5": "144998336/821d0b",
        "mask_rcnn_R_50_FPN_3x_gn": "138602888/dc5d9e",
        "mask_rcnn_R_50_FPN_3x_syncbn": "169527823/3b3c51",
        "scratch_mask_rcnn_R_50_FPN_3x_gn": "138602908/01ca85",
        "scratch_mask_rcnn_R_50_FPN_9x_gn": "183808979/da7b4c",
        "scratch_mask_rcnn_R_50_FPN_9x_syncbn": "184226666/5ce33e",
    },
}


def get_checkpoint_url(config_path: str) -> str:
    """The link to the weights that were trained with a config.

    Args:
        config_path: name of the config in the zoo, as ``.yaml`` or ``.py``.

    Raises:
        RuntimeError: if there are none.
    """
    folder, _, name = config_path.removesuffix(".yaml").removesuffix(".py").rpartition("/")
    released = _RELEASED.get(folder, {}).get(name)
    if released is None:
        raise RuntimeError(f"The model zoo of this runtime has no trained weights for {config_path}.")
    run, commit = released.split("/")
    return f"{_SERVER}/{folder}/{name}/{run}/model_final_{commit}.pkl"


def get_config_file(config_path: str) -> str:
    """The path of a config's file.

    Args:
        config_path: name of the config in the zoo.

    Raises:
        RuntimeError: if there is no such config; the message lists those of its folder.
    """
    path = _CONFIGS / config_path
    if not path.is_file():
        folder = path.parent if path.parent.is_dir() else _CONFIGS
        names = ", ".join(sorted(p.name for p in folder.iterdir() if not p.name.startswith("_")))
        raise RuntimeError(
            f"The model zoo of this runtime has no config {config_path}. In {folder.relative_to(_CONFIGS)}/: {names}."
        )
    return str(path)


def get_config(config_path: str, trained: bool = False) -> CfgNode | DictConfig:
    """Load a config: ``.yaml`` over the defaults as a CfgNode, ``.py`` as a DictConfig.

    Args:
        config_path: name of the config in the zoo.
        trained: let it start from the weights that were trained with it; else from those that it names itself,
            usually an ImageNet backbone.
    """
    path = get_config_file(config_path)
    if path.endswith(".py"):
        cfg = LazyConfig.load(path)
        if trained:
            link = get_checkpoint_url(config_path)
            if "init_checkpoint" not in cfg.get("train", {}):
                raise NotImplementedError(f"{config_path} has no train.init_checkpoint to name trained weights.")
            cfg.train.init_checkpoint = link
        return cfg
    cfg = get_cfg()
    cfg.merge_from_file(path)
    if trained:
        cfg.MODEL.WEIGHTS = get_checkpoint_url(config_path)
    return cfg


def get(config_path: str, trained: bool = False, device: str | None = None) -> torch.nn.Module:
    """Build a model, in training mode, and load its weights, which may download them.

    Args:
        config_path: name of the config in the zoo.
        trained: see :func:`get_config`.
        device: where to put it; by default as the config says, or the CPU if there is no GPU.
    """
    cfg = get_config(config_path, trained)
    if device is None and not torch.cuda.is_available():
        device = "cpu"
    if isinstance(cfg, CfgNode):
        if device is not None:
            cfg.MODEL.DEVICE = device
        model = build_model(cfg)
        weights = cfg.MODEL.WEIGHTS
    else:
        model = instantiate(cfg.model)
        if device is not None:
            model = model.to(device)
        weights = cfg.get("train", {}).get("init_checkpoint")
    if weights is not None:
        DetectionCheckpointer(model).load(weights)
    return model
