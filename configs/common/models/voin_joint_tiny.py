"""VOIN as a whole for frames of 96 x 64 px."""

from .voin_content_tiny import model as _content
from .voin_flow_tiny import model as _flow
from .voin_joint import join
from .voin_shape_tiny import model as _shape

model = join(_shape, _flow, _content)
