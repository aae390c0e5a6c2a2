"""Names of upstream's DeepLab project, which the runtime does not cover."""

from .._left_out import left_out_function

add_deeplab_config = left_out_function("add_deeplab_config", "the DeepLab project")
