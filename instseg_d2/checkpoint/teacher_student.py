"""The student of a Teacher-Student model as a model of its own, without its teacher."""

from collections.abc import Mapping

import torch

from .checkpointer import CheckpointMismatchError

# Where the heads of regions, and CondInst's controllers, have teacher and student.
_PARENTS = ("roi_heads.mask_head.", "mask_head.", "detector.head.extra.")
_TEACHER, _STUDENT = "teacher.", "student."


def drop_teacher(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Put the student where the teacher and it were, and leave the teacher out.

    Args:
        state: tensors by name, of a model with `TeacherStudentHead` or `TeacherStudentCondInst`.

    Returns:
        tensors by name, of the model with the student as its mask head, or of `CondInst` with `ClassMaskHead`.

    Raises:
        CheckpointMismatchError: there is no student.
    """
    result: dict[str, torch.Tensor] = {}
    students = 0
    for name, value in state.items():
        parent = next((parent for parent in _PARENTS if name.startswith(parent)), "")
        rest = name[len(parent) :]
        if parent and rest.startswith(_TEACHER):
            continue
        if parent and rest.startswith(_STUDENT):
            students += 1
            rest = rest.removeprefix(_STUDENT)
        # The warm-up of the teacher's supervision.
        if not name.startswith("supervision."):
            result[parent + rest] = value
    if not students:
        raise CheckpointMismatchError(
            "the weights have no student: they must be of a training with TeacherStudentHead or TeacherStudentCondInst"
        )
    return result
