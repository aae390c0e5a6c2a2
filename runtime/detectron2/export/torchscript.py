"""Names for compiling models to TorchScript, which the runtime does not cover."""

from .._left_out import left_out_function
from .torchscript_patch import freeze_training_mode, patch_instances

scripting_with_instances = left_out_function("scripting_with_instances", "TorchScript export")
dump_torchscript_IR = left_out_function("dump_torchscript_IR", "TorchScript export")

__all__ = ["dump_torchscript_IR", "freeze_training_mode", "patch_instances", "scripting_with_instances"]
