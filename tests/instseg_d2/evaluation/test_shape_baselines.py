import torch

from instseg_d2.evaluation.shape_baselines import convex_hulls, shape_baselines


def test_convex_hull_by_hand():
    visible = torch.zeros(1, 3, 1, 12, 12)
    visible[0, 0, 0, 2:9, 2:4] = 1  # an L
    visible[0, 0, 0, 7:9, 2:9] = 1
    visible[0, 1, 0, 5, 5] = 1  # a pixel
    hull = convex_hulls(visible)
    assert (hull >= visible).all()
    assert hull[0, 0, 0, 5, 4] == 1  # within the corner of the L
    assert hull[0, 0, 0, 2, 8] == 0
    assert hull[0, 1].sum() == 1
    assert hull[0, 2].sum() == 0
    assert torch.equal(convex_hulls(hull), hull)
    assert hull.dtype == visible.dtype


def test_all_baselines_contain_what_is_seen():
    complete = torch.zeros(1, 3, 1, 24, 32)
    occluders = torch.zeros_like(complete)
    for time in range(3):
        complete[0, time, 0, 6:18, 4 + 3 * time : 16 + 3 * time] = 1
    occluders[..., 14:20] = 1
    visible = complete * (1 - occluders)
    step = torch.tensor([3.0, 0.0]).view(1, 1, 2, 1, 1)
    found = shape_baselines(visible, occluders, step * visible[:, :-1], -step * visible[:, 1:])
    assert list(found) == ["visible", "convex hull", "flow-aligned union"]
    for masks in found.values():
        assert (masks >= visible).all()
        assert masks.shape == visible.shape
    hidden = complete * (1 - visible)
    gained = {name: (masks * hidden).sum() for name, masks in found.items()}
    assert gained["visible"] == 0 < gained["flow-aligned union"]
