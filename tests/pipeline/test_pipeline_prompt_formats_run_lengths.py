import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pycocotools import mask as pycoco

from pipeline.errors import BadInputError
from pipeline.masks import from_run_lengths
from pipeline.prompt_formats.run_lengths import run_length_mask


@given(part=arrays(bool, st.tuples(st.integers(1, 9), st.integers(1, 9))), data=st.data())
def test_a_part_is_written_as_pycocotools_and_the_own_decoder_read_it(part, data):
    left, right, top, bottom = (data.draw(st.integers(0, 40)) for _ in range(4))
    whole = np.pad(part, ((top, bottom), (left, right)))
    height, width = whole.shape
    mask = run_length_mask(part, left, top, width, height)
    assert mask["size"] == [height, width]
    np.testing.assert_array_equal(pycoco.decode(mask).astype(bool), whole)
    assert mask["counts"] == pycoco.encode(np.asfortranarray(whole.astype(np.uint8)))["counts"].decode()
    np.testing.assert_array_equal(from_run_lengths(**mask, check=lambda *_: None), whole)


@pytest.mark.parametrize("place", [(-1, 0), (0, -1), (8, 0), (0, 7)])
def test_a_part_that_leaves_the_whole_is_refused(place):
    with pytest.raises(BadInputError, match="leaves its image of 10 x 8 pixels"):
        run_length_mask(np.ones((2, 3), bool), *place, 10, 8)
