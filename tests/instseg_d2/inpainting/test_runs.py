import pytest

from instseg_d2.inpainting.errors import InpaintingError
from instseg_d2.inpainting.runs import runs


@pytest.mark.parametrize("count", [0, 1, 4, 7, 8, 9, 30])
@pytest.mark.parametrize(("size", "margin"), [(7, 3), (8, 2), (5, 0), (1, 0)])
def test_every_item_is_taken_once_with_its_margins(count, size, margin):
    taken = []
    for items, wanted in runs(range(count), size=size, margin=margin):
        assert len(items) <= size
        assert items == list(range(items[0], items[-1] + 1))
        taken += [items[index] for index in wanted]
        assert wanted[0] >= margin or items[wanted[0]] == wanted[0]
        assert len(items) - 1 - wanted[-1] >= margin or items[-1] == count - 1
    assert taken == list(range(count))


def test_items_are_drawn_as_they_are_needed():
    drawn = []

    def source():
        for number in range(100):
            drawn.append(number)
            yield number

    next(iter(runs(source(), size=10, margin=2)))
    assert len(drawn) == 11


@pytest.mark.parametrize(("size", "margin"), [(4, 2), (4, -1)])
def test_runs_of_margins_alone(size, margin):
    with pytest.raises(InpaintingError, match="longer than its two margins"):
        next(runs([1], size=size, margin=margin))
