"""Saving and loading of trained models."""

from .checkpointer import Checkpointer, CheckpointError, CheckpointMismatchError, load_weights
