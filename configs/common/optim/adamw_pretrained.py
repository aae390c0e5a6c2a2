"""AdamW for transformers on a trained backbone, which learns ten times slower; no weight decay on embeddings."""

from detectron2.config import LazyCall as L

from instseg_d2.engine.param_groups import SlowerPart

from .adamw import optimizer

optimizer.lr = 1e-4
optimizer.params.update(
    lr_factor_func=L(SlowerPart)(part="backbone", factor=0.1),
    overrides={_name: dict(weight_decay=0.0) for _name in ("query_features", "query_positions", "level_embedding")},
)
