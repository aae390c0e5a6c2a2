"""BiFPN in the place of the FPN of a dense detector, with the sizes of AdelaiDet's models."""

from instseg_d2.modeling.backbones.bifpn import BiFPN


def use_bifpn(detector):
    """Put a BiFPN where the detector has an FPN, over the same stages, and its channels into the head, in place."""
    detector.backbone.pop("top_block")
    detector.backbone.update(_target_=BiFPN, out_channels=160, num_top_levels=2, num_repeats=6, norm="SyncBN")
    detector.head.conv_dims = ["${...backbone.out_channels}" for _ in detector.head.conv_dims]
