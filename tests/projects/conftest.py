import copy

import pytest

from instseg_d2 import model_zoo


@pytest.fixture(scope="session")
def recipe():
    """From a name to the recipe, as `model_zoo.get_config` gives it; loaded once, which takes most of these tests."""
    loaded = {}

    def load(name):
        if name not in loaded:
            loaded[name] = model_zoo.get_config(name)
        return copy.deepcopy(loaded[name])

    return load
