import pytest
import torch
from detectron2.config import instantiate

from instseg_d2.checkpoint import CheckpointMismatchError
from instseg_d2.checkpoint.conversion import compare
from instseg_d2.checkpoint.teacher_student import drop_teacher
from instseg_d2.model_zoo import get_config


def test_the_student_of_an_rcnn_is_a_mask_rcnn():
    with torch.device("meta"):
        both = instantiate(get_config("TeacherStudent/ts_mask_rcnn_narrow_fpn_occshapes_quick").model)
        alone = instantiate(get_config("Baselines/mask_rcnn_narrow_fpn_occshapes_quick").model)
    state = both.state_dict()
    assert len(compare(state, alone)) > 0
    assert not compare(drop_teacher(state), alone)


def test_without_a_student():
    with pytest.raises(CheckpointMismatchError, match="no student"):
        drop_teacher({"roi_heads.mask_head.predictor.weight": torch.zeros(1)})
