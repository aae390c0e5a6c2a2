"""Names of upstream's export package; using one says that exporting is not covered."""

from .._left_out import left_out_class, left_out_function
from .torchscript import dump_torchscript_IR, scripting_with_instances

_FEATURE = "export to Caffe2 and ONNX"

Caffe2Model = left_out_class("Caffe2Model", _FEATURE)
Caffe2Tracer = left_out_class("Caffe2Tracer", _FEATURE)
add_export_config = left_out_function("add_export_config", _FEATURE)

STABLE_ONNX_OPSET_VERSION = 11

__all__ = [
    "STABLE_ONNX_OPSET_VERSION",
    "Caffe2Model",
    "Caffe2Tracer",
    "add_export_config",
    "dump_torchscript_IR",
    "scripting_with_instances",
]
