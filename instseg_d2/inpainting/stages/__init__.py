"""What is trained: a network with its losses on clips, one stage of the completion a module."""
