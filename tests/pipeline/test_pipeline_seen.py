"""What earlier runs hold."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pipeline.seen import Seen, short

IDS = st.integers(-(2**63), 2**63 - 1)


@given(st.sets(IDS), st.lists(IDS))
def test_records_are_known_exactly_if_they_were_there(there: set[int], asked: list[int]) -> None:
    seen = Seen(np.asarray(sorted(there), np.int64))
    asked += list(there)
    assert seen.knows(asked).tolist() == [each in there for each in asked]


def test_a_digest_is_shortened_to_what_an_int64_holds() -> None:
    assert short("ff" * 32) == -1
    assert short("00" * 7 + "01" + "ff" * 24) == 1
