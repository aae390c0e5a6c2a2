"""Appearance: the generator that paints what propagation could not reach (Sec. 5.4.3), and its losses."""
