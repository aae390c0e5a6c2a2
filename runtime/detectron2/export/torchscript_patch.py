"""Names for making classes scriptable, which the runtime does not cover."""

from .._left_out import left_out_function

_FEATURE = "TorchScript export"

patch_instances = left_out_function("patch_instances", _FEATURE)
patch_builtin_len = left_out_function("patch_builtin_len", _FEATURE)
patch_nonscriptable_classes = left_out_function("patch_nonscriptable_classes", _FEATURE)
freeze_training_mode = left_out_function("freeze_training_mode", _FEATURE)
