"""Backbones, mask heads and meta-architectures; import from the module of the part that is needed."""
