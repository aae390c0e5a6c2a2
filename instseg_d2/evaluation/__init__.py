"""Evaluators beyond plain COCO: category and instance subsets, occlusion bins, masks with the boxes given."""

from .coco_subsets import SubsetCOCOEvaluator
from .given_boxes import GivenBoxesEvaluation
from .instance_subsets import OCCLUSION_BINS, InstanceSubset, area_between, covered_between, overlap_at_least
from .truth import GroundTruth, ImageTruth
