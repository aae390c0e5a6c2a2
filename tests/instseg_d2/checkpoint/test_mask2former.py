"""The authors' names find their places: every tensor of the model once, of both versions of their format."""

import pytest
import torch
from detectron2.config import instantiate

from instseg_d2.checkpoint import CheckpointMismatchError
from instseg_d2.checkpoint.conversion import compare
from instseg_d2.checkpoint.mask2former import convert_mask2former
from instseg_d2.model_zoo import get_config


def authors_names(encoder_layers=6, decoder_layers=9):
    """Names of all tensors behind the backbone, written from the authors' module tree."""
    pixels, queries, pair = "sem_seg_head.pixel_decoder.", "sem_seg_head.predictor.", ("weight", "bias")
    names = [f"{pixels}input_proj.{level}.{part}.{x}" for level in range(3) for part in (0, 1) for x in pair]
    names.append(f"{pixels}transformer.level_embed")
    attention = ("sampling_offsets", "attention_weights", "value_proj", "output_proj")
    for layer in range(encoder_layers):
        parts = [f"self_attn.{part}" for part in attention] + ["norm1", "linear1", "linear2", "norm2"]
        names += [f"{pixels}transformer.encoder.layers.{layer}.{part}.{x}" for part in parts for x in pair]
    names += [f"{pixels}mask_features.{x}" for x in pair]
    names += [
        f"{pixels}{conv}.{x}" for conv in ("adapter_1", "layer_1") for x in ("weight", "norm.weight", "norm.bias")
    ]
    for layer in range(decoder_layers):
        for kind, name in (("self", "self_attn"), ("cross", "multihead_attn")):
            parts = ("in_proj_weight", "in_proj_bias", "out_proj.weight", "out_proj.bias")
            prefix = f"{queries}transformer_{kind}_attention_layers.{layer}."
            names += [f"{prefix}{name}.{part}" for part in parts] + [f"{prefix}norm.{x}" for x in pair]
        prefix = f"{queries}transformer_ffn_layers.{layer}."
        names += [f"{prefix}{part}.{x}" for part in ("linear1", "linear2", "norm") for x in pair]
    names += [f"{queries}{name}.weight" for name in ("query_feat", "query_embed", "level_embed")]
    parts = ("decoder_norm", "class_embed", *(f"mask_embed.layers.{i}" for i in range(3)))
    return names + [f"{queries}{part}.{x}" for part in parts for x in pair]


@pytest.fixture(scope="module")
def model():
    with torch.device("meta"):
        return instantiate(get_config("SIM/mask2former_r50_coco_50e").model)


def test_every_tensor_finds_its_place(model):
    backbone = [name for name in model.state_dict() if name.startswith("backbone.")]
    state = {name: torch.tensor(float(index)) for index, name in enumerate(authors_names() + backbone)}
    result = convert_mask2former({**state, "criterion.empty_weight": torch.ones(81)})
    assert set(result) == set(model.state_dict())
    assert sorted(value.item() for value in result.values()) == list(range(len(state)))
    for old, new in {
        "sem_seg_head.pixel_decoder.transformer.encoder.layers.4.linear1.bias": "pixel_decoder.layers.4.expand.bias",
        "sem_seg_head.pixel_decoder.transformer.encoder.layers.0.norm2.weight": (
            "pixel_decoder.layers.0.feedforward_norm.weight"
        ),
        "sem_seg_head.predictor.transformer_ffn_layers.8.norm.weight": "decoder.layers.8.feedforward_norm.weight",
        "sem_seg_head.predictor.mask_embed.layers.2.weight": "decoder.mask_embedding.4.weight",
        "sem_seg_head.predictor.query_embed.weight": "decoder.query_positions",
    }.items():
        assert torch.equal(result[new], state[old])


def test_names_of_the_first_version():
    old = {
        name.replace("pixel_decoder.", "").replace("query_feat", "static_query"): torch.tensor(float(index))
        for index, name in enumerate(authors_names())
    }
    new = {name: torch.tensor(float(index)) for index, name in enumerate(authors_names())}
    assert convert_mask2former(old) == convert_mask2former(new)


def test_shapes_fit(model):
    """Kept, as the model has them, they are what the comparison of a conversion asks for."""
    state = {name: torch.empty(value.shape, device="meta") for name, value in model.state_dict().items()}
    assert not compare(state, model)


@pytest.mark.parametrize(
    "name",
    [
        "sem_seg_head.predictor.input_proj.0.weight",
        "sem_seg_head.pixel_decoder.adapter_2.weight",
        "proposal_generator.fcos_head.cls_logits.weight",
    ],
)
def test_other_models_are_refused(name):
    with pytest.raises(CheckpointMismatchError, match=name):
        convert_mask2former({name: torch.zeros(1)})
