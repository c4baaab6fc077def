"""URLs as they may be shown: without the credentials that they carry."""

from __future__ import annotations

import re
import string
from typing import Any, overload

# --- in free text: white space ends a URL ----------------------------------------------------------------------------

# User and password in a URL, also where the password holds an @ or a slash; `host:8080/` is no user.
_USER = re.compile(r"\b([a-zA-Z][\w+.-]*)://([^\s/]*@|[^\s/@:]*:(?!\d*/)[^\s@]*@)")
# On the web a question mark starts the query. Elsewhere one without name=value is a wildcard: s3://bucket/shard-?.tar
_QUERY = re.compile(r"(\bhttps?://[^\s?]*)\?\S*|(://[^\s?#]*)\?[^\s?#]*=\S*", re.IGNORECASE)

# --- in a string that is one URL -------------------------------------------------------------------------------------

_WHOLE = re.compile(r"\s*([a-zA-Z][\w+.-]*::)*[a-zA-Z][\w+.-]*://")
_SCHEME = string.ascii_letters + string.digits + "+.-"
_CHAINED = re.compile(r"::(?=[a-zA-Z][\w+.-]*://)")
_WEB_USER = re.compile(r"[^/?#]*@|[^/@:?#\[]*:(?!\d*(?:[/?#]|$))[^@]*@")
_OTHER_USER = re.compile(r"[^/]*@|[^/@:]*:(?!\d*/)[^@]*@")
_OTHER_QUERY = re.compile(r"\?[^?]*=")


@overload
def redact(value: str) -> str: ...
@overload
def redact(value: Any) -> Any: ...
def redact(value: Any) -> Any:
    """Return a copy of JSON-plain data in which no URL carries user, password or query.

    Presigned URLs carry their signature in the query. Text around a URL stays, so that messages can be redacted too;
    so does what stands before the @ in Azure's `abfs://container@account...`, which is no user. White space ends a URL
    in text; strings in mappings and lists that begin with a scheme are one URL each: see :func:`public_url`.

    >>> redact({"path": ["https://me:secret@host/a.jsonl?sig=abc", "s3://bucket/shard-?.tar"]})
    {'path': ['https://host/a.jsonl', 's3://bucket/shard-?.tar']}
    """
    match value:
        case str():
            return _QUERY.sub(r"\1\2", _USER.sub(_without_user, value)) if "://" in value else value
        case dict():
            return {key: _part(part) for key, part in value.items()}
        case list() | tuple():
            return [_part(part) for part in value]
        case _:
            return value


def public_url(reference: str) -> str:
    """Return one path, URL or fsspec chain of URLs without user, password and query, whatever characters it holds.

    On the web all from the first `?` or `#` on is left out. Elsewhere a `?` begins a query if a `=` follows, and is a
    wildcard or part of a name if not.

    >>> public_url("simplecache::https://me:secret@host/my photo.jpg?X-Amz-Signature=abc")
    'simplecache::https://host/my photo.jpg'
    """
    return redact("::".join(public for _, public in public_links(reference)))


def public_links(reference: str) -> list[tuple[str, str]]:
    """Return the URLs that a chain (`simplecache::s3://bucket/key`) consists of, each with its public form.

    Nothing of a chain is left behind the query of a web URL: that could as well be a part of the query.
    """
    links = _CHAINED.split(reference)
    pairs: list[tuple[str, str]] = []
    for number, link in enumerate(links):
        public, ends = _public_link(link)
        if ends:
            return [*pairs, ("::".join(links[number:]), public)]
        pairs.append((link, public))
    return pairs


def _part(value: Any) -> Any:
    return public_url(value) if isinstance(value, str) and _WHOLE.match(value) else redact(value)


def _public_link(link: str) -> tuple[str, bool]:
    """Return the public form of a URL, and whether it is one of the web that has a query or fragment."""
    before, mark, rest = link.partition("://")
    if not mark:
        return link, False
    scheme = before[len(before.rstrip(_SCHEME)) :].lower()
    is_web = scheme in ("http", "https")
    start = 0
    while user := (_WEB_USER if is_web else _OTHER_USER).match(rest, start):
        if _is_container(scheme, user.group()):
            break
        start = user.end()
    rest = rest[start:]
    if is_web:
        public = re.split(r"[?#]", rest, maxsplit=1)[0]
    else:
        first = rest.find("?")
        public = rest[:first] if first >= 0 and _OTHER_QUERY.match(rest, first) else rest
    return f"{before}://{public}", is_web and public != rest


def _without_user(match: re.Match[str]) -> str:
    scheme, user = match.groups()
    return match.group() if _is_container(scheme, user) else f"{scheme}://"


def _is_container(scheme: str, user: str) -> bool:
    """Tell the container in a URL of Azure's from a user."""
    return scheme.lower().startswith(("abfs", "wasb")) and ":" not in user
