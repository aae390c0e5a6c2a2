"""VOIN as a whole at the paper's size: shape, flow and content in a row, and both discriminators."""

from detectron2.config import LazyCall as L

from instseg_d2.inpainting.propagation import Propagator
from instseg_d2.inpainting.stages.joint import JointPainter, JointStage

from .voin_content import model as _content
from .voin_flow import model as _flow
from .voin_shape import model as _shape


def join(shape, flow, content):
    """The joint stage of three stages' models."""
    return L(JointStage)(
        painter=L(JointPainter)(shape=shape, flow=flow, content=content.painter, propagator=L(Propagator)()),
        critics=content.critics,
    )


model = join(_shape, _flow, _content)
