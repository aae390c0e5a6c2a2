"""Helpers that every other part of the library stands on."""
