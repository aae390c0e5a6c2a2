"""Mask heads: region features in, masks out; each works behind any detector."""
