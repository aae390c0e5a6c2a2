"""Evaluation on the hard part of a test set: the images whose objects overlap."""

from detectron2.config import LazyCall as L
from detectron2.data import build_detection_test_loader, get_detection_dataset_dicts
from detectron2.evaluation import COCOEvaluator

from instseg_d2.evaluation import OtherDatasetEvaluation


def evaluate_occluded(dataloader, name):
    """Evaluate on the data set `name` as well, in place: tasks `bbox_occ` and `segm_occ`."""
    dataloader["further_evaluations"] = [
        *dataloader.get("further_evaluations", ()),
        L(OtherDatasetEvaluation)(
            loader=L(build_detection_test_loader)(
                dataset=L(get_detection_dataset_dicts)(names=name, filter_empty=False),
                mapper="${dataloader.test.mapper}",
                batch_size="${oc.select:dataloader.test.batch_size,1}",
                num_workers="${dataloader.test.num_workers}",
            ),
            evaluator=L(COCOEvaluator)(dataset_name="${..loader.dataset.names}", use_fast_impl=True),
            suffix="occ",
        ),
    ]
