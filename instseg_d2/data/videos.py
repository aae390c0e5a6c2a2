"""Records of frames as videos: pairs and clips for training, and whole videos in their order for testing."""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from detectron2.data import DatasetFromList, build_detection_test_loader, build_detection_train_loader
from detectron2.utils import comm
from torch.utils.data import DataLoader, Dataset, Sampler

from .errors import DatasetError

logger = logging.getLogger(__name__)

Record = dict[str, Any]


def video_ranges(records: Sequence[Record]) -> list[range]:
    """Where the frames of each video are in a list of records; an image without `video_id` is a video of its own.

    Sets may be joined: a new video begins where `video_id` changes or `frame_index` does not grow.
    """
    starts, last = [], (None, 0)
    for position, record in enumerate(records):
        place = record.get("video_id"), record.get("frame_index", 0)
        if place[0] is None or place[0] != last[0] or place[1] <= last[1]:
            starts.append(position)
        last = place
    return [range(start, end) for start, end in zip(starts, [*starts[1:], len(records)], strict=False)]


@dataclass(frozen=True, kw_only=True)
class ReferenceFrames:
    """How the references of a key frame are drawn: evenly, without repetition as far as there are enough.

    They are other frames of its video that have annotations.

    Attributes:
        count: how many references a key frame gets.
        reach: at most that many frames before or after it; None takes the whole video.
        common_identity: only frames that show an object of the key frame; a key frame without one is left out.
    """

    count: int = 1
    reach: int | None = None
    common_identity: bool = False

    def __post_init__(self):
        if self.count < 1 or (self.reach is not None and self.reach < 1):
            raise ValueError(f"count and reach must be 1 or more, got count={self.count}, reach={self.reach}")


def _identities(record: Record) -> frozenset[int]:
    """Ids of the instances to train on; a still image has numbers in their place."""
    annotations = enumerate(record.get("annotations", ()))
    return frozenset(one.get("instance_id", number) for number, one in annotations if not one.get("iscrowd", 0))


class VideoClips(Dataset):
    """Key frames with their references: element i is the record of a frame with `references`, a list of k records.

    Every frame with annotations is a key frame once. References are drawn anew each time, from numpy's global
    generator, and come in the order of time. A frame that is alone with its annotations is its own reference: a still
    image, the frame of a video of one frame, one without others in reach.

    Args:
        records: of frames, those of a video in a row and in order, and of still images.
        references: how they are drawn.

    Raises:
        DatasetError: no frame can be a key frame.
    """

    def __init__(self, records: Sequence[Record], references: ReferenceFrames):
        self.references = references
        self._times = np.array([record.get("frame_index", 0) for record in records], dtype=np.int64)
        self._identities = [_identities(record) for record in records]
        annotated = np.array([bool(shown) for shown in self._identities], dtype=bool)
        # Of each video the frames with annotations.
        self._videos = [
            np.flatnonzero(annotated[frames.start : frames.stop]) + frames.start for frames in video_ranges(records)
        ]
        self._keys = [
            (position, video)
            for video, frames in enumerate(self._videos)
            for position in frames.tolist()
            if len(self._candidates(position, video))
        ]
        if not self._keys:
            raise DatasetError(
                f"none of {len(records)} frames can be trained on: it needs annotations that are no crowd"
                + (", and another frame in reach with an object of it" if references.common_identity else "")
            )
        self._frames = DatasetFromList(list(records), copy=False)
        logger.info(
            "%d key frames of %d frames in %d videos and images; %d have no annotations, %d no reference",
            *(len(self._keys), len(records), len(self._videos), (~annotated).sum(), annotated.sum() - len(self._keys)),
        )

    def _candidates(self, key: int, video: int) -> np.ndarray:
        """Positions of the frames that may be references."""
        frames = self._videos[video]
        others = frames[frames != key]
        if self.references.reach is not None:
            others = others[np.abs(self._times[others] - self._times[key]) <= self.references.reach]
        if not len(others):
            return np.array([key])
        if self.references.common_identity:
            others = others[[not self._identities[key].isdisjoint(self._identities[other]) for other in others]]
        return others

    def __len__(self) -> int:
        return len(self._keys)

    def __getitem__(self, index: int) -> Record:
        key, video = self._keys[index]
        candidates = self._candidates(key, video)
        count = self.references.count
        drawn = np.sort(np.random.choice(candidates, size=count, replace=len(candidates) < count))
        return {**self._frames[key], "references": [self._frames[position] for position in drawn.tolist()]}


class WholeVideoSampler(Sampler[int]):
    """Gives each process whole videos, in order: as evenly many frames as the videos allow, and every frame once.

    Args:
        records: of all frames.
        rank: which process; by default this one.
        world_size: number of processes; by default those of the run.
    """

    def __init__(self, records: Sequence[Record], *, rank: int | None = None, world_size: int | None = None):
        rank = comm.get_rank() if rank is None else rank
        world_size = comm.get_world_size() if world_size is None else world_size
        # A video belongs to the process in whose even share its middle lies.
        share = max(len(records), 1) / world_size
        videos = video_ranges(records)
        self._positions = [
            position
            for frames in videos
            if int((frames.start + frames.stop) / 2 / share) == rank
            for position in frames
        ]

    def __iter__(self) -> Iterator[int]:
        return iter(self._positions)

    def __len__(self) -> int:
        return len(self._positions)


def build_video_train_loader(
    *,
    dataset: list[Record],
    references: ReferenceFrames,
    mapper: Callable[[Record], dict[str, Any]],
    total_batch_size: int,
    num_workers: int = 0,
    **settings: Any,
):
    """An endless loader of key frames with their references, drawn at random.

    Args:
        dataset: records of frames, as from `get_detection_dataset_dicts` with `filter_empty=False`.
        references: how references are drawn.
        mapper: such as `VideoMapper`.
        total_batch_size: key frames of all processes together.
        num_workers: processes that load.
        settings: further ones of `build_detection_train_loader`.
    """
    clips = VideoClips(dataset, references)
    return build_detection_train_loader(
        clips, mapper=mapper, total_batch_size=total_batch_size, num_workers=num_workers, **settings
    )


def build_video_test_loader(
    *, dataset: list[Record], mapper: Callable[[Record], dict[str, Any]], num_workers: int = 0
) -> DataLoader:
    """A loader of single frames in their order, whole videos for each process; see `WholeVideoSampler`.

    Args:
        dataset: records of frames.
        mapper: such as `VideoMapper(is_train=False, ...)`.
        num_workers: processes that load.
    """
    sampler = WholeVideoSampler(dataset)
    return build_detection_test_loader(dataset, mapper=mapper, sampler=sampler, num_workers=num_workers)
