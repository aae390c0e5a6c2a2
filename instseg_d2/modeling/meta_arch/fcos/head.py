"""The head of FCOS, with room for a mask head's own dense output."""

import torch
from detectron2.modeling.meta_arch import fcos as detectron2_fcos
from torch import nn
from torch.nn import functional as F

TOWERS = ("box", "class")


class FCOSHead(detectron2_fcos.FCOSHead):
    """detectron2's `FCOSHead`, optionally with a learned scale per level and one more output.

    Args:
        level_scales: multiply the deltas of every level by a learned number, initially 1, and cut them at 0, as the
            first FCOS does. The parameter `level_scales` (L,) is the only one that this adds.
        extra: maps the (N, C, H, W) output of a tower to (N, C_e, H, W), such as the controller of CondInst; shared
            by the levels. It comes initialized.
        extra_tower: which tower feeds `extra`, "box" or "class".
        kwargs: for detectron2's `FCOSHead`: `input_shape`, `num_classes`, `conv_dims`, `norm`, `prior_prob`.

    Raises:
        ValueError: unknown `extra_tower`.
    """

    def __init__(
        self,
        *,
        level_scales: bool = False,
        extra: nn.Module | None = None,
        extra_tower: str = "box",
        **kwargs,
    ):
        super().__init__(**kwargs)
        if extra_tower not in TOWERS:
            raise ValueError(f"extra_tower='{extra_tower}': must be one of {TOWERS}")
        self.extra_tower = extra_tower
        self.level_scales = nn.Parameter(torch.ones(len(kwargs["input_shape"]))) if level_scales else None
        self.extra = extra

    def forward(self, features: list[torch.Tensor], *, classify: bool = True) -> tuple[list[torch.Tensor], ...]:
        """Predict from the (N, C, H_l, W_l) feature maps, finest first.

        Args:
            features: per level.
            classify: False spares the class tower, where nothing but boxes and the extra output is asked for.

        Returns:
            per level (N, K, H_l, W_l) class logits (K = 0 if not to `classify`), (N, 4, H_l, W_l) deltas,
            (N, 1, H_l, W_l) centerness logits and, only with `extra`, its (N, C_e, H_l, W_l) output.
        """
        assert len(features) == self._num_features, f"{len(features)} levels; the head has {self._num_features}."
        predictions = [self._predict_level(level, feature, classify) for level, feature in enumerate(features)]
        return tuple(list(levels) for levels in zip(*predictions, strict=True))

    def _predict_level(self, level: int, feature: torch.Tensor, classify: bool) -> list[torch.Tensor]:
        box_features = self.bbox_subnet(feature)
        extra_of_classes = self.extra is not None and self.extra_tower == "class"
        class_features = self.cls_subnet(feature) if classify or extra_of_classes else None
        deltas = self.bbox_pred(box_features)
        if self.level_scales is not None:
            deltas = F.relu(deltas * self.level_scales[level])
        logits = self.cls_score(class_features) if classify else box_features[:, :0]
        outputs = [logits, deltas, self.ctrness(box_features)]
        if self.extra is not None:
            outputs.append(self.extra(box_features if self.extra_tower == "box" else class_features))
        return outputs
