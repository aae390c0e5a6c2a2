import math

import pytest

from instseg_d2.reproduction.verdict import compare


def seeds(*values):
    return dict(enumerate(values))


def test_three_pairs_by_hand():
    """Differences 2, 2.5, 3: mean 2.5, deviation 0.5, standard error 0.5 / sqrt(3) = 0.288675, times t(2) = 4.303."""
    found = compare(seeds(12, 22.5, 33), seeds(10, 20, 30), 1.2)
    assert found.mean == pytest.approx(2.5)
    assert found.half_width == pytest.approx(1.2422, abs=1e-4)
    assert (found.n, found.verdict) == (3, "agrees")


def test_two_standard_errors_do_not_make_a_gain_of_three_seeds():
    """Differences 1, 2, 3: mean 2 is 3.46 standard errors (0.57735), but the interval is 4.303 of them, 2.4843."""
    found = compare(seeds(11, 22, 33), seeds(10, 20, 30), 1)
    assert found.half_width == pytest.approx(2.4843, abs=1e-4)
    assert found.verdict == "within noise"


def test_pairing_removes_what_the_seeds_share():
    """Rows spread by 10 each, their differences by 0.1: 12.706 * 0.141421 / sqrt(2) = 1.2706 around 3.1."""
    found = compare(seeds(13, 23.2), seeds(10, 20), 1)
    assert found.mean == pytest.approx(3.1)
    assert found.half_width == pytest.approx(1.2706, abs=1e-4)
    assert found.verdict == "agrees"


def test_unlike_seeds_are_independent_samples():
    """Variances 1/3 of 1 and 1/2 of 2: error sqrt(1/3 + 1) = 1.154701; the smaller side leaves one degree: 14.6716."""
    found = compare({0: 20, 1: 21, 2: 22}, {7: 10, 8: 12})
    assert found.mean == pytest.approx(10)
    assert found.half_width == pytest.approx(14.6716, abs=1e-4)
    assert (found.n, found.verdict) == (2, "within noise")


@pytest.mark.parametrize(("expected", "verdict"), [(-0.3, "opposite"), (4, "agrees"), (None, "higher"), (0, "higher")])
def test_sign_of_the_paper(expected, verdict):
    assert compare(seeds(5, 5.1, 4.9), seeds(1, 1.1, 0.9), expected).verdict == verdict


def test_lower_where_the_paper_claims_nothing():
    assert compare(seeds(1, 1.1), seeds(5, 5.1)).verdict == "lower"


@pytest.mark.parametrize("few", [{0: 9.0}, {0: 9.0, 1: math.nan}])
def test_one_seed_carries_no_verdict(few):
    found = compare(few, seeds(5, 5, 5), 1)
    assert (found.mean, found.n, found.verdict) == (4, 1, "one seed")
    assert math.isnan(found.half_width)


@pytest.mark.parametrize("sides", [({}, {0: 1.0}), ({0: 1.0}, {}), ({0: math.nan}, {0: 1.0})])
def test_nothing_to_compare(sides):
    assert compare(*sides, 1).verdict == "not run"


def test_equal_rows_differ_by_nothing():
    assert compare(seeds(5, 6), seeds(5, 6), 1).verdict == "within noise"


def test_more_seeds_than_the_quantiles_listed():
    row = {seed: 1 + 0.1 * (-1) ** seed for seed in range(40)}
    found = compare(row, dict.fromkeys(range(40), 0.0))
    assert found.half_width == pytest.approx(2.131 * 0.1 * math.sqrt(40 / 39) / math.sqrt(40))
