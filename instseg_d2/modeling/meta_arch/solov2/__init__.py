"""SOLOv2."""
