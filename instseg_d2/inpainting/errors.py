"""Errors of video object inpainting. Each says what is wrong, where, and what to do."""


class InpaintingError(ValueError):
    """A clip, its masks or its flow cannot be used as asked."""
