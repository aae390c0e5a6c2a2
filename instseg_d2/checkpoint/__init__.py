"""Saving and loading of trained models."""

from .checkpointer import Checkpointer, CheckpointMismatchError, load_weights
