"""Tracks with synthetic occlusion for video object inpainting: made, written, read, and cut into clips."""
