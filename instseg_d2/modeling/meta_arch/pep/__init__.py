"""PEP: perceive, excavate, purify."""
