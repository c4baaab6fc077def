"""Faults of storage sorted into three kinds, transient ones retried; and names of files that are fit to be shown."""

from __future__ import annotations

import errno
import re
import time
from collections.abc import Callable, Iterator
from typing import TypeVar
from urllib.parse import parse_qsl, unquote, urlsplit

import tenacity

from pipeline.errors import ConfigurationError, PipelineError, TransientError
from sdmatte.urls import public_links, public_url, redact

_T = TypeVar("_T")
_wait = tenacity.wait_random_exponential(multiplier=4, exp_base=4, max=30)
"""Full jitter, up to 4, 16, 30, 30, 30 s: five retries outlast about a minute (55 s on average) of throttling."""
_sleep = time.sleep


class NotFoundError(PipelineError, FileNotFoundError):
    """There is no such file, object, folder or bucket."""


class RefusedError(ConfigurationError):
    """The store refuses this file or object (no permission, a name it doesn't take); others may work."""


def public_uri(uri: str) -> str:
    """Return a path or URL without user name, password and signed query: as it may appear in messages and records.

    It may hold any characters, or be a chain; for text with URLs in it there is :func:`sdmatte.urls.redact`.
    """
    return public_url(uri)


_CREDENTIALS = {
    *("AccountProblem", "AuthorizationHeaderMalformed", "ExpiredToken", "InvalidAccessKeyId", "InvalidSecurity"),
    *("InvalidToken", "NotSignedUp", "RequestTimeTooSkewed", "SignatureDoesNotMatch", "TokenRefreshRequired"),
    # exceptions of botocore, google-auth and azure-identity
    *("NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError", "ProfileNotFound", "NoRegionError"),
    *("TokenRetrievalError", "SSOTokenLoadError", "UnauthorizedSSOTokenError", "DefaultCredentialsError"),
    *("RefreshError", "ClientAuthenticationError", "LocalTokenNotFoundError"),
}
_RETRYABLE_STATUS = {408, 409, 425, 429}
_RETRYABLE = {  # come with status 400 or 403
    *(
        "RequestTimeout",
        "RequestTimeoutException",
        "SlowDown",
        "Throttling",
        "ThrottlingException",
        "ThrottledException",
    ),
    *("RequestThrottled", "RequestThrottledException", "RequestLimitExceeded", "TooManyRequestsException"),
    *("BandwidthLimitExceeded", "KMS.ThrottlingException"),
}
_NETWORK_MODULES = {
    *("aiohttp", "asyncio", "botocore", "aiobotocore", "fsspec", "gcsfs", "google", "azure", "http"),
    *("httpcore", "httpcore2", "httpx", "httpx2", "huggingface_hub", "requests", "urllib3"),
}
_PERMANENT = {"InvalidURL", "LocalProtocolError", "ParamValidationError", "TooManyRedirects", "UnsupportedProtocol"}
_HOPELESS = {errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL, errno.EILSEQ, errno.ENXIO, errno.ENODEV}
_BUCKET_STORES = {"s3", "s3a", "gs", "gcs"}
_NAMED_PLACES = _BUCKET_STORES | {"az", "abfs", "abfss", "hf", "http", "https"}
_SHORT_SECRET = 4  # characters; shorter parts of a URL are also parts of words


def retried(action: str, uri: str, retries: int, call: Callable[[], _T]) -> _T:
    """Call; raise what it raises as an exception of ours, after retrying what may go away by itself.

    Args:
        action: What is being done, for the message: ``read``.
        uri: To what.
        retries: How often a transient fault is retried, with exponential backoff and full jitter.
        call: Does it; must be safe to repeat.

    Raises:
        TransientError: Still failing after the last retry.
        NotFoundError, RefusedError, ConfigurationError: See :mod:`pipeline.storage`.
    """

    def attempt() -> _T:
        try:
            return call()
        except Exception as error:
            fault = translated(error, f"can't {action} {public_uri(uri)}", uri)
            if fault is error:
                raise
            raise fault from None  # a traceback would print the original message, which may hold a signed URL

    retrying = tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(TransientError),
        stop=tenacity.stop_after_attempt(retries + 1),
        wait=_wait,
        sleep=_sleep,
        reraise=True,
    )
    return retrying(attempt)


def check_url(uri: str) -> None:
    """Refuse URLs that name no place, and keys in the URLs of stores, whose libraries quote them in their messages.

    Raises:
        RefusedError: See above; paths and other URLs pass.
    """
    for link in uri.split("::"):  # simplecache::s3://bucket/key
        scheme, _, rest = link.partition("://")
        place = rest.partition("/")[0]
        if scheme in _BUCKET_STORES and ("@" in place or (":" in place and not place.startswith("arn:"))):
            raise RefusedError(
                f"{public_uri(uri)} was given with a key or password in it, which would end up in logs; take it out, "
                "and give the credentials in the environment (such as AWS_ACCESS_KEY_ID) or in a profile"
            )
        if "://" in link and scheme in _NAMED_PLACES and not _names_a_place(link, place):
            raise RefusedError(f"{public_uri(uri)!r} is not a usable URL: it names no host or bucket")


def _names_a_place(url: str, place: str) -> bool:
    if not url.startswith("http"):
        return bool(place.strip())
    try:
        parts = urlsplit(url)
        return bool(parts.hostname and not re.search(r"\s", parts.netloc) and parts.port != 0)
    except ValueError:  # brackets or a port that are none
        return False


def translated(error: Exception, what: str, uri: str = "") -> Exception:  # noqa: PLR0911 - one line per kind of fault
    """Return the exception of ours that says what kind of fault this is.

    Args:
        error: From fsspec, or from what is behind it.
        what: What failed, for the message.
        uri: What was asked for; its user, password and query will not be in the message, however they were quoted.

    Returns:
        Exceptions of ours, and of memory, as they are. Of unknown kinds a :class:`RefusedError` that names the kind:
        what one file alone brings up must not end a job over millions.
    """
    if isinstance(error, PipelineError | MemoryError):
        return error
    codes, status = fault_codes(error)
    error = _reason(error)
    message = f"{what}: {_public_text(error, uri)}"
    number = error.errno if isinstance(error, OSError) else None
    if codes & _CREDENTIALS:
        return ConfigurationError(f"{message}; the credentials are missing, wrong or expired: renew them")
    if isinstance(error, FileNotFoundError | NotADirectoryError | IsADirectoryError) or status in (404, 410):
        return NotFoundError(f"{what}: it is not there, or is a folder")
    if number in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
        return ConfigurationError(f"{message}; make room, or choose another place")
    again = codes & _RETRYABLE or status in _RETRYABLE_STATUS
    refused = status is not None and 400 <= status < 500
    nameless = isinstance(error, ValueError) or codes & _PERMANENT or number in _HOPELESS
    if not again and (refused or nameless or isinstance(error, PermissionError)):
        return RefusedError(f"{message}; check the name and the permissions")
    if again or status is not None or isinstance(error, OSError | EOFError) or _module(error) in _NETWORK_MODULES:
        return TransientError(f"{message}; tried repeatedly: check the network and the store, then start again")
    kind = f"{type(error).__module__}.{type(error).__qualname__}"
    return RefusedError(f"{message} ({kind}, which is not expected here); check the name and the library behind it")


def _reason(error: Exception) -> Exception:
    """Return what happened: fsspec's http raises FileNotFoundError from anything, be it a 503 or a broken cable."""
    cause = error.__cause__
    telling = isinstance(cause, OSError | ValueError | EOFError) or _module(cause) in _NETWORK_MODULES
    return cause if isinstance(error, FileNotFoundError) and isinstance(cause, Exception) and telling else error


def _module(error: BaseException | None) -> str:
    return type(error).__module__.split(".")[0]


def _public_text(error: Exception, uri: str) -> str:
    text = str(redact(" ".join(str(error).split())))
    for secret in sorted(_secrets(uri), key=len, reverse=True):
        text = text.replace(secret, "***")
    return text[:300] or type(error).__name__


def _secrets(uri: str) -> set[str]:
    """Return what stands before and behind the public part of a URL, and the parts of these: they may be quoted."""
    found: set[str] = set()
    for link, shown in public_links(uri):
        rest, public = link.partition("://")[2], shown.partition("://")[2]
        if not rest or rest == public:
            continue
        user, _, query = rest.partition(public) if public else (rest, "", "")
        user, queries = user.removesuffix("@"), re.split(r"[?#]", query)
        values = (value for each in queries for _, value in parse_qsl(each))
        parts = (user, user.partition(":")[2], query[1:], *queries, *values)
        found |= {form for part in parts for form in (part, unquote(part)) if len(form) >= _SHORT_SECRET}
    return found


def fault_codes(error: BaseException) -> tuple[set[str], int | None]:
    """Return the names and codes that an error and its causes go by, and their HTTP status, if any."""
    names: set[str] = set()
    status: int | None = None
    for link in _chain(error):
        names.add(type(link).__name__)
        response = getattr(link, "response", None)
        if isinstance(response, dict):
            names.add(str(response.get("Error", {}).get("Code")))
            status = status or response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        for holder, attribute in ((link, "status"), (link, "status_code"), (response, "status_code"), (link, "code")):
            value = (
                None
                if status or (attribute == "code" and hasattr(link, "status"))
                else getattr(holder, attribute, None)
            )
            if isinstance(value, int) and 400 <= value < 600:
                status = value
    return names, status


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__
