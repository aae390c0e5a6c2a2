"""What is wrong with image files: missing, damaged, of another size than stated, or twice in the set."""

import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ..datasets.validation import ADVICE, Advice, Finding
from ..media import MediaError, load_image
from .contents import Picture

IMAGE_ADVICE: Advice = {
    "missing-image-file": ADVICE["missing-image-file"],
    "broken-image": (True, "restore the files, or take the images out of the annotation file"),
    "image-size": (
        True,
        "correct 'height' and 'width', and look at an overlay: if the file was resized or turned after it was "
        "annotated, the annotations belong to the earlier one. Images are read as their EXIF orientation says",
    ),
    "repeated-file-name": (True, "list each file once, with all of its instances: now each entry misses the others'"),
    "same-image-content": (False, "the same file under two names; in train and val at once it would flatter results"),
}


def _look(picture: Picture, path: Path) -> tuple[list[Finding], bytes | None]:
    """Findings on one file, and a digest of its bytes; None if it cannot be read."""
    if not path.is_file():
        return [("missing-image-file", f"{picture.where}: no file {path}")], None
    try:
        digest = hashlib.blake2b(path.read_bytes(), digest_size=16).digest()
        height, width = load_image(path).shape[:2]
    except (MediaError, OSError) as error:
        return [("broken-image", f"{picture.where}: {error}")], None
    if (height, width) == picture.height_width:
        return [], digest
    stated = f"{picture.height_width[0]} x {picture.height_width[1]}"
    text = f"{picture.where}: {path} has height x width {height} x {width}, the json says {stated}"
    return [("image-size", text)], digest


def check_images(pictures: Sequence[Picture], image_root: Path, *, num_workers: int = 0) -> Iterator[list[Finding]]:
    """Decode every file.

    Args:
        pictures: of the set.
        image_root: that the file names are relative to.
        num_workers: threads (decoders run outside of Python's lock); 0 for none.

    Yields:
        The findings on each picture, in order.
    """
    paths = [image_root / picture.file_name for picture in pictures]
    with ThreadPoolExecutor(max(num_workers, 1)) as pool:
        names: dict[Path, str] = {}
        contents: dict[bytes, str] = {}
        for picture, path, (findings, digest) in zip(
            pictures, paths, (pool.map if num_workers else map)(_look, pictures, paths), strict=True
        ):
            if path in names:
                findings.append(("repeated-file-name", f"{picture.where}: {path} belongs to {names[path]} too"))
            elif digest is not None and digest in contents:
                findings.append(("same-image-content", f"{picture.where}: {path} has the bytes of {contents[digest]}"))
            names.setdefault(path, picture.where)
            if digest is not None:
                contents.setdefault(digest, f"{picture.where}, {picture.file_name}")
            yield findings
