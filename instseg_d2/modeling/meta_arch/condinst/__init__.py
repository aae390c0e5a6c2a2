"""CondInst, and BoxInst as its supervision by boxes."""
