"""The default mapping from a record of a data set to the input of a model."""

import copy
import logging
from typing import Any

import numpy as np
import torch

from detectron2.config import configurable

from . import detection_utils as utils
from . import transforms as T

__all__ = ["DatasetMapper"]

logger = logging.getLogger(__name__)


class DatasetMapper:
    """Reads the image of a record, augments it together with its annotations, and makes tensors of both.

    Subclass or copy it for other inputs; any callable on records can be the mapper of a data loader.
    """

    @configurable
    def __init__(
        self,
        is_train: bool,
        *,
        augmentations: list[T.Augmentation | T.Transform],
        image_format: str,
        use_instance_mask: bool = False,
        use_keypoint: bool = False,
        instance_mask_format: str = "polygon",
        keypoint_hflip_indices: np.ndarray | None = None,
        precomputed_proposal_topk: int | None = None,
        recompute_boxes: bool = False,
    ):
        """Args:
        is_train: False leaves the annotations out of the result.
        augmentations: applied in this order.
        image_format: see `read_image`.
        use_instance_mask: make gt_masks where there are segmentations.
        use_keypoint: make gt_keypoints where there are keypoints.
        instance_mask_format: "polygon" or "bitmask".
        keypoint_hflip_indices: see `create_keypoint_hflip_indices`.
        precomputed_proposal_topk: how many precomputed proposals to load.
        recompute_boxes: make the boxes tight around the transformed masks; a crop leaves them too large.
        """
        assert use_instance_mask or not recompute_boxes, "recompute_boxes needs use_instance_mask"
        self.is_train = is_train
        self.augmentations = T.AugmentationList(augmentations)
        self.image_format = image_format
        self.use_instance_mask = use_instance_mask
        self.instance_mask_format = instance_mask_format
        self.use_keypoint = use_keypoint
        self.keypoint_hflip_indices = keypoint_hflip_indices
        self.proposal_topk = precomputed_proposal_topk
        self.recompute_boxes = recompute_boxes
        purpose = "training" if is_train else "inference"
        logger.info(f"[DatasetMapper] Augmentations used in {purpose}: {augmentations}")

    @classmethod
    def from_config(cls, cfg, is_train: bool = True) -> dict[str, Any]:
        """The constructor's arguments from a yacs config."""
        augmentations = utils.build_augmentation(cfg, is_train)
        crop = is_train and cfg.INPUT.CROP.ENABLED
        if crop:
            augmentations.insert(0, T.RandomCrop(cfg.INPUT.CROP.TYPE, cfg.INPUT.CROP.SIZE))
        arguments = {
            "is_train": is_train,
            "augmentations": augmentations,
            "image_format": cfg.INPUT.FORMAT,
            "use_instance_mask": cfg.MODEL.MASK_ON,
            "instance_mask_format": cfg.INPUT.MASK_FORMAT,
            "use_keypoint": cfg.MODEL.KEYPOINT_ON,
            "recompute_boxes": bool(crop and cfg.MODEL.MASK_ON),
        }
        if cfg.MODEL.KEYPOINT_ON:
            arguments["keypoint_hflip_indices"] = utils.create_keypoint_hflip_indices(cfg.DATASETS.TRAIN)
        if cfg.MODEL.LOAD_PROPOSALS:
            split = "TRAIN" if is_train else "TEST"
            arguments["precomputed_proposal_topk"] = cfg.DATASETS[f"PRECOMPUTED_PROPOSAL_TOPK_{split}"]
        return arguments

    def _transform_annotations(
        self, dataset_dict: dict[str, Any], transforms: T.TransformList, image_shape: tuple[int, int]
    ) -> None:
        """Replace "annotations" of the record by "instances". Crowds are left out."""
        unused = [
            key
            for key, used in (("segmentation", self.use_instance_mask), ("keypoints", self.use_keypoint))
            if not used
        ]
        targets = []
        for annotation in dataset_dict.pop("annotations"):
            for key in unused:
                annotation.pop(key, None)
            if annotation.get("iscrowd", 0) == 0:
                targets.append(
                    utils.transform_instance_annotations(
                        annotation, transforms, image_shape, keypoint_hflip_indices=self.keypoint_hflip_indices
                    )
                )
        instances = utils.annotations_to_instances(targets, image_shape, mask_format=self.instance_mask_format)
        if self.recompute_boxes and instances.has("gt_masks"):
            instances.gt_boxes = instances.gt_masks.get_bounding_boxes()
        dataset_dict["instances"] = utils.filter_empty_instances(instances)

    def __call__(self, dataset_dict: dict[str, Any]) -> dict[str, Any]:
        """Args:
            dataset_dict: a record in detectron2's standard format. It is not changed.

        Returns:
            the record with "image", a (C, H, W) uint8 tensor (or float, by format), "sem_seg", (H, W) int64, where it
            has a label file, and in training "instances" in place of "annotations".
        """
        record = copy.deepcopy(dataset_dict)
        image = utils.read_image(record["file_name"], format=self.image_format)
        utils.check_image_size(record, image)
        labels_file = record.pop("sem_seg_file_name", None)
        labels = None if labels_file is None else utils.read_image(labels_file, "L").squeeze(2)

        inputs = T.AugInput(image, sem_seg=labels)
        transforms = self.augmentations(inputs)
        image, labels = inputs.image, inputs.sem_seg
        image_shape = image.shape[:2]
        # Tensors go from worker to main process through shared memory, arrays through a pipe.
        # np.array: a copy that is contiguous and writable, whatever PIL returned.
        record["image"] = torch.from_numpy(np.array(image.transpose(2, 0, 1), order="C"))
        if labels is not None:
            record["sem_seg"] = torch.from_numpy(labels.astype(np.int64))

        if self.proposal_topk is not None:
            utils.transform_proposals(record, image_shape, transforms, proposal_topk=self.proposal_topk)
        if not self.is_train:
            record.pop("annotations", None)
        elif "annotations" in record:
            self._transform_annotations(record, transforms, image_shape)
        return record
