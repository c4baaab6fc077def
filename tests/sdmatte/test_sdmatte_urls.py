"""What may be shown of a URL."""

from typing import Any

import pytest

from sdmatte.urls import redact


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
