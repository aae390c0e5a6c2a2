"""Which detection of a frame is which object of the video: embeddings, their losses, and trackers."""
