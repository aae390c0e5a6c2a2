"""An FCOS with masks that tracks, of about 3 million parameters, for images of 128 to 320 px: trains on two CPU cores.

Levels P2 to P4 in place of P3 to P5, as `fcos_mask_narrow_fpn` takes P2 to P5 in place of P3 to P7.
"""

from .fcos_mask_narrow_fpn import model as _narrow
from .tracking_fcos_fpn import model

for _name in ("backbone", "head", "head_in_features", "pixel_std"):
    model.detector[_name] = _narrow.detector[_name]
for _name in ("mask_in_features", "mask_pooler", "mask_head", "regions_per_image"):
    model[_name] = _narrow[_name]
model.track_head.update(stride=4, conv_dims=[64, 64], embedding_dim=128)
model.track_in_features = ["p2", "p3", "p4"]
