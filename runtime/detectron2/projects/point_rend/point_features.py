"""Names of PointRend's point sampling, which the runtime does not cover."""

from ..._left_out import left_out_function

_FEATURE = "the PointRend project"

point_sample = left_out_function("point_sample", _FEATURE)
generate_regular_grid_point_coords = left_out_function("generate_regular_grid_point_coords", _FEATURE)
get_point_coords_wrt_image = left_out_function("get_point_coords_wrt_image", _FEATURE)
