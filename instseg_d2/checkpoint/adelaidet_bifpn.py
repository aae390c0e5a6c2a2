"""Names of AdelaiDet's BiFPN, which its CondInst, BoxInst and the code of SIM share."""

import re

# Nodes of a layer of five levels there: level, then the numbers of its inputs (levels, and nodes counted on from 5).
_NODES = {
    "f3_3_4": "down.3",
    "f2_2_5": "down.2",
    "f1_1_6": "down.1",
    "f0_0_7": "down.0",
    "f1_1_7_8": "up.0",
    "f2_2_6_9": "up.1",
    "f3_3_5_10": "up.2",
    "f4_4_11": "up.3",
}
_NODE = re.compile(r"repeated_bifpn\.(\d+)\.(weights|outputs)_(f\d(?:_\d+)+)(\..+)?")
_LATERAL = re.compile(r"repeated_bifpn\.(\d+)\.lateral_(\d)_f(\d)(\..+)")
_STAGES, _TOP = "bottom_up.backbone.", "bottom_up.res6.reduction."


def bifpn_name(name: str) -> str | None:
    """The name in `BiFPN` of a tensor of the backbone there; None if it is none of a BiFPN's of five levels."""
    if name.startswith(_STAGES):
        return "bottom_up." + name.removeprefix(_STAGES)
    if name.startswith(_TOP):
        return "top_lateral." + name.removeprefix(_TOP)
    if (found := _LATERAL.fullmatch(name)) and found[2] == found[3]:
        return f"layers.{found[1]}.laterals.{found[2]}{found[4]}"
    if (found := _NODE.fullmatch(name)) and found[3] in _NODES and (found[2] == "weights") == (found[4] is None):
        return f"layers.{found[1]}.{_NODES[found[3]]}.{'weights' if found[2] == 'weights' else 'conv' + found[4]}"
    return None
