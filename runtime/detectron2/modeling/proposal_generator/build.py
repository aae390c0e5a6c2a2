"""Registry of proposal generators, for configs that name theirs."""

from detectron2.utils.registry import Registry

__all__ = ["PROPOSAL_GENERATOR_REGISTRY", "build_proposal_generator"]

PROPOSAL_GENERATOR_REGISTRY = Registry("PROPOSAL_GENERATOR")
PROPOSAL_GENERATOR_REGISTRY.__doc__ = "Callables `(cfg, input_shape: dict[str, ShapeSpec]) -> nn.Module`, by name."


def build_proposal_generator(cfg, input_shape):
    """Build the proposal generator that `cfg.MODEL.PROPOSAL_GENERATOR.NAME` names.

    Args:
        cfg (CfgNode): the whole config.
        input_shape (dict[str, ShapeSpec]): shapes of the backbone's features.

    Returns:
        nn.Module, or None for the name "PrecomputedProposals".
    """
    name = cfg.MODEL.PROPOSAL_GENERATOR.NAME
    return None if name == "PrecomputedProposals" else PROPOSAL_GENERATOR_REGISTRY.get(name)(cfg, input_shape)
