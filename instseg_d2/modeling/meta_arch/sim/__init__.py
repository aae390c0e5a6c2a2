"""SIM: masks from boxes, with what a class looks like."""
