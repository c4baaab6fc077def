"""What may be shown of a URL."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdmatte.urls import public_links, public_url, redact


@pytest.mark.parametrize(
    ("secret", "public"),
    [
        ("https://me:pass@host/a.jsonl", "https://host/a.jsonl"),
        ("https://token@host/a.jsonl", "https://host/a.jsonl"),
        ("https://me:p@ss@host/a.jsonl", "https://host/a.jsonl"),
        ("https://me:pa/ss@host/a.jsonl", "https://host/a.jsonl"),
        ("https://host/a.jsonl?X-Amz-Signature=abc&X-Amz-Date=1", "https://host/a.jsonl"),
        ("simplecache::s3://key:secret@bucket/a?versionId=3", "simplecache::s3://bucket/a"),
        ("abfs://container:key@account/a?sig=abc", "abfs://account/a"),
        ("https://host/m.safetensors?token", "https://host/m.safetensors"),
        ("HTTPS://u:p@h/x?SECRET", "HTTPS://h/x"),
        ("no HTTP://h/a?SECRET here", "no HTTP://h/a here"),
        ("no https://h/a#b?sig=SECRET here", "no https://h/a#b here"),
        (["https://h/my photo.jpg?SECRET", "see https://h/a?b c"], ["https://h/my photo.jpg", "see https://h/a c"]),
        ("<https://h/a?sig=b> and http://me:p@h:80/c", "<https://h/a and http://h:80/c"),
        ("can't read s3://k:s@bucket/a: denied", "can't read s3://bucket/a: denied"),
        (["s3://k:s@bucket", {"path": "s3://k:s@bucket"}, 1, None], ["s3://bucket", {"path": "s3://bucket"}, 1, None]),
    ],
)
def test_credentials_are_taken_out(secret: Any, public: Any) -> None:
    assert redact(secret) == public


@pytest.mark.parametrize(
    "plain",
    [
        "s3://bucket/shard-?.tar",
        "s3://bucket/shard-0000?/*.tar",
        "s3://bucket/me@work/a=1/b.tar",
        "http://host:8080/a@b.jpg",
        "abfs://container@account.dfs.core.windows.net/a.tar",
        "/data/what?/x=1.tar",
        "me@host",
        "file:///data/a.tar",
    ],
)
def test_other_text_stays(plain: str) -> None:
    assert redact(plain) == plain


@pytest.mark.parametrize(
    ("secret", "public"),
    [
        ("https://h/my photo.jpg?X-Amz-Signature=SECRET", "https://h/my photo.jpg"),
        ("https://h/a.jpg?note=two words&sig=SECRET", "https://h/a.jpg"),
        ("https://h/a\nb.jpg?SECRET", "https://h/a\nb.jpg"),
        ("HTTPS://u:p@h/x?SECRET", "HTTPS://h/x"),
        (" Https://u:SECRET WORD@h/x?SECRET", " Https://h/x"),
        ("https://h/a.jpg#frag?sig=SECRET", "https://h/a.jpg"),
        ("https://h/a.jpg#SECRET", "https://h/a.jpg"),
        ("https://me:pa?SECRET@h/a.jpg", "https://h/a.jpg"),
        ("https://me:pa/SEC@RET@h/a.jpg", "https://h/a.jpg"),
        ("https://h?sig=SEC@SECRET", "https://h"),
        ("https://h:8080?sig=SEC@SECRET", "https://h:8080"),
        ("simplecache::https://u:p@h/my photo.jpg?SECRET", "simplecache::https://h/my photo.jpg"),
        ("zip://my a.jpg::HTTPS://h/b c.zip?SECRET", "zip://my a.jpg::HTTPS://h/b c.zip"),
        ("https://h/a?x::s3://SECRET/b", "https://h/a"),
        ("https://h/a?x=https://i/SECRET", "https://h/a"),
        ("abfs://box@account/my photo.jpg?sig=SECRET", "abfs://box@account/my photo.jpg"),
        ("s3://me:SECRET@bucket/my photo.jpg?versionId=3", "s3://bucket/my photo.jpg"),
        ("input.path=https://h/my photo.jpg?SECRET", "input.path=https://h/my photo.jpg"),
    ],
)
def test_a_whole_url_is_cut_whatever_characters_it_holds(secret: str, public: str) -> None:
    assert public_url(secret) == public
    assert public_url(public) == public


@pytest.mark.parametrize(
    "plain",
    [
        "https://host/a.jpg",
        "http://host:8080/a@b.jpg",
        "http://[::1]:8080/a.jpg",
        "https://host/my photo (1)%20é.jpg",
        "https://host/a::b/c.jpg",
        "s3://bucket/shard-?.tar",
        "s3://bucket/a b#1.jpg",
        "s3://bucket/me@work/a=1/b.tar",
        "abfs://container@account.dfs.core.windows.net/a.tar",
        "/data/what?/x=1 y#2.tar",
        "a.jpg?b",
    ],
)
def test_urls_without_secrets_stay(plain: str) -> None:
    assert public_url(plain) == plain == redact(plain)


@given(
    st.from_regex(r"(https?|s3|gs)://([a-z]{1,5}(:[a-z@/]{0,5})?@)?[a-z.]{1,9}/[a-z0-9=/%._~-]{0,20}", fullmatch=True)
)
def test_of_urls_without_white_space_and_fragment_both_leave_the_same(url: str) -> None:
    for query in ("", "?versionId=3", "?a=b&c=d"):
        assert public_url(url + query) == redact(url + query)


def test_links_of_a_chain_and_what_is_public_of_each() -> None:
    assert public_links("zip://a::s3://k:s@b/c") == [("zip://a", "zip://a"), ("s3://k:s@b/c", "s3://b/c")]
    assert public_links("https://h/a?b::s3://c") == [("https://h/a?b::s3://c", "https://h/a")]
