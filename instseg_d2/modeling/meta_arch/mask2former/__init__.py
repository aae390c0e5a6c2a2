"""Mask2Former, supervised by masks or by boxes alone."""
