"""PCAN: prototypical cross-attention, at the level of frames and at that of instances."""
