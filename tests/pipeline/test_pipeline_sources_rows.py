import csv
import gzip
import io
import tracemalloc

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pipeline.errors import BadInputError
from pipeline.sources.rows import COLUMNS, Header, open_text, read_header, read_row, text_rows

NO_HEADER = Header(0, [None] * 3)


def read(data, kind="csv"):
    stream = io.BytesIO(data)
    header, offset, line = read_header(stream, kind)
    assert stream.tell() == offset or header == NO_HEADER
    return list(text_rows(stream, kind, header, line)), header


def values(data, kind="csv"):
    return [(placed.row.key, placed.row.image, placed.row.prompts) for placed in read(data, kind)[0]]


def test_quoting_and_line_ends():
    data = (
        b'\xef\xbb\xbfkey,"image",caption,prompts\r\n'
        b'1,a.jpg,"he said ""hi"",\r\nand left","[{""box"":\r\n[1, 2, 3, 4]}]"\r\n'
        b"\r\n"
        b'"2","b, c.jpg",,\n'
        b'3,"d""e.jpg",x,""'
    )
    assert values(data) == [
        ("1", "a.jpg", '[{"box":\n[1, 2, 3, 4]}]'),
        ("2", "b, c.jpg", None),
        ("3", 'd"e.jpg', None),
    ]
    placed, header = read(data)
    assert header == Header(4, [1, 0, 3])
    assert [row.line for row in placed] == [2, 6, 7]
    assert [data[row.offset : row.offset + 2] for row in placed] == [b"1,", b'"2', b"3,"]


def test_tabs_and_inches():
    assert values(b'image\tprompts\na 5" screen, left.jpg\t[]\n', "tsv") == [
        ('a 5" screen, left.jpg', 'a 5" screen, left.jpg', "[]")
    ]


def test_rows_that_can_not_be_used_cost_no_other():
    data = b'image,key\na.jpg,1\nb.jpg\n"c"c.jpg,3\n,4\n\xff.jpg,5\nd.jpg,6,7\ne.jpg,8\n'
    found = [(placed.line, placed.row.key, placed.row.fault) for placed in read(data)[0]]
    assert [(line, key) for line, key, _ in found] == [
        (2, "1"),
        (3, "line-3"),
        (4, "line-4"),
        (5, "4"),
        (6, "line-6"),
        (7, "line-7"),
        (8, "8"),
    ]
    words = [None, "1 values", "not valid CSV", "names no image", "not UTF-8", "3 values", None]
    for (_, _, fault), word in zip(found, words, strict=True):
        assert fault is None if word is None else word in fault


def test_quotes_that_never_close_are_no_row():
    with pytest.raises(EOFError, match="line 3 are never closed"):
        read(b'image,key\na.jpg,1\n"b.jpg,2\nc.jpg,3\n')


def test_quotes_that_never_close_take_bounded_time_and_memory(monkeypatch):
    monkeypatch.setattr("pipeline.sources.rows.MAX_LINE", 1_000_000)
    data = b'image,key\n"b.jpg,2\n' + b"x.jpg,1\n" * 1_000_000
    tracemalloc.start()
    stream = io.BytesIO(data)
    header, _, line = read_header(stream, "csv")
    first = next(text_rows(stream, "csv", header, line))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert "larger than field limit" in first.row.fault
    assert peak < 60_000_000


@pytest.mark.parametrize(
    "data", [b"path,key\na.jpg,1\n", b"a.jpg;1\n", b"image,image\n", b'"image\n', b"\xff\xfei\0m\0"]
)
def test_headers_without_a_column_for_images(data):
    with pytest.raises((BadInputError, EOFError)):
        read(data)


def test_empty_files_have_no_rows():
    assert values(b"") == []
    assert values(b"\n\n") == []
    assert values(b"image\n") == []
    assert values(b"", "jsonl") == []


TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\0"), max_size=8)


@given(
    st.lists(
        st.tuples(st.text(st.characters(codec="ascii", categories=["L", "P"]), min_size=1), TEXT, TEXT), min_size=1
    ),
    st.sampled_from(["\n", "\r\n"]),
    st.sampled_from(["csv", "tsv"]),
)
@example([("a", "x\ny", '"')], "\r\n", "csv")
def test_what_other_programs_write_is_read_back_from_any_row(rows, end, kind):
    file = io.StringIO()
    writer = csv.writer(file, delimiter="," if kind == "csv" else "\t", lineterminator=end)
    writer.writerow(COLUMNS)
    writer.writerows(rows)
    data = file.getvalue().encode()
    placed, header = read(data, kind)
    assert [(row.row.image, row.row.prompts) for row in placed] == [(image, text or None) for image, _, text in rows]
    for number, row in enumerate(placed):
        stream = io.BytesIO(data)
        stream.seek(row.offset)
        assert list(text_rows(stream, kind, header, row.line)) == placed[number:]


def test_gzipped_files_are_read_from_any_row(tmp_path):
    data = b"".join(b'{"image": "%d.jpg"}\n' % n for n in range(10_000))
    (tmp_path / "m.gz").write_bytes(gzip.compress(data[:5000]) + gzip.compress(data[5000:]))
    with open_text(str(tmp_path / "m.gz"), 0) as stream:
        rows = list(text_rows(stream, "jsonl", None, 1))
    assert len(rows) == 10_000
    with open_text(str(tmp_path / "m.gz"), 0) as stream:
        stream.seek(rows[9000].offset)
        assert next(text_rows(stream, "jsonl", None, 9001)) == rows[9000]


def test_control_characters_become_escapes_in_keys_only():
    row = read_row({"image": "a.jpg", "key": "a\n\x1b[2J"}, "row-1")
    assert row.key == "a\\x0a\\x1b[2J"
    assert read_row({"image": "a\nb.jpg"}, "row-1").image == "a\nb.jpg"
