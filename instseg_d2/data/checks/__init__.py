"""Everything that can be told about a data set before it is used: what is wrong in it, and what it holds."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ..datasets.validation import ADVICE, Finding, Problem, summarise, validate_coco
from ..datasets.video_validation import is_video_set, validate_videos
from .contents import Contents, check_further_masks, coco_contents
from .images import IMAGE_ADVICE, check_images
from .masks import MASK_ADVICE, check_masks
from .summary import describe
from .videos import video_contents


@dataclass(frozen=True)
class Report:
    """What `check_dataset` found.

    Attributes:
        problems: one of a kind, the fatal ones first.
        summary: lines that say how much the set holds; of its sound entries only.
    """

    problems: list[Problem]
    summary: list[str]

    @property
    def is_usable(self) -> bool:
        """Whether there is nothing but remarks."""
        return not any(problem.fatal for problem in self.problems)


def _look(contents: Contents, image_root: Path | None, num_workers: int, progress: bool) -> Iterator[Finding]:
    """Findings of every mask and, with an image folder, of every file."""
    # None hides the bars where no terminal shows them.
    shown = partial(tqdm, disable=None if progress else True, leave=False)
    yield from check_masks(shown(contents.regions, desc="masks", unit="mask"))
    if image_root is not None:
        findings = check_images(contents.pictures, image_root, num_workers=num_workers)
        yield from chain.from_iterable(shown(findings, total=len(contents.pictures), desc="images", unit="image"))


def check_dataset(
    content: Any,
    image_root: Path | None = None,
    *,
    num_workers: int = 0,
    limit: int | None = None,
    progress: bool = False,
) -> Report:
    """Check a COCO or YouTube-VIS file: its form, then every mask that has the right form, and every image.

    Args:
        content: the parsed json.
        image_root: folder of the images; None checks the json alone.
        num_workers: threads that read images; 0 reads them one by one.
        limit: of masks and images, look only at those of this many first images or videos. The form is always
            checked in full.
        progress: show progress bars on standard error, if that is a terminal.
    """
    if is_video_set(content):
        problems, contents = validate_videos(content), video_contents(content, limit)
    else:
        problems, contents = validate_coco(content), coco_contents(content, limit)
        problems += summarise(check_further_masks(content), ADVICE)
    problems += summarise(_look(contents, image_root, num_workers, progress), MASK_ADVICE | IMAGE_ADVICE)
    return Report(sorted(problems, key=lambda problem: not problem.fatal), describe(contents))
