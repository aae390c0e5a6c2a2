from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F


def smooth_noise(generator, height, width):
    """(3, H, W) in [-1, 1], blurred so that flow can be followed."""
    coarse = torch.rand(1, 3, height // 4 + 2, width // 4 + 2, generator=generator) * 2 - 1
    return F.interpolate(coarse, (height, width), mode="bicubic", align_corners=True)[0].clamp(-1, 1)


def moving(mask, texture, time, step):
    """A mask and its texture, `time` steps of (dx, dy) later."""
    shift = (time * step[1], time * step[0])
    return mask.roll(shift, (-2, -1)), texture.roll(shift, (-2, -1))


def draw_clip(length=3, height=32, width=48, seed=0):
    """A textured ellipse moves by (2, 1) px a frame under a standing bar, with exact masks and flow."""
    generator = torch.Generator().manual_seed(seed)
    ground, skin, bar_skin = (smooth_noise(generator, height, width) for _ in range(3))
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    body = ((((x - 15) / 10.0) ** 2 + ((y - 13) / 8.0) ** 2) <= 1).float()[None]
    bar = ((x >= 18) & (x < 25)).float()[None]
    clip = {name: [] for name in ("clean", "frames", "visible", "complete", "occluder")}
    for time in range(length):
        whole, texture = moving(body, skin, time, (2, 1))
        clean = torch.where(whole > 0.5, texture, ground)
        clip["clean"].append(clean)
        clip["frames"].append(torch.where(bar > 0.5, bar_skin, clean))
        clip["visible"].append(whole * (1 - bar))
        clip["complete"].append(whole)
        clip["occluder"].append(bar)
    clip = SimpleNamespace(**{name: torch.stack(parts)[None] for name, parts in clip.items()})
    step = torch.tensor([2.0, 1.0]).view(1, 1, 2, 1, 1)
    clip.true_flows = step * clip.complete[:, :-1], -step * clip.complete[:, 1:]
    # As observed, the bar stands still.
    clip.flows = step * clip.visible[:, :-1], -step * clip.visible[:, 1:]
    clip.hole = clip.complete * (1 - clip.visible)
    return clip


@pytest.fixture
def clip():
    return draw_clip()
