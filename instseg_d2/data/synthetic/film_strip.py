"""Generated videos as one picture, to see at a glance whether objects cross, vanish and come back."""

from collections.abc import Sequence

import cv2
import numpy as np

from .outlines import CATEGORIES
from .video import SOLID, Video, composite

_GAP = 4
_TILE = 160
_CAPTION = 18


def id_color(identity: int) -> tuple[int, int, int]:
    """A bright BGR colour for an id; colours of consecutive ids lie far apart."""
    hsv = np.uint8([[[(identity * 111) % 180, 255, 255]]])
    return tuple(int(channel) for channel in cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR)[0, 0])


def flow_picture(flow: np.ndarray, fastest: float) -> np.ndarray:
    """(H, W, 3) uint8 BGR of a flow (H, W, 2): the hue is the direction, the saturation the speed up to `fastest`."""
    speed, angle = cv2.cartToPolar(flow[..., 0], flow[..., 1], angleInDegrees=True)
    saturation = np.clip(speed / max(fastest, 1e-6), 0, 1) * 255
    hsv = np.stack([angle / 2, saturation, np.full_like(speed, 255)], axis=2)
    return cv2.cvtColor(hsv.astype(np.uint8), cv2.COLOR_HSV2BGR)


def _outlined(video: Video, frame: int, zoom: int) -> np.ndarray:
    """The enlarged frame; each visible mask has an outline in the colour of its id, and the id beside it."""
    picture = cv2.resize(video.images[frame], None, fx=zoom, fy=zoom, interpolation=cv2.INTER_NEAREST)
    for number, identity in enumerate(video.plan.ids):
        mask = video.visible[frame, number].astype(np.uint8).repeat(zoom, axis=0).repeat(zoom, axis=1)
        contours, _ = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(picture, contours, -1, id_color(identity), 1)
        if contours:
            x, y = (int(value) for value in max(contours, key=len)[:, 0].mean(axis=0))
            for color, thickness in (((0, 0, 0), 3), (id_color(identity), 1)):
                cv2.putText(picture, str(identity), (x - 4, y + 4), cv2.FONT_HERSHEY_SIMPLEX, 0.4, color, thickness)
    return picture


def _layer_picture(video: Video, frame: int, identity: int) -> np.ndarray:
    """The complete object over a checkerboard, its hidden part outlined in white."""
    rows, columns = np.mgrid[: video.plan.height, : video.plan.width] // 8
    board = np.where((rows + columns) % 2, 150, 190).astype(np.uint8)[..., None].repeat(3, axis=2)
    layer = video.layer(frame, identity)
    picture = np.rint(composite(board, [layer])).astype(np.uint8)
    hidden = (layer[..., 3] >= SOLID) & ~video.visible[frame, video.number(identity)]
    contours, _ = cv2.findContours(hidden.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    return cv2.drawContours(picture, contours, -1, (255, 255, 255), 1)


def _row(pictures: list[np.ndarray], caption: str) -> np.ndarray:
    height = pictures[0].shape[0]
    gap = np.full((height, _GAP, 3), 255, np.uint8)
    row = np.concatenate([part for picture in pictures for part in (picture, gap)], axis=1)
    bar = np.full((_CAPTION, row.shape[1], 3), 255, np.uint8)
    cv2.putText(bar, caption, (2, 13), cv2.FONT_HERSHEY_SIMPLEX, 0.42, (0, 0, 0), 1, cv2.LINE_AA)
    return np.concatenate([bar, row])


def film_strip(video: Video, *, caption: str = "", columns: int = 12) -> np.ndarray:
    """Four rows: frames with outlined masks, flow to the next frame, one object's layer, frames without its occluders.

    Args:
        video: what to show; the object of the lower rows is the one that is hidden most.
        caption: text above.
        columns: number of frames, at equal steps through the video.

    Returns:
        (H', W', 3) uint8 BGR.
    """
    zoom = max(1, _TILE // min(video.plan.height, video.plan.width))
    frames = np.unique(np.linspace(0, video.plan.frames - 2, min(columns, video.plan.frames - 1)).round().astype(int))
    # Hidden while it is in the frame, over the whole video.
    hidden = (video.amodal & ~video.visible).sum(axis=(0, 2, 3)) / np.maximum(video.amodal.sum(axis=(0, 2, 3)), 1)
    number = int(np.argmax(hidden))
    identity = video.plan.ids[number]
    occluders = video.occluders(identity)
    flows = [video.flow(frame) for frame in frames]
    fastest = float(np.percentile(np.linalg.norm(np.stack(flows), axis=3), 99))

    def large(picture: np.ndarray) -> np.ndarray:
        return cv2.resize(picture, None, fx=zoom, fy=zoom, interpolation=cv2.INTER_NEAREST)

    name = CATEGORIES[video.categories[number]].name
    rows = [
        _row([_outlined(video, t, zoom) for t in frames], f"{caption} frames {', '.join(map(str, frames))}"),
        _row([large(flow_picture(flow, fastest)) for flow in flows], f"flow; full colour: {fastest:.1f} px a frame"),
        _row([large(_layer_picture(video, t, identity)) for t in frames], f"layer of {name} {identity}; hidden: white"),
        _row([large(video.without(t, occluders)) for t in frames], f"without its occluders {list(occluders)}"),
    ]
    return np.concatenate(rows)


def stack_strips(strips: Sequence[np.ndarray]) -> np.ndarray:
    """Film strips below one another, padded with white to the widest."""
    width = max(strip.shape[1] for strip in strips)
    padded = [
        cv2.copyMakeBorder(strip, 0, 3 * _GAP, 0, width - strip.shape[1], cv2.BORDER_CONSTANT, value=(255,) * 3)
        for strip in strips
    ]
    return np.concatenate(padded)
