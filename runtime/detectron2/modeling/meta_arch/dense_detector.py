"""Base of one-stage detectors, which predict at every location of the feature maps."""

import torch
from torch import nn

from detectron2.structures import Boxes, Instances

from ..backbone import Backbone
from ..postprocessing import detector_postprocess
from .image_model import MAX_DRAWN_BOXES, ImageModel, put_box_comparison, resize_outputs


def permute_to_N_HWA_K(tensor: torch.Tensor, K: int) -> torch.Tensor:
    """Reshape (N, A * K, H, W) to (N, H * W * A, K), A = predictions per location."""
    assert tensor.dim() == 4, f"Expected (N, A * K, H, W), got {tuple(tensor.shape)}."
    n, _, height, width = tensor.shape
    return tensor.view(n, -1, K, height, width).permute(0, 3, 4, 1, 2).reshape(n, -1, K)


class DenseDetector(ImageModel):
    """Fully convolutional detector: backbone, head, then losses or decoding.

    A subclass defines :meth:`forward_training` and :meth:`forward_inference`; to use the decoding helpers it sets
    `box2box_transform`.
    """

    input_format = "BGR"

    def __init__(
        self,
        backbone: Backbone,
        head: nn.Module,
        head_in_features: list[str] | None = None,
        *,
        pixel_mean,
        pixel_std,
    ):
        """Args:
        backbone: maps an image batch to named feature maps.
        head: maps the list of feature maps to predictions, each a list over the levels.
        head_in_features: names of the feature maps for the head; by default all, finest first.
        pixel_mean: per channel, in the channel order of the input.
        pixel_std: per channel.
        """
        super().__init__()
        if head_in_features is None:
            strides = {name: shape.stride for name, shape in backbone.output_shape().items()}
            head_in_features = sorted(strides, key=strides.get)
        self.backbone = backbone
        self.head = head
        self.head_in_features = head_in_features
        self._register_pixel_statistics(pixel_mean, pixel_std)

    def forward(self, batched_inputs: list[dict[str, torch.Tensor]]):
        """Compute losses (training) or detections (inference).

        Args:
            batched_inputs: one dict per image: "image", a (C, H, W) tensor; in training "instances", the ground
                truth; in inference optionally "height" and "width", the size of the output.

        Returns:
            in training the losses by name; in inference one dict per image, whose "instances" have `pred_boxes`,
            `scores` and `pred_classes`.
        """
        images = self.preprocess_image(batched_inputs)
        feature_maps = self.backbone(images.tensor)
        features = [feature_maps[name] for name in self.head_in_features]
        predictions = self.head(features)
        if not self.training:
            results = self.forward_inference(images, features, predictions)
            return resize_outputs(results, batched_inputs, images.image_sizes)
        assert "instances" in batched_inputs[0], "Training needs the ground truth: no 'instances' in the inputs."
        targets = self._instances_on_device(batched_inputs, "instances")
        return self.forward_training(images, features, predictions, targets)

    def forward_training(self, images, features, predictions, gt_instances):
        """Compute the losses by name."""
        raise NotImplementedError

    def forward_inference(self, images, features, predictions):
        """Compute the detections per image, at the size of the network's input."""
        raise NotImplementedError

    def _transpose_dense_predictions(
        self, predictions: list[list[torch.Tensor]], dims_per_anchor: list[int]
    ) -> list[list[torch.Tensor]]:
        """Bring each prediction of each level from (N, A * K, H, W) to (N, H * W * A, K), K given per prediction."""
        return [
            [permute_to_N_HWA_K(level, dim) for level in levels]
            for levels, dim in zip(predictions, dims_per_anchor, strict=True)
        ]

    def _ema_update(self, name: str, value: float, initial_value: float, momentum: float = 0.9) -> float:
        """Update and return the moving average kept in the attribute `name`.

        Losses are divided by such an average of the number of positives, which for small batches varies much.
        """
        average = momentum * getattr(self, name, initial_value) + (1 - momentum) * value
        setattr(self, name, average)
        return average

    def _decode_per_level_predictions(
        self,
        anchors: Boxes,
        pred_scores: torch.Tensor,
        pred_deltas: torch.Tensor,
        score_thresh: float,
        topk_candidates: int,
        image_size: tuple[int, int],
    ) -> Instances:
        """Decode the best candidates of one level of one image; no NMS yet.

        Args:
            anchors: R of them.
            pred_scores: (R, K) probabilities.
            pred_deltas: (R, 4).
            score_thresh: a candidate's score must exceed this.
            topk_candidates: at most that many, best first.
            image_size: (height, width).
        """
        # One search gives the rows, the classes and thereby the scores.
        rows, classes = (pred_scores > score_thresh).nonzero().unbind(dim=1)
        scores, order = pred_scores[rows, classes].topk(min(len(rows), topk_candidates))
        rows, classes = rows[order], classes[order]
        boxes = self.box2box_transform.apply_deltas(pred_deltas[rows], anchors.tensor[rows])
        return Instances(image_size, pred_boxes=Boxes(boxes), scores=scores, pred_classes=classes)

    def _decode_multi_level_predictions(
        self,
        anchors: list[Boxes],
        pred_scores: list[torch.Tensor],
        pred_deltas: list[torch.Tensor],
        score_thresh: float,
        topk_candidates: int,
        image_size: tuple[int, int],
    ) -> Instances:
        """Decode all levels of one image into one `Instances`; see :meth:`_decode_per_level_predictions`."""
        return Instances.cat(
            [
                self._decode_per_level_predictions(*level, score_thresh, topk_candidates, image_size)
                for level in zip(anchors, pred_scores, pred_deltas, strict=True)
            ]
        )

    def visualize_training(self, batched_inputs, results):
        """Put a picture of the first image into the event storage: ground truth above, best detections below.

        Args:
            batched_inputs: the input of :meth:`forward`.
            results: what :meth:`forward_inference` returned, per image and best first.
        """
        assert len(batched_inputs) == len(results), f"{len(results)} results for {len(batched_inputs)} inputs."
        height, width = batched_inputs[0]["image"].shape[-2:]
        detections = detector_postprocess(results[0], height, width)
        put_box_comparison(
            batched_inputs[0],
            detections.pred_boxes.tensor.detach().cpu().numpy(),
            self.input_format,
            name=f"Top: GT bounding boxes; Bottom: {MAX_DRAWN_BOXES} Highest Scoring Results",
            axis=0,
        )
