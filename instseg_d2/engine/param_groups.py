"""Settings of the optimizer that differ from one parameter to another."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class SlowerPart:
    """Gives one part of a model another learning rate: `lr_factor_func` of `get_default_optimizer_params`.

    Attributes:
        part: name of a module; it and all below it are the part.
        factor: on their learning rate.
    """

    part: str
    factor: float

    def __call__(self, name: str) -> float:
        """The factor for the parameter of this name."""
        return self.factor if name.startswith(f"{self.part}.") else 1.0
