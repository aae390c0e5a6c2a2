import json

import numpy as np
import pytest

from instseg_d2.data.run_lengths import decode_mask, encode_mask, run_lengths

# Columns 1 and 2, rows 0 to 2 of 4 x 5 px, in every form.
PLANE = np.zeros((4, 5), dtype=bool)
PLANE[:3, 1:3] = True
FORMS = {
    "polygon": [[1.0, 0.0, 3.0, 0.0, 3.0, 3.0, 1.0, 3.0]],
    "polygon array": [np.array([1.0, 0.0, 3.0, 0.0, 3.0, 3.0, 1.0, 3.0])],
    "counts": {"size": [4, 5], "counts": [4, 3, 1, 3, 9]},
    "compressed": encode_mask(PLANE),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_mask(form):
    assert (decode_mask(FORMS[form], 4, 5) == PLANE).all()
    assert run_lengths(FORMS[form], 4, 5)["size"] == [4, 5]


def test_the_encoded_mask_is_json_and_an_empty_one_is_none_set():
    assert json.loads(json.dumps(encode_mask(PLANE))) == encode_mask(PLANE)
    assert not decode_mask([], 4, 5).any()
    assert not decode_mask(encode_mask(np.zeros((4, 5), dtype=bool)), 4, 5).any()


def test_another_size_is_refused():
    with pytest.raises(ValueError, match=r"\[4, 5\], the image \[5, 4\]"):
        run_lengths(FORMS["counts"], 5, 4)
