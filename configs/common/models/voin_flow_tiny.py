"""VOIN's flow completion for frames of 96 x 64 px: four levels, 8 to 32 channels."""

from .voin_flow import model

# 1/20 of the frames' longer side, as 20 px are of 432.
model.network.flow_scale = None
model.network.network.widths = [8, 16, 32, 32]
