"""Whole models: detectors, and what combines them with mask heads."""
