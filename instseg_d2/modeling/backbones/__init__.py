"""Builders of backbones, where detectron2's classes and a config alone would not do."""
