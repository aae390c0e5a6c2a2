"""Online video models: detect, segment and track, one frame after the other."""
