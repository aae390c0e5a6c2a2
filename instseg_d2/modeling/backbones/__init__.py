"""Feature pyramids on the backbones that recipes name."""
