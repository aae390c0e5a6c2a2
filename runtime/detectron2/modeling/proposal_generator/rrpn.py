"""Names of the rotated RPN, which this runtime does not cover."""

from detectron2._left_out import left_out_class, left_out_function

from .build import PROPOSAL_GENERATOR_REGISTRY

__all__ = ["RRPN", "find_top_rrpn_proposals"]

RRPN = left_out_class("RRPN", "rotated boxes")
PROPOSAL_GENERATOR_REGISTRY.register(RRPN)
find_top_rrpn_proposals = left_out_function("find_top_rrpn_proposals", "rotated boxes")
