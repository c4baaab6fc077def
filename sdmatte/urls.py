"""URLs as they may be shown: without the credentials that they carry."""

from __future__ import annotations

import re
from typing import Any, overload

# User and password in a URL, also where the password holds an @ or a slash; `host:8080/` is no user.
_USER = re.compile(r"\b([a-zA-Z][\w+.-]*)://([^\s/]*@|[^\s/@:]*:(?!\d*/)[^\s@]*@)")
# On the web a question mark starts the query. Elsewhere one without name=value is a wildcard: s3://bucket/shard-?.tar
_QUERY = re.compile(r"(\bhttps?://[^\s?#]*)\?\S*|(://[^\s?#]*)\?[^\s?#]*=\S*")


@overload
def redact(value: str) -> str: ...
@overload
def redact(value: Any) -> Any: ...
def redact(value: Any) -> Any:
    """Return a copy of JSON-plain data in which no URL carries user, password or query.

    Presigned URLs carry their signature in the query. Text around a URL stays, so that messages can be redacted too;
    so does what stands before the @ in Azure's `abfs://container@account...`, which is no user.

    >>> redact({"path": ["https://me:secret@host/a.jsonl?sig=abc", "s3://bucket/shard-?.tar"]})
    {'path': ['https://host/a.jsonl', 's3://bucket/shard-?.tar']}
    """
    match value:
        case str():
            return _QUERY.sub(r"\1\2", _USER.sub(_without_user, value))
        case dict():
            return {key: redact(part) for key, part in value.items()}
        case list() | tuple():
            return [redact(part) for part in value]
        case _:
            return value


def _without_user(match: re.Match[str]) -> str:
    scheme, user = match.groups()
    if scheme.startswith(("abfs", "wasb")) and ":" not in user:
        return match.group()
    return f"{scheme}://"
