"""Instance segmentation papers as detectron2 projects over one shared extension package."""

__version__ = "0.1.0"

try:
    import detectron2
except ModuleNotFoundError as error:
    if error.name != "detectron2":
        raise
    raise ImportError(
        "instseg_d2 needs detectron2: run `make setup` in the clone, or `pip install ./runtime` for the bundled "
        "implementation (no compiler needed), or install upstream detectron2 as its INSTALL page says."
    ) from None
