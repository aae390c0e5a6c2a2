"""Evaluation of a video model on a data set of the YouTube-VIS form."""

import logging
import os
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils.logger import create_small_table

from instseg_d2.data import DatasetError, prepare_dataset

from .track_ap import TRACK_METRICS, evaluate_tracks
from .track_files import read_results, read_truth
from .video_gathering import gather_videos
from .video_selection import EVERYTHING, VideoSelection
from .video_submissions import TrackRecorder, write_youtube_vis

_log = logging.getLogger(__name__)


class YouTubeVISEvaluator(DatasetEvaluator):
    """Makes tracks of a video model's frames, writes them for the server and evaluates them.

    What is kept of the frames are run lengths of masks. A track is what has the same `pred_ids` > 0, see
    `TrackRecorder`. The frames of a video all come to one process.

    Args:
        dataset_name: a registered data set; `json_file` of its metadata is the truth.
        distributed: gather from all processes.
        output_dir: its folder `youtube_vis` gets `results.json` and `results.zip`, to upload; None writes nothing.
        selection: the frames that are evaluated. The files hold all.

    Raises:
        DatasetError: the data set is of another form, or nothing of it is selected.
    """

    def __init__(
        self,
        dataset_name: str,
        distributed: bool = True,
        output_dir: str | None = None,
        *,
        selection: VideoSelection = EVERYTHING,
    ):
        prepare_dataset(dataset_name)
        metadata = MetadataCatalog.get(dataset_name)
        if not metadata.get("json_file"):
            raise DatasetError(f"the metadata of data set '{dataset_name}' has no 'json_file', which holds the truth")
        self._truth_file = metadata.json_file
        self._truth = read_truth(self._truth_file, selection)
        self._category_ids = {index: key for key, index in metadata.thing_dataset_id_to_contiguous_id.items()}
        self._distributed = distributed
        self._output_dir = output_dir
        self.reset()

    def reset(self) -> None:
        self._recorders: dict[int, TrackRecorder] = defaultdict(TrackRecorder)
        self._lengths: dict[int, int] = {}

    def process(self, inputs: Iterable[dict[str, Any]], outputs: Iterable[dict[str, Any]]) -> None:
        """Take frames.

        Args:
            inputs: with `video_id`, `frame_index` and `video_length`.
            outputs: with `instances`: `pred_masks` (N, H, W) bool, `scores`, `pred_classes` and `pred_ids` (N,).

        Raises:
            ValueError: the instances have no `pred_ids`, or two of them have one.
        """
        for frame, output in zip(inputs, outputs, strict=True):
            self._lengths[frame["video_id"]] = frame["video_length"]
            self._recorders[frame["video_id"]].add(frame["frame_index"], output["instances"])

    def evaluate(self) -> dict[str, dict[str, float]] | None:
        """Write and evaluate what was processed.

        Returns:
            `{"segm": figures}`, see `track_ap`, on the main process and None on others; `{}` for a data set without
            annotations.

        Raises:
            ValueError: the frames of a video came to several processes, which count tracks each on their own.
        """
        results = gather_videos(self._results(), self._distributed)
        if results is None:
            return None
        tracks = [track for _, found in sorted(results.items()) for track in found]
        if self._output_dir:
            path = write_youtube_vis(tracks, os.path.join(self._output_dir, "youtube_vis"))
            _log.info(f"{len(tracks)} tracks, as the server of YouTube-VIS takes them: {path}")
        if not self._truth.has_annotations:
            _log.info(f"{self._truth_file} has no annotations to evaluate with")
            return {}
        figures = evaluate_tracks(read_results(tracks, self._truth), self._truth)
        _log.info(f"AP of tracks:\n{create_small_table({name: figures[name] for name in TRACK_METRICS})}")
        return {"segm": figures}

    def _results(self) -> dict[int, list[dict[str, Any]]]:
        """Tracks of this process by video."""
        return {
            video: recorder.results(video, self._lengths[video], self._category_ids)
            for video, recorder in self._recorders.items()
        }
