"""Optical flow of a clip: estimated, warped along, and completed behind occluders."""
