"""Evaluators beyond plain COCO: categories, instances, occlusion, amodal masks, given boxes, further sets, videos."""

from .amodal import AmodalEvaluator
from .coco_subsets import SubsetCOCOEvaluator
from .given_boxes import GivenBoxesEvaluation
from .instance_subsets import (
    OCCLUSION_BINS,
    InstanceSubset,
    area_between,
    covered_between,
    overlap_at_least,
    touching_same_class,
    touching_same_color,
)
from .other_dataset import OtherDatasetEvaluation
from .track_ap import track_ap
from .truth import GroundTruth, ImageTruth
from .video_selection import VideoSelection
from .youtube_vis import YouTubeVISEvaluator
