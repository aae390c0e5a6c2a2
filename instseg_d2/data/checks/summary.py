"""How much a data set holds, in a few lines."""

import textwrap
from collections import Counter

import numpy as np

from .contents import Contents, Region


def _sizes(contents: Contents) -> str:
    sizes = np.array([picture.height_width for picture in contents.pictures])
    (low, high), kinds = (sizes.min(axis=0), sizes.max(axis=0)), len(np.unique(sizes, axis=0))
    if kinds == 1:
        return f"all {low[0]} x {low[1]} (height x width)"
    return f"height {low[0]} to {high[0]}, width {low[1]} to {high[1]}, {kinds} sizes"


def _area(region: Region) -> float:
    """Square pixels, as COCO evaluation takes it: as stated, else that of the box."""
    if region.area is not None:
        return region.area
    return region.box[2] * region.box[3] if region.box is not None else 0.0


def _shares(regions: list[Region]) -> str:
    areas = np.array([_area(region) for region in regions])
    kinds = {
        "small (below 32 x 32 px)": areas < 32**2,
        "medium": (areas >= 32**2) & (areas < 96**2),
        "large (from 96 x 96 px)": areas >= 96**2,
    }
    return ", ".join(f"{100 * inside.mean():.0f} % {name}" for name, inside in kinds.items())


def _instances(contents: Contents) -> dict[object, int]:
    """Category of each instance: of a region, or of a track over many of them."""
    if contents.videos is None:
        return {number: region.category for number, region in enumerate(contents.regions)}
    return {region.track: region.category for region in contents.regions}


def describe(contents: Contents) -> list[str]:
    """Lines with the numbers of images (or videos and frames), instances, masks and categories, and with sizes."""
    pictures, regions = contents.pictures, contents.regions
    frames = "images" if contents.videos is None else "frames"
    lines = [f"{contents.left_out} more were left out by the limit"] if contents.left_out else []
    if contents.videos is not None:
        lines.append(f"{contents.videos} videos")
    if not pictures:
        return [*lines, f"no usable {frames}"]
    count = Counter(region.picture for region in regions)
    each = np.array([count[picture.key] for picture in pictures])
    lines.append(f"{len(pictures)} {frames}, {int((each == 0).sum())} without instances; {_sizes(contents)}")
    instances = _instances(contents)
    if not instances:
        return [*lines, "no usable instances"]
    masks = Counter(type(region.segmentation) for region in regions)
    lines.append(
        f"{len(instances)} {'instances' if contents.videos is None else 'tracks'}; masks: {masks[list]} of polygons, "
        f"{masks[dict]} of run lengths, {masks[type(None)]} missing; "
        f"{sum(region.is_crowd for region in regions)} crowd regions"
    )
    lines.append(f"per image or frame: mean {each.mean():.1f}, median {np.median(each):g}, most {each.max()}")
    lines.append(f"sizes: {_shares(regions)}")
    return [*lines, *_categories(contents, Counter(instances.values()))]


def _categories(contents: Contents, counts: Counter) -> list[str]:
    absent = [name for key, name in contents.categories.items() if not counts[key]]
    text = ", ".join(f"{contents.categories[key]} {count}" for key, count in counts.most_common())
    text = f"instances of {len(counts)} of {len(contents.categories)} categories: {text}"
    if absent:
        text += f"; none of: {', '.join(absent)}"
    return textwrap.wrap(text, 118, subsequent_indent="  ")
