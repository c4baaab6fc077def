import pyarrow as pa
import pytest

from pipeline.stages.parcels import PARCELS, pack, unpack

TABLE = pa.table({"id": [1, 2, 3], "data": pa.array([b"x" * 1000, None, b""], pa.binary())})


@pytest.mark.parametrize("table", [TABLE, TABLE.slice(1, 1), TABLE.slice(0, 0)])
def test_a_parcel_is_one_row_and_gives_back_what_was_packed(table: pa.Table) -> None:
    parcel = pack(table)
    parcel.validate(full=True)
    assert parcel.schema == PARCELS
    assert len(parcel) == 1
    assert unpack(parcel).equals(table)


def test_several_parcels_are_unpacked_in_order_also_where_they_were_cut_and_joined() -> None:
    joined = pa.concat_tables([pack(TABLE.slice(n, 1)) for n in range(3)]).combine_chunks()
    assert unpack(joined).equals(TABLE)
    assert unpack(joined.slice(1)).equals(TABLE.slice(1))


def test_what_is_no_parcel_is_left_as_it_is() -> None:
    assert unpack(TABLE) is TABLE
