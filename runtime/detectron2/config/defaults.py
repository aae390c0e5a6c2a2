"""The default yaml config: upstream's names and values, those of uncovered features included, so that any config that
upstream dumped can be merged. ``*_TRAIN`` / ``*_TEST`` keys apply in that phase only.
"""

from typing import Any

from .config import CfgNode as CN

_TRAINING: dict[str, Any] = {
    "SOLVER": {
        "LR_SCHEDULER_NAME": "WarmupMultiStepLR",
        "MAX_ITER": 40000,
        "STEPS": (30000,),
        "GAMMA": 0.1,
        # WarmupStepWithFixedGammaLR only
        "NUM_DECAYS": 3,
        "BASE_LR": 0.001,
        # WarmupCosineLR only
        "BASE_LR_END": 0.0,
        "WARMUP_METHOD": "linear",
        "WARMUP_ITERS": 1000,
        "WARMUP_FACTOR": 0.001,
        "RESCALE_INTERVAL": False,
        "MOMENTUM": 0.9,
        "NESTEROV": False,
        "WEIGHT_DECAY": 0.0001,
        "WEIGHT_DECAY_NORM": 0.0,
        # None: as WEIGHT_DECAY
        "WEIGHT_DECAY_BIAS": None,
        "BIAS_LR_FACTOR": 1.0,
        # over all GPUs
        "IMS_PER_BATCH": 16,
        # the number of GPUs that batch size, learning rate and schedule were chosen for; 0: never rescale
        "REFERENCE_WORLD_SIZE": 0,
        "CHECKPOINT_PERIOD": 5000,
        # CLIP_TYPE: "value" (each element) or "norm" (each parameter) or "full_model"
        "CLIP_GRADIENTS": {"ENABLED": False, "CLIP_TYPE": "value", "CLIP_VALUE": 1.0, "NORM_TYPE": 2.0},
        "AMP": {"ENABLED": False},
    },
    "TEST": {
        # each: [dataset, task, metric, value, tolerance]
        "EXPECTED_RESULTS": [],
        # iterations; 0: only after training
        "EVAL_PERIOD": 0,
        "DETECTIONS_PER_IMAGE": 100,
        "KEYPOINT_OKS_SIGMAS": [],
        "AUG": {
            "ENABLED": False,
            "MIN_SIZES": (400, 500, 600, 700, 800, 900, 1000, 1100, 1200),
            "MAX_SIZE": 4000,
            "FLIP": True,
        },
        "PRECISE_BN": {"ENABLED": False, "NUM_ITER": 200},
    },
    "OUTPUT_DIR": "./output",
    # negative: a different seed in every run
    "SEED": -1,
    "CUDNN_BENCHMARK": False,
    # argument of torch.set_float32_matmul_precision; "" leaves it alone
    "FLOAT32_PRECISION": "",
    # iterations between images in tensorboard; 0: none
    "VIS_PERIOD": 0,
    # a place for quick hacks in unrelated code
    "GLOBAL": {"HACK": 1.0},
}

_DATA: dict[str, Any] = {
    "DATASETS": {
        "TRAIN": (),
        "TEST": (),
        "PROPOSAL_FILES_TRAIN": (),
        "PROPOSAL_FILES_TEST": (),
        "PRECOMPUTED_PROPOSAL_TOPK_TRAIN": 2000,
        "PRECOMPUTED_PROPOSAL_TOPK_TEST": 1000,
    },
    "DATALOADER": {
        "NUM_WORKERS": 4,
        # batch landscape with landscape and portrait with portrait
        "ASPECT_RATIO_GROUPING": True,
        "FILTER_EMPTY_ANNOTATIONS": True,
        "SAMPLER_TRAIN": "TrainingSampler",
        # RepeatFactorTrainingSampler only
        "REPEAT_THRESHOLD": 0.0,
        "REPEAT_SQRT": True,
    },
    "INPUT": {
        # the shorter side; several sizes are sampled as MIN_SIZE_TRAIN_SAMPLING says: "choice" or "range"
        "MIN_SIZE_TRAIN": (800,),
        "MIN_SIZE_TRAIN_SAMPLING": "choice",
        "MAX_SIZE_TRAIN": 1333,
        # 0: no resizing
        "MIN_SIZE_TEST": 800,
        "MAX_SIZE_TEST": 1333,
        # "none", "horizontal" or "vertical"
        "RANDOM_FLIP": "horizontal",
        # TYPE: see detectron2.data.transforms.RandomCrop
        "CROP": {"ENABLED": False, "TYPE": "relative_range", "SIZE": [0.9, 0.9]},
        "FORMAT": "BGR",
        # "polygon" or "bitmask"
        "MASK_FORMAT": "polygon",
    },
}

_BACKBONE: dict[str, Any] = {
    "BACKBONE": {
        "NAME": "build_resnet_backbone",
        # the stem and the first stages, up to this number, stay as they were loaded; 0: none of them
        "FREEZE_AT": 2,
    },
    "RESNETS": {
        "DEPTH": 50,
        "OUT_FEATURES": ["res4"],
        "NUM_GROUPS": 1,
        "WIDTH_PER_GROUP": 64,
        "NORM": "FrozenBN",
        # True: the MSRA and original torch weights; False: C2 and torchvision's
        "STRIDE_IN_1X1": True,
        "STEM_OUT_CHANNELS": 64,
        "RES2_OUT_CHANNELS": 256,
        "RES5_DILATION": 1,
        # res2, res3, res4, res5
        "DEFORM_ON_PER_STAGE": [False] * 4,
        "DEFORM_MODULATED": False,
        "DEFORM_NUM_GROUPS": 1,
    },
    "FPN": {"IN_FEATURES": [], "OUT_CHANNELS": 256, "NORM": "", "FUSE_TYPE": "sum"},
}

_PROPOSALS: dict[str, Any] = {
    "ANCHOR_GENERATOR": {
        "NAME": "DefaultAnchorGenerator",
        # one list per feature level, or one list for all: sides in pixels, heights / widths, degrees
        "SIZES": [[32, 64, 128, 256, 512]],
        "ASPECT_RATIOS": [[0.5, 1.0, 2.0]],
        "ANGLES": [[-90, 0, 90]],
        # of the first anchor's centre, in strides
        "OFFSET": 0.0,
    },
    "PROPOSAL_GENERATOR": {"NAME": "RPN", "MIN_SIZE": 0},
    "RPN": {
        "HEAD_NAME": "StandardRPNHead",
        "IN_FEATURES": ["res4"],
        # -1: as many channels as come in
        "CONV_DIMS": [-1],
        # pixels by which an anchor may leave the image; -1: any
        "BOUNDARY_THRESH": -1,
        "IOU_THRESHOLDS": [0.3, 0.7],
        "IOU_LABELS": [0, -1, 1],
        "BATCH_SIZE_PER_IMAGE": 256,
        "POSITIVE_FRACTION": 0.5,
        "BBOX_REG_LOSS_TYPE": "smooth_l1",
        "BBOX_REG_LOSS_WEIGHT": 1.0,
        "BBOX_REG_WEIGHTS": (1.0,) * 4,
        "SMOOTH_L1_BETA": 0.0,
        "LOSS_WEIGHT": 1.0,
        # PRE: per feature level; POST: per image
        "PRE_NMS_TOPK_TRAIN": 12000,
        "PRE_NMS_TOPK_TEST": 6000,
        "POST_NMS_TOPK_TRAIN": 2000,
        "POST_NMS_TOPK_TEST": 1000,
        "NMS_THRESH": 0.7,
    },
}

# Shared by the heads that look at pooled regions; 0 samples: as many as the region needs.
_POOLER: dict[str, Any] = {"POOLER_TYPE": "ROIAlignV2", "POOLER_RESOLUTION": 14, "POOLER_SAMPLING_RATIO": 0}

_ROI_HEADS: dict[str, Any] = {
    "ROI_HEADS": {
        "NAME": "Res5ROIHeads",
        # without the background
        "NUM_CLASSES": 80,
        "IN_FEATURES": ["res4"],
        "IOU_THRESHOLDS": [0.5],
        "IOU_LABELS": [0, 1],
        "BATCH_SIZE_PER_IMAGE": 512,
        "POSITIVE_FRACTION": 0.25,
        "PROPOSAL_APPEND_GT": True,
        "SCORE_THRESH_TEST": 0.05,
        "NMS_THRESH_TEST": 0.5,
    },
    "ROI_BOX_HEAD": {
        **_POOLER,
        "NAME": "",
        "NUM_CONV": 0,
        "CONV_DIM": 256,
        "NUM_FC": 0,
        "FC_DIM": 1024,
        "NORM": "",
        "CLS_AGNOSTIC_BBOX_REG": False,
        "BBOX_REG_LOSS_TYPE": "smooth_l1",
        "BBOX_REG_LOSS_WEIGHT": 1.0,
        "BBOX_REG_WEIGHTS": (10.0, 10.0, 5.0, 5.0),
        "SMOOTH_L1_BETA": 0.0,
        # feed the mask head with the predicted boxes of the foreground, not with the proposals
        "TRAIN_ON_PRED_BOXES": False,
        "USE_SIGMOID_CE": False,
        "USE_FED_LOSS": False,
        "FED_LOSS_FREQ_WEIGHT_POWER": 0.5,
        "FED_LOSS_NUM_CLASSES": 50,
    },
    # one entry per stage
    "ROI_BOX_CASCADE_HEAD": {
        "IOUS": (0.5, 0.6, 0.7),
        "BBOX_REG_WEIGHTS": tuple((10.0 * k, 10.0 * k, 5.0 * k, 5.0 * k) for k in (1, 2, 3)),
    },
    "ROI_MASK_HEAD": {
        **_POOLER,
        "NAME": "MaskRCNNConvUpsampleHead",
        "NUM_CONV": 0,
        "CONV_DIM": 256,
        "NORM": "",
        "CLS_AGNOSTIC_MASK": False,
    },
    "ROI_KEYPOINT_HEAD": {
        **_POOLER,
        "NAME": "KRCNNConvDeconvUpsampleHead",
        "CONV_DIMS": (512,) * 8,
        "NUM_KEYPOINTS": 17,
        "MIN_KEYPOINTS_PER_IMAGE": 1,
        "NORMALIZE_LOSS_BY_VISIBLE_KEYPOINTS": True,
        "LOSS_WEIGHT": 1.0,
    },
}

_DENSE_HEADS: dict[str, Any] = {
    "RETINANET": {
        "NUM_CLASSES": 80,
        "IN_FEATURES": ["p3", "p4", "p5", "p6", "p7"],
        "NUM_CONVS": 4,
        "NORM": "",
        "PRIOR_PROB": 0.01,
        "IOU_THRESHOLDS": [0.4, 0.5],
        "IOU_LABELS": [0, -1, 1],
        "BBOX_REG_LOSS_TYPE": "smooth_l1",
        "BBOX_REG_WEIGHTS": (1.0,) * 4,
        "SMOOTH_L1_LOSS_BETA": 0.1,
        "FOCAL_LOSS_GAMMA": 2.0,
        "FOCAL_LOSS_ALPHA": 0.25,
        "SCORE_THRESH_TEST": 0.05,
        "TOPK_CANDIDATES_TEST": 1000,
        "NMS_THRESH_TEST": 0.5,
    },
    "SEM_SEG_HEAD": {
        "NAME": "SemSegFPNHead",
        "IN_FEATURES": ["p2", "p3", "p4", "p5"],
        "NUM_CLASSES": 54,
        "IGNORE_VALUE": 255,
        "COMMON_STRIDE": 4,
        "CONVS_DIM": 128,
        "NORM": "GN",
        "LOSS_WEIGHT": 1.0,
    },
    "PANOPTIC_FPN": {
        "INSTANCE_LOSS_WEIGHT": 1.0,
        "COMBINE": {
            "ENABLED": True,
            "OVERLAP_THRESH": 0.5,
            "STUFF_AREA_LIMIT": 4096,
            "INSTANCES_CONFIDENCE_THRESH": 0.5,
        },
    },
}

_C = CN(
    {
        # rises when a key disappears or changes its meaning; see compat.py
        "VERSION": 2,
        "MODEL": {
            "META_ARCHITECTURE": "GeneralizedRCNN",
            "DEVICE": "cuda",
            # a path, a link, or a detectron2:// name
            "WEIGHTS": "",
            # in the order of INPUT.FORMAT; the backbones that came from Caffe2 take a deviation of 1
            "PIXEL_MEAN": [103.53, 116.28, 123.675],
            "PIXEL_STD": [1.0, 1.0, 1.0],
            "MASK_ON": False,
            "KEYPOINT_ON": False,
            "LOAD_PROPOSALS": False,
            **_BACKBONE,
            **_PROPOSALS,
            **_ROI_HEADS,
            **_DENSE_HEADS,
        },
        **_DATA,
        **_TRAINING,
    }
)
