"""Names of upstream's PointRend project, which the runtime does not cover."""

from ..._left_out import left_out_class, left_out_function

_FEATURE = "the PointRend project"

add_pointrend_config = left_out_function("add_pointrend_config", _FEATURE)
PointRendMaskHead = left_out_class("PointRendMaskHead", _FEATURE)
ImplicitPointRendMaskHead = left_out_class("ImplicitPointRendMaskHead", _FEATURE)
