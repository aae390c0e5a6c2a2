"""Names for tracing models with structured inputs and outputs, which the runtime does not cover."""

from .._left_out import left_out_class, left_out_function

TracingAdapter = left_out_class("TracingAdapter", "tracing for export")
flatten_to_tuple = left_out_function("flatten_to_tuple", "tracing for export")
