"""Weights of Mask2Former's authors (facebookresearch/Mask2Former) under this package's names."""

import re
from collections.abc import Mapping

import torch

from .conversion import rename

# Patterns of names there, and names here. Files from before the second version of their format leave out
# "pixel_decoder", and call the queries "static_query".
_PIXELS, _QUERIES = r"sem_seg_head\.(?:pixel_decoder\.)?", r"sem_seg_head\.predictor\."
_RENAMED = [
    (re.compile(pattern), new)
    for pattern, new in {
        r"backbone\.(.+)": r"backbone.\1",
        rf"{_PIXELS}input_proj\.(.+)": r"pixel_decoder.projections.\1",
        rf"{_PIXELS}transformer\.level_embed": "pixel_decoder.level_embedding",
        rf"{_PIXELS}transformer\.encoder\.layers\.(.+)": r"pixel_decoder.layers.\1",
        rf"{_PIXELS}adapter_1\.(.+)": r"pixel_decoder.lateral.\1",
        rf"{_PIXELS}layer_1\.(.+)": r"pixel_decoder.smooth.\1",
        rf"{_PIXELS}mask_features\.(.+)": r"pixel_decoder.mask_output.\1",
        rf"{_QUERIES}(?:query_feat|static_query)\.weight": "decoder.query_features",
        rf"{_QUERIES}query_embed\.weight": "decoder.query_positions",
        rf"{_QUERIES}level_embed\.weight": "decoder.level_embedding",
        rf"{_QUERIES}transformer_cross_attention_layers\.(\d+)\.multihead_attn\.(.+)": (
            r"decoder.layers.\1.cross_attention.\2"
        ),
        rf"{_QUERIES}transformer_cross_attention_layers\.(\d+)\.norm\.(.+)": r"decoder.layers.\1.cross_norm.\2",
        rf"{_QUERIES}transformer_self_attention_layers\.(\d+)\.self_attn\.(.+)": (
            r"decoder.layers.\1.self_attention.\2"
        ),
        rf"{_QUERIES}transformer_self_attention_layers\.(\d+)\.norm\.(.+)": r"decoder.layers.\1.self_norm.\2",
        rf"{_QUERIES}transformer_ffn_layers\.(.+)": r"decoder.layers.\1",
        rf"{_QUERIES}decoder_norm\.(.+)": r"decoder.norm.\1",
        rf"{_QUERIES}class_embed\.(.+)": r"decoder.classifier.\1",
        rf"{_QUERIES}mask_embed\.layers\.(.+)": r"decoder.mask_embedding.\1",
    }.items()
]
# Parts of a layer: of the deformable attention, of feedforward networks, and norms.
_PARTS = {
    "self_attn.sampling_offsets": "attention.offsets",
    "self_attn.attention_weights": "attention.weights",
    "self_attn.value_proj": "attention.values",
    "self_attn.output_proj": "attention.output",
    "linear1": "expand",
    "linear2": "contract",
    "norm": "feedforward_norm",
    "norm1": "attention_norm",
    "norm2": "feedforward_norm",
}
_LAYER = re.compile(r"((?:pixel_decoder|decoder)\.layers\.\d+)\.(.+)\.(weight|bias)")
_EMBEDDING = re.compile(r"(decoder\.mask_embedding)\.(\d+)\.(.+)")
# The weight of queries without an object, which is a setting here.
_SETTING = "criterion.empty_weight"


def _new_name(name: str) -> str | None:
    """The new name of a tensor; None if it is not of that model."""
    found = next(((match, new) for pattern, new in _RENAMED if (match := pattern.fullmatch(name))), None)
    if found is None:
        return None
    renamed = found[0].expand(found[1])
    if layer := _LAYER.fullmatch(renamed):
        return f"{layer[1]}.{_PARTS.get(layer[2], layer[2])}.{layer[3]}"
    # Between two linear layers lies one without weights.
    return _EMBEDDING.sub(lambda match: f"{match[1]}.{2 * int(match[2])}.{match[3]}", renamed)


def convert_mask2former(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Rename a whole model to `Mask2Former`.

    Args:
        state: tensors by name, as in the `model` dict of the authors' checkpoints.

    Returns:
        tensors by name.

    Raises:
        CheckpointMismatchError: names are not of that model.
    """
    own = {name: value for name, value in state.items() if name != _SETTING}
    return rename(own, _new_name, "Mask2Former with its deformable pixel decoder on a ResNet")
