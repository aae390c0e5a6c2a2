"""What PCAN adds to a video model."""

from detectron2.config import LazyCall as L

from instseg_d2.modeling.meta_arch.pcan.attention import PrototypicalAttention, PrototypicalFilter
from instseg_d2.modeling.meta_arch.pcan.frame_attention import FrameAttention
from instseg_d2.modeling.meta_arch.pcan.instance_attention import RELEASED, InstanceAttention


def attend_to_frames(model, *, backbone, levels, length):
    """Mix earlier frames into feature levels, in place.

    Args:
        model: a video model.
        backbone: path from `model` to its backbone.
        levels: of `FrameAttention`.
        length: of the clip, the current frame included.
    """
    model.frame_attention = L(FrameAttention)(
        in_features=levels,
        attention=L(PrototypicalAttention)(
            channels=f"${{...{backbone}.out_channels}}", num_prototypes=128, iterations=6
        ),
        length=length,
    )


def filter_frames(model):
    """The untrained frame level of the release, on the two finest levels of a `TrackingRCNN`, in place."""
    model.frame_attention = L(FrameAttention)(
        in_features=["p2", "p3"],
        attention=L(PrototypicalFilter)(channels="${...backbone.out_channels}"),
        length=2,
    )


def attend_to_instances(model, *, backbone, released=False):
    """Redraw masks from each object's past, in place.

    Args:
        model: a video model with masks.
        backbone: path from `model` to its backbone.
        released: the release's preset in place of the thesis'.
    """
    model.instance_attention = L(InstanceAttention)(
        channels=f"${{..{backbone}.out_channels}}",
        conv_dim=256,
        propagation="recurrent",
        momentum=0.2,
        foreground=30,
        background=30,
        keep_aux=False,
    )
    if released:
        model.instance_attention.update(RELEASED)
