"""What all online video models share: the memory of a video, and the way of a frame through the model."""

from collections.abc import Sequence

import torch
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.structures import Boxes, ImageList, Instances
from torch import nn

from instseg_d2.modeling.mask_heads.targets import crop_targets
from instseg_d2.modeling.meta_arch.base import output_sizes
from instseg_d2.modeling.tracking.base import Tracker

from .pairs import identities, pair_regions

# The chance of a mask's pixel stays this far from 0 and 1 when it is turned into a logit.
_LOGIT_MARGIN = 1e-6


def _lengths(instances: Sequence[Instances]) -> list[int]:
    return [len(x) for x in instances]


class OnlineVideoModel(nn.Module):
    """Detects, segments and tracks the objects of a video; a frame's result depends on it and the frames before alone.

    `reset` forgets the video, `step` takes its next frame. What is kept between frames are plain attributes: the
    tracker's memory, prototypes of earlier frames, and prototypes of each object that may still be met again. None of
    it goes into a checkpoint, and none of it grows with the length of the video.

    A model defines `device`, `preprocess_image`, `extract`, `detect`, `segment`, `embed`, `pool`, `losses`, and for
    `refinement_losses` `first_masks`.

    Args:
        tracker: says which object each detection is.
        frame_attention: mixes what earlier frames showed into the feature maps, as PCAN's
            `instseg_d2.modeling.meta_arch.pcan.frame_attention.FrameAttention`; None takes each frame for itself.
        instance_attention: redraws each mask with what earlier frames showed of the object, as PCAN's
            `instseg_d2.modeling.meta_arch.pcan.instance_attention.InstanceAttention`; None leaves masks as they are.
        pair_threshold: cosine similarity of embeddings above which two regions of the same object, in a key frame and
            its reference, train the instance attention; 0.5 in PCAN's release.
        num_references: of each key frame in training, see `reference_frames`; more than one is for the frame attention.
    """

    def __init__(
        self,
        *,
        tracker: Tracker,
        frame_attention: nn.Module | None = None,
        instance_attention: nn.Module | None = None,
        pair_threshold: float = 0.5,
        num_references: int = 1,
    ):
        super().__init__()
        self.tracker = tracker
        self.frame_attention = frame_attention
        self.instance_attention = instance_attention
        self.pair_threshold = pair_threshold
        self.num_references = num_references
        self.reset()

    @property
    def device(self) -> torch.device:
        """Where the model is; inputs are moved there."""
        raise NotImplementedError

    def preprocess_image(self, batched_inputs: list[dict]) -> ImageList:
        """Normalise the images and pad them into one batch, on the model's device."""
        raise NotImplementedError

    def extract(self, images: ImageList) -> dict[str, torch.Tensor]:
        """The backbone's feature maps (B, C, H_l, W_l) by name."""
        raise NotImplementedError

    def detect(self, images: ImageList, features: dict[str, torch.Tensor]) -> list[Instances]:
        """Find objects: per image `pred_boxes` (xyxy pixels of the network's input), `scores`, `pred_classes`."""
        raise NotImplementedError

    def segment(self, features: dict[str, torch.Tensor], instances: list[Instances]) -> list[Instances]:
        """Give the detections of each image `pred_masks` (N, 1, M, M), probabilities relative to the box.

        A model without masks leaves them as they are.
        """
        raise NotImplementedError

    def embed(self, features: dict[str, torch.Tensor], boxes: list[Boxes]) -> torch.Tensor:
        """What the tracker tells objects apart by, (R, D), for the R boxes of all images in their order."""
        raise NotImplementedError

    def pool(self, features: dict[str, torch.Tensor], boxes: list[Boxes]) -> torch.Tensor:
        """The features (R, C, S, S) that the instance attention reads, at the R boxes of all images."""
        raise NotImplementedError

    def first_masks(self, features: dict[str, torch.Tensor], regions: list[Instances]) -> torch.Tensor:
        """The masks of training regions (`proposal_boxes`, `gt_classes`) as logits (R, 1, M, M), of the true class."""
        raise NotImplementedError

    def losses(self, batched_inputs: list[dict]) -> dict[str, torch.Tensor]:
        """Losses of key frames, each with its `references`."""
        raise NotImplementedError

    def reset(self) -> None:
        """Forget the video."""
        self.tracker.reset()
        self._video: int | None = None
        self._memory = None if self.frame_attention is None else self.frame_attention.new_memory()
        self._states: dict[int, object] = {}

    def forward(self, batched_inputs: list[dict]) -> dict[str, torch.Tensor] | list[dict[str, Instances]]:
        """Compute losses (training) or predictions (inference).

        Args:
            batched_inputs: in training key frames: `image` (C, H, W), `instances` with `gt_boxes`, `gt_classes`,
                `gt_ids` (identity in the video) and what the heads need, and `references`, at least one more frame of
                the same video with `image` and `instances`. In inference frames, as of `step`, in order; the model
                forgets the video where `frame_index` is 0 or `video_id` is another than the last frame's. A frame
                without `video_id` is a video of its own.

        Returns:
            in training losses by name; in inference per frame `{"instances": ...}`, see `step`.
        """
        if self.training:
            return self.losses(batched_inputs)
        return [{"instances": self._next(frame)} for frame in batched_inputs]

    def _next(self, frame: dict) -> Instances:
        """Take a frame whose video the data set names."""
        video = frame.get("video_id")
        if video is None or video != self._video or frame.get("frame_index") == 0:
            self.reset()
        self._video = video
        return self.step(frame)

    @torch.no_grad()
    def step(self, frame: dict) -> Instances:
        """Take the next frame of the video.

        Args:
            frame: `image` (C, H, W); optionally `height` and `width`, the size of the output. Frames of a video may
                differ in size.

        Returns:
            `pred_boxes`, `scores`, `pred_classes`, `pred_masks` (N, height, width) bool unless the model has no masks,
            and `pred_ids` (N,) int64: from 1 on the object of the video, or 0 for a detection that is none (yet). An
            id occurs once at most.

        Raises:
            RuntimeError: the model is in training mode.
        """
        if self.training:
            raise RuntimeError("step() needs eval mode: call model.eval() first")
        images = self.preprocess_image([frame])
        features = self.extract(images)
        if self.frame_attention is not None:
            features, entry = self.frame_attention(features, list(self._memory))
            self._memory.append(entry)
        instances = self._track(features, self.detect(images, features)[0])
        instances = self.segment(features, [instances])[0]
        ids = instances.pred_ids.tolist()
        states = self._refine(features, instances, [self._states.get(number) for number in ids])
        self._remember(dict(zip(ids, states, strict=True)) if states else {})
        (size,) = output_sizes([frame], images)
        return detector_postprocess(instances, *size)

    def _track(self, features: dict[str, torch.Tensor], detections: Instances) -> Instances:
        """Give the detections `pred_ids`, without those that the tracker drops."""
        # Under autocast a detector gives scores of 16 bits.
        detections.scores = detections.scores.float()
        detections.embeddings = self.embed(features, [detections.pred_boxes])
        ids = self.tracker.step(detections)
        detections.remove("embeddings")
        detections.pred_ids = ids
        return detections[ids >= 0]

    def _refine(self, features: dict[str, torch.Tensor], instances: Instances, states: list) -> list:
        """Redraw the masks of an image in place, and return the new states; none, where there is nothing to redraw."""
        if self.instance_attention is None or not instances.has("pred_masks"):
            return []
        logits = torch.logit(instances.pred_masks.float(), eps=_LOGIT_MARGIN)
        logits, states = self.instance_attention.refine(self.pool(features, [instances.pred_boxes]), logits, states)
        instances.pred_masks = logits.float().sigmoid()
        if states and states[0].attention is not None:
            instances.pred_attention = torch.stack([state.attention for state in states])
        return states

    def _remember(self, states: dict[int, object]) -> None:
        """Keep what is known of the objects that may still be met."""
        alive = self.tracker.alive_ids
        states = {**self._states, **states}
        self._states = {number: state for number, state in states.items() if number in alive}

    @torch.no_grad()
    def inference(
        self,
        batched_inputs: list[dict],
        detected_instances: list[Instances] | None = None,
        do_postprocess: bool = True,
    ) -> list[dict[str, Instances]] | list[Instances]:
        """Detect and segment frames for themselves, or segment given boxes; nothing is tracked or remembered.

        Args:
            batched_inputs: see `step`.
            detected_instances: per image, with `pred_boxes` and `pred_classes`, in pixels of the network's input;
                nothing is detected then.
            do_postprocess: rescale boxes and masks to the size of the output.

        Returns:
            per image `{"instances": ...}` as of `step`, without `pred_ids`; without postprocessing the instances, in
            pixels of the network's input, with `pred_masks` (N, 1, M, M) probabilities relative to the box.
        """
        assert not self.training, "inference() needs eval mode."
        images = self.preprocess_image(batched_inputs)
        features, _ = self.attend_references(self.extract(images), [])
        if detected_instances is None:
            instances = self.detect(images, features)
        else:
            instances = [x.to(self.device) for x in detected_instances]
        instances = self.segment(features, instances)
        for index, x in enumerate(instances):
            self._refine({name: level[index : index + 1] for name, level in features.items()}, x, [None] * len(x))
        if not do_postprocess:
            return instances
        return [
            {"instances": detector_postprocess(x, *size)}
            for x, size in zip(instances, output_sizes(batched_inputs, images), strict=True)
        ]

    def attend_references(
        self, key: dict[str, torch.Tensor], references: Sequence[dict[str, torch.Tensor]]
    ) -> tuple[dict[str, torch.Tensor], list[dict[str, torch.Tensor]]]:
        """Mix references into the maps of key frames, as `step` does with earlier frames.

        Args:
            key: feature maps (B, C, H_l, W_l) of the key frames by name.
            references: the same of their first, second, ... references, in the order of time.

        Returns:
            the maps of the key frames and of each reference, a reference with those before it mixed in. Without a
            frame attention they come back as they are.
        """
        if self.frame_attention is None:
            return key, list(references)
        memory, mixed = [], []
        for reference in references:
            features, entry = self.frame_attention(reference, memory)
            mixed.append(features)
            memory.append(entry)
        return self.frame_attention(key, memory)[0], mixed

    def extract_all(
        self, key: list[dict], places: Sequence[list[dict]]
    ) -> tuple[ImageList, ImageList, dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        """Take key frames and references through the backbone in one pass, and mix the references in; for training.

        Args:
            key: B key frames.
            places: their references, see `reference_frames`.

        Returns:
            the images of the key frames and of their last references, all of one size, and the feature maps of both.
        """
        images = self.preprocess_image([*key, *(frame for frames in places for frame in frames)])
        size = len(key)
        features = self.extract(images)
        parts = [
            {name: level[start : start + size] for name, level in features.items()}
            for start in range(0, len(images), size)
        ]
        features, references = self.attend_references(parts[0], parts[1:])
        first = ImageList(images.tensor[:size], images.image_sizes[:size])
        last = ImageList(images.tensor[-size:], images.image_sizes[-size:])
        return first, last, features, references[-1]

    def refinement_losses(
        self,
        features: dict[str, torch.Tensor],
        regions: list[Instances],
        reference_features: dict[str, torch.Tensor],
        reference_regions: list[Instances],
    ) -> dict[str, torch.Tensor]:
        """Losses of the instance attention.

        A region of the key frame is paired with the region of the reference that shows the same object and resembles it
        most. Where no region of the batch finds a partner, each is its own; the loss never lacks.

        Args:
            features: maps of the key frames by name.
            regions: per image, with `proposal_boxes` and the `gt_*` fields of the object that each shows; foreground
                alone. Those whose mask `gt_has_mask` hides are left out.
            reference_features: maps of the references.
            reference_regions: as `regions`.

        Returns:
            `loss_refine`.
        """
        regions = [x[x.gt_has_mask] if x.has("gt_has_mask") else x for x in regions]
        key, reference = self._paired(features, regions, reference_features, reference_regions)
        if sum(_lengths(key)) == 0:
            key = reference = regions
            # Itself, but not as a way for the gradient.
            reference_features = {name: level.detach() for name, level in features.items()}
        pooled = self.pool(features, [x.proposal_boxes for x in key])
        reference_pooled = self.pool(reference_features, [x.proposal_boxes for x in reference])
        side = self.instance_attention.segmentation.scale * pooled.shape[-1]
        shown = [x for x in key if len(x) > 0]
        return self.instance_attention.losses(
            pooled,
            self.first_masks(features, key),
            reference_pooled,
            self.first_masks(reference_features, reference),
            crop_targets(shown, side) if shown else pooled.new_zeros(0, side, side),
        )

    @torch.no_grad()
    def _paired(
        self,
        features: dict[str, torch.Tensor],
        regions: list[Instances],
        reference_features: dict[str, torch.Tensor],
        reference_regions: list[Instances],
    ) -> tuple[list[Instances], list[Instances]]:
        """Per image, the regions that have a partner, and their partners."""
        embeddings = self.embed(features, [x.proposal_boxes for x in regions]).split(_lengths(regions))
        others = self.embed(reference_features, [x.proposal_boxes for x in reference_regions])
        others = others.split(_lengths(reference_regions))
        key, reference = [], []
        for index, (x, other) in enumerate(zip(regions, reference_regions, strict=True)):
            ids, other_ids = (identities(found).to(self.device) for found in (x, other))
            rows, partners = pair_regions(
                embeddings[index], ids, others[index], other_ids, threshold=self.pair_threshold
            )
            key.append(x[rows])
            reference.append(other[partners])
        return key, reference
