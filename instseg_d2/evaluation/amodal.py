"""AP of amodal masks, as papers report it on KINS and on COCOA."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import torch
from detectron2.data import Metadata, MetadataCatalog
from detectron2.structures import Instances
from detectron2.utils.logger import create_small_table

from instseg_d2.data import DatasetError

from .coco_subsets import SubsetCOCOEvaluator
from .instance_subsets import InstanceSubset
from .truth import Annotation, ImageTruth

Protocol = Literal["kins", "cocoa"]

# Name in the table of a paper: the task whose AP it is.
_METRICS = {
    "kins": {"AP_det": "bbox", "AP_seg": "segm"},
    "cocoa": {"AP_all": "segm", "AP_t": "segm_things", "AP_s": "segm_stuff"},
}
_OBJECT = {"id": 1, "name": "object"}


class AmodalEvaluator(SubsetCOCOEvaluator):
    """`SubsetCOCOEvaluator` on amodal masks, which adds a task `amodal` with the figures of a protocol, in percent.

    - "kins": `AP_det` of the amodal boxes and `AP_seg` of the amodal masks, means over the classes.
    - "cocoa": all classes are one, of the truth and of the predictions. `AP_all` over all regions, `AP_t` over things,
      `AP_s` over stuff, as `is_stuff` of the annotations says; also as tasks of all of COCO's figures, `segm_things`
      and `segm_stuff`. For these two the other regions are ignored, so that finding them is neither right nor wrong.

    `bbox` and `segm` are those of the data set, which therefore must be one of amodal masks: `masks` of its metadata
    is "amodal". `register_kins`, `register_cocoa` and the built-in sets say so; for a COCO file whose `segmentation`
    entries are amodal say it with `register_coco(..., masks="amodal")`.

    Args:
        dataset_name, tasks, distributed, output_dir: see `COCOEvaluator`.
        protocol: "kins" or "cocoa".
        instance_subsets: further ones, see `SubsetCOCOEvaluator`.
        category_subsets: see there; not with "cocoa", which knows no classes.
        options: further arguments of `SubsetCOCOEvaluator` and `COCOEvaluator`.

    Raises:
        DatasetError: the data set is not one of amodal masks; see also `SubsetCOCOEvaluator`. In `evaluate()`, an
            annotation does not say whether it is stuff.
        ValueError: an unknown protocol, or one with `category_subsets` that has no classes.
    """

    def __init__(
        self,
        dataset_name: str,
        tasks: Sequence[str] | None = None,
        distributed: bool = True,
        output_dir: str | None = None,
        *,
        protocol: Protocol = "kins",
        instance_subsets: Iterable[InstanceSubset] = (),
        category_subsets: Mapping[str, str | Iterable[str | int] | None] | None = None,
        **options: Any,
    ):
        if protocol not in _METRICS:
            raise ValueError(f"protocol='{protocol}': must be one of {', '.join(_METRICS)}")
        self._protocol = protocol
        self._class_agnostic = protocol == "cocoa"
        if self._class_agnostic and category_subsets:
            raise ValueError("protocol='cocoa' knows no classes: leave category_subsets out, or use 'kins'")
        _require_amodal(dataset_name)
        kinds = (InstanceSubset("things", _is_thing), InstanceSubset("stuff", _is_stuff))
        super().__init__(
            dataset_name,
            tasks,
            distributed,
            output_dir,
            category_subsets=category_subsets,
            instance_subsets=[*(kinds if self._class_agnostic else ()), *instance_subsets],
            **options,
        )
        if self._class_agnostic:
            self._merge_classes()

    def _merge_classes(self) -> None:
        """Make all annotations those of one class."""
        self._coco_api.dataset["categories"] = [dict(_OBJECT)]
        for annotation in self._coco_api.dataset.get("annotations", ()):
            annotation["category_id"] = _OBJECT["id"]
        self._coco_api.createIndex()
        # A copy: the catalog's own is that of the data set for everybody.
        merged = {"thing_classes": [_OBJECT["name"]], "thing_dataset_id_to_contiguous_id": {_OBJECT["id"]: 0}}
        self._metadata = Metadata(**{**self._metadata.as_dict(), **merged})

    def process(self, inputs: Iterable[dict[str, Any]], outputs: Iterable[dict[str, Any]]) -> None:
        if self._class_agnostic:
            outputs = [
                {**output, "instances": _as_one_class(output["instances"])} if "instances" in output else output
                for output in outputs
            ]
        super().process(inputs, outputs)

    def evaluate(self, img_ids: Sequence[Any] | None = None) -> dict[str, dict[str, float]]:
        results = super().evaluate(img_ids)
        tasks = _METRICS[self._protocol]
        figures = {metric: results[task]["AP"] for metric, task in tasks.items() if task in results}
        if figures:
            results["amodal"] = figures
            self._logger.info(f"AP of amodal masks ({self._protocol}):\n{create_small_table(figures)}")
        return results


def _require_amodal(dataset_name: str) -> None:
    masks = MetadataCatalog.get(dataset_name).get("masks")
    if masks != "amodal":
        said = f"has {masks} masks" if masks else "does not say which masks it has"
        raise DatasetError(
            f"data set '{dataset_name}' {said} (`masks` of its metadata), but amodal AP needs amodal ones: evaluate on "
            "an amodal set such as occshapes_amodal_val or kins_val, register the file with masks='amodal', or use "
            "SubsetCOCOEvaluator for AP of visible masks"
        )


def _as_one_class(instances: Instances) -> Instances:
    """The same predictions, all of class 0."""
    fields = {**instances.get_fields(), "pred_classes": torch.zeros_like(instances.pred_classes)}
    return Instances(instances.image_size, **fields)


def _is_stuff(annotation: Annotation, image: ImageTruth) -> bool:
    flag = annotation.get("is_stuff", annotation.get("isStuff"))
    if flag is None:
        raise DatasetError(
            f"annotation {annotation['id']} of image {image.id!r} has no 'is_stuff', which tells stuff from things: "
            "add it (0 or 1) to every annotation, or evaluate with protocol='kins'"
        )
    return bool(flag)


def _is_thing(annotation: Annotation, image: ImageTruth) -> bool:
    return not _is_stuff(annotation, image)
