"""Occluders keep the rules that they are made by, and depend on names alone."""

import hashlib

import numpy as np
import pytest

from instseg_d2.data.video_inpainting.appearance import colour, render
from instseg_d2.data.video_inpainting.keys import generator_of, hash_masks, split_of
from instseg_d2.data.video_inpainting.motion import MOTIONS, sample_path
from instseg_d2.data.video_inpainting.occlusion import FAMILIES, OcclusionRules, occlude
from instseg_d2.data.video_inpainting.shapes import Outline, Silhouettes, blob, box_of, resampled, stroke


def moving_disc(length=8, height=64, width=96, radius=14, step=3):
    rows, columns = np.indices((height, width))
    return np.stack([(rows - 32) ** 2 + (columns - 30 - step * t) ** 2 <= radius**2 for t in range(length)])


def ones(rng, length):
    """Another track: a square of eight pixels, with no pictures behind it."""
    return Silhouettes((np.ones((8, 8), dtype=bool),) * length, 4.0, ())


def test_key_is_sha256_of_the_names():
    digest = hashlib.sha256(b"1\x00davis\x00dogs").digest()
    expected = np.random.Generator(np.random.PCG64(int.from_bytes(digest[:8], "big")))
    assert generator_of(1, "davis", "dogs").integers(2**62) == expected.integers(2**62)
    assert generator_of("a", "bc").random() != generator_of("ab", "c").random()


def test_split_holds_a_tenth_of_the_videos_and_does_not_move():
    splits = [split_of(f"video_{number}") for number in range(2000)]
    assert 0.08 < splits.count("evaluation") / 2000 < 0.12
    expected = int(hashlib.sha256(b"dogs_jump").hexdigest(), 16) % 10 == 0
    assert (split_of("dogs_jump") == "evaluation") == expected


def test_hash_knows_shape_and_pixels():
    masks = moving_disc()
    assert hash_masks(masks) == hash_masks(masks.copy())
    changed = masks.copy()
    changed[3, 2, 1] ^= True
    assert len({hash_masks(masks), hash_masks(changed), hash_masks(masks.transpose(0, 2, 1))}) == 3


@pytest.fixture(scope="module")
def many():
    masks = moving_disc()
    rules = OcclusionRules()
    return masks, rules, [occlude(masks, generator_of("test", n), rules, ones) for n in range(120)]


def test_degree_hits_the_bins(many):
    masks, rules, found = many
    found = [one for one in found if one is not None]
    assert len(found) >= 114
    counts = np.bincount([rules.bin_of(one.degree) for one in found], minlength=3)
    assert counts.min() >= 25, counts  # 38 expected in each of three
    for one in found:
        shares = (one.masks & masks).sum(axis=(1, 2)) / masks.sum(axis=(1, 2))
        np.testing.assert_allclose(shares, one.covered)
        assert shares.max() <= 0.9
        assert (shares >= 0.05).mean() >= 0.6
        assert 0.1 <= shares.mean() <= 0.7


def test_families_and_motions_are_mixed(many):
    _, _, found = many
    families, motions = ([getattr(one, name) for one in found if one] for name in ("family", "motion"))
    for counts, names, chances in ((families, FAMILIES, (0.5, 0.3, 0.2)), (motions, MOTIONS, (0.2, 0.4, 0.4))):
        shares = [counts.count(name) / len(counts) for name in names]
        np.testing.assert_allclose(shares, chances, atol=0.15)


def test_what_a_passing_occluder_hides_is_seen_at_another_time(many):
    masks, _, found = many
    for one in found:
        if one is not None and one.motion == "passing":
            assert one.covered[0] == one.covered[-1] == 0


def test_chance_alone_decides_and_other_seeds_differ():
    masks, rules = moving_disc(), OcclusionRules()
    first, second, other = (occlude(masks, generator_of("a", n), rules).masks for n in (0, 0, 1))
    assert (first == second).all()
    assert (first != other).any()


def test_golden_hash():
    masks, rules = moving_disc(), OcclusionRules()
    digests = [hash_masks(occlude(masks, generator_of("golden", n), rules, ones).masks) for n in range(4)]
    assert [digest[:12] for digest in digests] == GOLDEN


GOLDEN = ["fb9a33ffe8a3", "9ef92a55a982", "649d2bd6beb1", "69140f21b708"]


def test_without_other_tracks_strokes_and_blobs_share_their_chance():
    masks = moving_disc()
    found = [occlude(masks, generator_of("alone", n), OcclusionRules()) for n in range(20)]
    assert {one.family for one in found if one} == {"stroke", "blob"}
    assert occlude(masks, generator_of(0), OcclusionRules(families=(1, 0, 0))) is None


def test_target_that_no_occluder_fits_is_given_up():
    # One frame is hidden by 65 % on average, and none by more than 60 %.
    rules = OcclusionRules(degrees=(0.5, 0.55), most=0.56, frames_hidden=1.0, motions=(0, 0, 1), tries=4)
    assert occlude(moving_disc(), generator_of(0), rules) is None


def test_empty_target_is_refused():
    masks = moving_disc()
    masks[2] = False
    with pytest.raises(ValueError, match="empty in frame 2"):
        occlude(masks, generator_of(0), OcclusionRules())


def test_one_frame():
    found = occlude(moving_disc(length=1), generator_of("one"), OcclusionRules(motions=(1, 0, 0)))
    assert found.masks.shape == (1, 64, 96)
    assert 0.1 <= found.degree <= 0.7


@pytest.mark.parametrize(
    "wrong", [{"families": (1, 1, 0)}, {"degrees": (0.5, 0.1)}, {"degrees": (0.1, 0.95)}, {"motions": (1, 0)}]
)
def test_rules_that_contradict_themselves(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        OcclusionRules(**wrong)


def test_bins_of_degrees():
    rules = OcclusionRules()
    assert [rules.bin_of(share) for share in (0.05, 0.1, 0.3, 0.5, 0.7, 0.71)] == [-1, 0, 1, 2, 2, -1]
    assert rules.bins() == ["[0.1, 0.3)", "[0.3, 0.5)", "[0.5, 0.7]"]


@pytest.mark.parametrize("make", [stroke, blob])
def test_outline_has_its_radius_and_moves_with_whole_pixels(make):
    for number in range(8):
        shape = make(generator_of(number), 5)
        drawn = shape.draw(0, np.array([60.0, 60.0]), 20.0, (120, 120))
        rows, columns = box_of(drawn)
        sides = rows.stop - rows.start, columns.stop - columns.start
        assert 10 < np.sqrt(np.prod(sides)) / 2 < 30
        moved = shape.draw(0, np.array([63.0, 58.0]), 20.0, (120, 120))
        assert (np.roll(drawn, (-2, 3), axis=(0, 1)) == moved).all()


def test_strokes_tremble():
    shape = stroke(generator_of(0), 5)
    assert (shape.points[0] != shape.points[1]).any()
    assert (shape.points[0] == shape.points[1]).all(axis=1).any()  # half of the points stand still


def test_silhouettes_are_resized_by_the_nearest_pixel():
    mask = np.array([[1, 0], [1, 1]], dtype=bool)
    drawn = Silhouettes((mask,), 1.0, ()).draw(0, np.array([4.0, 4.0]), 2.0, (8, 8))
    expected = np.zeros((8, 8), dtype=bool)
    expected[2:6, 2:6] = np.kron(mask, np.ones((2, 2), dtype=bool))
    assert (drawn == expected).all()


def test_resampled_reaches_both_ends():
    assert resampled(10, 4).tolist() == [0, 3, 6, 9]
    assert resampled(2, 4).tolist() == [0, 0, 1, 1]
    assert resampled(3, 1).tolist() == [0]


@pytest.mark.parametrize("motion", MOTIONS)
def test_paths(motion):
    rng = generator_of(motion)
    offsets = sample_path(motion, rng, 20, target=10.0, unit=0.3)(5.0)
    assert offsets.shape == (20, 2)
    lengths = np.hypot(*offsets.T)
    if motion == "locked":
        assert (offsets == offsets[0]).all()
        assert lengths[0] <= 8
    elif motion == "drifting":
        assert (offsets[1:] != offsets[:-1]).any()
        assert lengths.max() <= 10
    else:
        assert min(lengths[0], lengths[-1]) > 15  # both radii
        assert lengths.min() < 10


def test_texture_travels_with_the_occluder():
    shape = Outline(np.array([[[-1, -1], [1, -1], [1, 1], [-1, 1]]] * 2, dtype=float))
    masks = np.stack([shape.draw(t, np.array([20.0 + 5 * t, 20.0]), 6.0, (40, 60)) for t in range(2)])

    class Occluder:
        pass

    occluder = Occluder()
    occluder.masks, occluder.shape = masks, shape
    occluder.centres = np.array([[20.0, 20.0], [25.0, 20.0]])
    texture = np.random.default_rng(0).integers(0, 255, (9, 11, 3), dtype=np.uint8)
    first, second = (colour(occluder, frame, texture) for frame in (0, 1))
    assert (np.roll(first, 5, axis=1) == second).all()
    assert (first[..., 3] == np.where(masks[0], 255, 0)).all()


def test_renderings():
    clean = np.full((4, 4, 3), 10, dtype=np.uint8)
    hidden, occluder = np.zeros((4, 4), dtype=bool), np.zeros((4, 4, 4), dtype=np.uint8)
    hidden[1, 1] = True
    occluder[1, 1:3] = (1, 2, 3, 255)
    hole = render(clean, hidden=hidden, occluder=None, rendering="hole")
    assert hole[1, 1].tolist() == [128] * 3
    assert (hole != clean).any(axis=2).sum() == 1
    composite = render(clean, hidden=hidden, occluder=occluder, rendering="composite")
    assert composite[1, 1:3].tolist() == [[1, 2, 3]] * 2
    assert (composite != clean).any(axis=2).sum() == 2
