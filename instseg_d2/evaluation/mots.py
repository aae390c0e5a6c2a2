"""Multi-object tracking and segmentation (MOTS) as BDD100K evaluates it: mMOTSA, mMOTSP, mIDF1, IDSw and mask AP."""

import logging
import os
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluator
from detectron2.structures import Instances
from detectron2.utils.logger import create_small_table
from tabulate import tabulate

from instseg_d2.data import DatasetError, prepare_dataset
from instseg_d2.data.bdd100k_categories import BDD100K_CLASSES
from instseg_d2.data.instance_maps import paint

from .frame_ap import FRAME_METRICS, FrameAP
from .mots_counts import MOTS_METRICS, OVERALL, VideoCounter, mots_figures
from .mots_files import MaskFrames, RleFrames, open_frames
from .video_gathering import gather_videos
from .video_selection import EVERYTHING, VideoSelection
from .video_submissions import MOST_INSTANCES, mots_rle_frame, track_ids, write_mots_bitmask, write_mots_rles

BDD100K_SUPER_CLASSES = {
    "human": ("pedestrian", "rider"),
    "vehicle": ("car", "truck", "bus", "train"),
    "bike": ("motorcycle", "bicycle"),
}

_log = logging.getLogger(__name__)


def evaluate_mots(
    found: MaskFrames,
    truth: MaskFrames,
    class_names: Sequence[str],
    super_classes: Mapping[str, Sequence[str]] | None = None,
    selection: VideoSelection = EVERYTHING,
    *,
    instances: RleFrames | None = None,
) -> dict[str, dict[str, float]]:
    """Evaluate tracked instances.

    Args:
        found: the tracks; every frame of the truth has to be there.
        truth: the annotation.
        class_names: categories in the order of their class indices. Annotations of other ones are no objects.
        super_classes: see `mots_figures`.
        selection: the frames that count.
        instances: labels with scores of the same frames, to evaluate without regard to identities; may be `found`.

    Returns:
        `mots`, see `mots_figures`; with `instances` also `segm`, see `FrameAP`.

    Raises:
        DatasetError: a frame is missing or cannot be read, or nothing is selected.
    """
    total, single = 0, FrameAP(class_names)
    for video, frames in _frames(found, truth, selection).items():
        counter = VideoCounter(len(class_names))
        for frame in frames:
            annotated, predicted = truth.read(video, frame), found.read(video, frame)
            try:
                counter.add(annotated, predicted)
            except DatasetError as error:
                raise DatasetError(f"{found.name}: frame {frame} of video {video}: {error}") from None
            if instances is not None:
                single.add(annotated, instances.labels(video, frame))
        total = total + counter.counts()
    results = {"mots": mots_figures(total, class_names, super_classes)}
    return results if instances is None else {**results, "segm": single.figures()}


def _frames(found: MaskFrames, truth: MaskFrames, selection: VideoSelection) -> dict[str, list[int]]:
    """The frames that are evaluated, by video."""
    selection.check((video,) for video in truth.frames)
    unknown = sorted(set(found.frames) - set(truth.frames))
    if unknown:
        raise DatasetError(f"{found.name}: {truth.name} has no video {', '.join(unknown[:5])}")
    chosen = {}
    for video, frames in truth.frames.items():
        if not selection.takes((video,)):
            continue
        wanted = selection.frames(len(frames))
        chosen[video] = list(frames[wanted.start : wanted.stop])
        missing = sorted(set(chosen[video]) - set(found.frames.get(video, ())))
        if missing:
            raise DatasetError(
                f"{found.name}: no prediction for {len(missing)} of {len(chosen[video])} frames of video {video}, such "
                f"as frame {missing[0]}; for one without instances write a bitmask of zeros, or a frame without labels"
            )
    if not any(chosen.values()):
        raise DatasetError(f"{truth.name}: no frame lies in the part {tuple(selection.part)} of {len(chosen)} videos")
    return chosen


def super_classes_of(class_names: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """The super-classes of BDD100K's classes, none of others."""
    return BDD100K_SUPER_CLASSES if tuple(class_names) == BDD100K_CLASSES else {}


class MOTSEvaluator(DatasetEvaluator):
    """Evaluates tracked instances as BDD100K does, and writes them for its server.

    A pixel belongs to one instance, that of the highest score, and a frame has at most 100 instances. Tracks are
    `pred_ids` > 0; mask AP takes the instances without a track too. What is kept of the frames are run lengths. The
    frames of a video all come to one process.

    Args:
        dataset_name: a registered data set; the truth is `json_file` of its metadata (run lengths), or, where that file
            or folder is missing, `bitmask_root`.
        distributed: gather from all processes.
        output_dir: its folder `mots` gets `rles.json` and `rles.zip`, which the server takes; None writes nothing.
        bitmasks: also write `mots/bitmasks/<video>/*.png`, the older form.
        super_classes: names of classes by the name of their union; None takes BDD100K's for its classes.
        frames_task: what the AP of frames is called in the results, beside an evaluator whose own task is `segm`.
        selection: the frames that are evaluated. The files hold all.

    Raises:
        DatasetError: the data set is of another form.
    """

    def __init__(
        self,
        dataset_name: str,
        distributed: bool = True,
        output_dir: str | None = None,
        *,
        bitmasks: bool = False,
        super_classes: Mapping[str, Sequence[str]] | None = None,
        frames_task: str = "segm",
        selection: VideoSelection = EVERYTHING,
    ):
        prepare_dataset(dataset_name)
        metadata = MetadataCatalog.get(dataset_name)
        sources = [path for path in (metadata.get("json_file"), metadata.get("bitmask_root")) if path]
        there = [path for path in sources if os.path.exists(path)]
        if not there:
            raise DatasetError(
                f"data set '{dataset_name}' has no truth: 'json_file' and 'bitmask_root' of its metadata are "
                f"{', '.join(sources) or 'not there'}"
            )
        self._class_names = list(metadata.thing_classes)
        self._truth = open_frames(there[0], self._class_names)
        super_classes = super_classes_of(self._class_names) if super_classes is None else super_classes
        self._super_classes = {name: list(members) for name, members in super_classes.items()}
        self._distributed = distributed
        self._output_dir = output_dir
        self._bitmasks = bitmasks
        self._frames_task = frames_task
        self._selection = selection
        self.reset()

    def reset(self) -> None:
        # By video and position of the frame: height and width, labels of the tracks and those of all instances.
        self._found: dict[str, dict[int, tuple[tuple[int, int], list, list]]] = defaultdict(dict)

    def process(self, inputs: Iterable[dict[str, Any]], outputs: Iterable[dict[str, Any]]) -> None:
        """Take frames.

        Args:
            inputs: with `video_name` and `frame_index`, the position among the frames of the video.
            outputs: with `instances`: `pred_masks` (N, H, W) bool, `scores`, `pred_classes` and `pred_ids` (N,).

        Raises:
            ValueError: the instances have no `pred_ids`, or two of them have one.
        """
        for frame, output in zip(inputs, outputs, strict=True):
            instances = output["instances"].to("cpu")
            ids = track_ids(instances)
            tracks = self._labels(instances, ids, ids > 0)
            everything = tracks if (ids > 0).all() else self._labels(instances, np.arange(1, len(ids) + 1), ids >= 0)
            self._found[frame["video_name"]][frame["frame_index"]] = instances.image_size, tracks, everything

    def _labels(self, instances: Instances, ids: np.ndarray, kept: np.ndarray) -> list[dict[str, Any]]:
        masks, scores, classes = (
            getattr(instances, name).numpy()[kept] for name in ("pred_masks", "scores", "pred_classes")
        )
        painted = paint(masks, scores, ids[kept], classes, MOST_INSTANCES)
        return painted.to_labels(self._class_names, dict(zip(ids[kept].tolist(), scores.tolist(), strict=True)))

    def evaluate(self) -> dict[str, dict[str, float]] | None:
        """Write and evaluate what was processed.

        Returns:
            `{"mots": figures, frames_task: figures}`, see `mots_figures` and `FrameAP`, on the main process; None on
            others.

        Raises:
            DatasetError: a frame of the truth was not processed, or is of another size.
            ValueError: the frames of a video came to several processes, which count tracks each on their own.
        """
        found = gather_videos(self._found, self._distributed)
        if found is None:
            return None
        written = self._frames(found, tracks=True)
        tracks, everything = (RleFrames(one, self._class_names) for one in (written, self._frames(found, tracks=False)))
        if self._output_dir:
            path = write_mots_rles(written, os.path.join(self._output_dir, "mots"))
            _log.info(f"{len(written)} frames, as the server of BDD100K takes them: {path}")
            if self._bitmasks:
                self._write_bitmasks(tracks)
        results = evaluate_mots(
            tracks, self._truth, self._class_names, self._super_classes, self._selection, instances=everything
        )
        mots, segm = results["mots"], results["segm"]
        groups = [*self._class_names, *self._super_classes, OVERALL]
        rows = [[name, *(mots[f"{metric}-{name}"] for metric in MOTS_METRICS)] for name in groups]
        _log.info(f"tracking:\n{tabulate(rows, ['', *MOTS_METRICS], 'pipe', floatfmt='.2f')}")
        means = {name: value for name, value in mots.items() if "-" not in name}
        _log.info(f"means over classes, and sums:\n{create_small_table(means)}")
        _log.info(f"AP of the masks of frames:\n{create_small_table({name: segm[name] for name in FRAME_METRICS})}")
        return {"mots": mots, self._frames_task: segm}

    def _frames(self, found: Mapping[str, Mapping[int, tuple]], *, tracks: bool) -> list[dict[str, Any]]:
        """Frames of Scalabel's json, numbered as those of the truth."""
        frames = []
        for video, by_position in sorted(found.items()):
            numbers = self._truth.frames.get(video, ())
            if not by_position.keys() <= set(range(len(numbers))):
                raise DatasetError(
                    f"{self._truth.name} has {len(numbers)} frames of video {video}, but frame {max(by_position)} was "
                    "predicted: evaluate on the data set that the frames are from"
                )
            frames += [
                mots_rle_frame(video, numbers[at], labels[0 if tracks else 1], size)
                for at, (size, *labels) in sorted(by_position.items())
            ]
        return frames

    def _write_bitmasks(self, tracks: RleFrames) -> None:
        for video, frames in tracks.frames.items():
            for frame in frames:
                folder = os.path.join(self._output_dir, "mots", "bitmasks")
                write_mots_bitmask(folder, video, frame, tracks.read(video, frame))
