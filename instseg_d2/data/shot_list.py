"""Which instances a few-shot training has, as a file, so that others can train on the same ones."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from instseg_d2.files import write_whole

from .errors import DatasetError


class Shot(NamedTuple):
    """One instance: an annotation of an image.

    Attributes:
        image_id: as in the annotation file.
        annotation_id: as in the annotation file.
        category: the name of its category.
    """

    image_id: int | str
    annotation_id: int | str
    category: str

    def __str__(self) -> str:
        return f"annotation {self.annotation_id!r} ({self.category}) of image {self.image_id!r}"


@dataclass(frozen=True)
class ShotList:
    """What `FewShot` has drawn, and with which settings.

    As json the settings are entries of these names, and `images` is a list of
    `{"image_id": 7, "annotations": [{"id": 3, "category": "cup"}]}`.

    Attributes:
        shots: instances of each of `categories`.
        other_shots: instances of each other category of the data set.
        seed: of the draw.
        categories: their names.
        drawn: the instances.
    """

    shots: int
    other_shots: int
    seed: int
    categories: tuple[str, ...]
    drawn: tuple[Shot, ...]

    def write(self, path: str | Path) -> None:
        """Write the list as json, images and annotations in the order of their ids.

        Raises:
            OSError: it cannot be written; an older file stays as it is.
        """
        in_order = sorted(self.drawn, key=lambda shot: [(isinstance(key, str), key) for key in shot])
        images = [
            {
                "image_id": image_id,
                "annotations": [{"id": shot.annotation_id, "category": shot.category} for shot in group],
            }
            for image_id, group in groupby(in_order, key=lambda shot: shot.image_id)
        ]
        settings = {"shots": self.shots, "other_shots": self.other_shots, "seed": self.seed}
        content = {**settings, "categories": self.categories, "images": images}
        write_whole(Path(path), json.dumps(content, indent=1) + "\n")

    @classmethod
    def read(cls, path: str | Path) -> ShotList:
        """Read what `write` has written.

        Raises:
            DatasetError: no such file, no such list, or not the number of instances that it says.
        """
        try:
            content = json.loads(Path(path).read_text())
        except OSError as error:
            raise DatasetError(f"no list of shots {path}: {error.strerror}") from error
        except ValueError as error:
            raise DatasetError(f"{path} is no list of shots: {error}") from error
        try:
            result = cls._parse(content)
            counts = Counter(shot.category for shot in set(result.drawn))
        except (KeyError, TypeError) as error:
            raise DatasetError(
                f"{path} is no list of shots, or a damaged one ({type(error).__name__}: {error}); "
                "tools/select_shots.py writes one"
            ) from error
        wanted = {**dict.fromkeys(counts, result.other_shots), **dict.fromkeys(result.categories, result.shots)}
        if wrong := [f"{name} ({counts[name]} of {count})" for name, count in wanted.items() if counts[name] != count]:
            raise DatasetError(f"{path} has not the number of shots that it says for {', '.join(wrong)}")
        return result

    @classmethod
    def _parse(cls, content: dict[str, Any]) -> ShotList:
        drawn = [
            Shot(image["image_id"], one["id"], one["category"])
            for image in content["images"]
            for one in image["annotations"]
        ]
        settings = {key: content[key] for key in ("shots", "other_shots", "seed")}
        return cls(**settings, categories=tuple(content["categories"]), drawn=tuple(drawn))
