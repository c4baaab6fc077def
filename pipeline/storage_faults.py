"""Faults of storage sorted into three kinds, transient ones retried; and names of files that are fit to be shown."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

import tenacity

from pipeline.errors import ConfigurationError, PipelineError, TransientError
from pipeline.provenance import redact

_T = TypeVar("_T")
_wait = tenacity.wait_random_exponential(multiplier=0.25, max=20)  # full jitter; unit: second
_sleep = time.sleep


class NotFoundError(PipelineError, FileNotFoundError):
    """There is no such file, object, folder or bucket."""


class RefusedError(ConfigurationError):
    """The store refuses this file or object (no permission, a name it doesn't take); others may work."""


def public_uri(uri: str) -> str:
    """Return a path or URL without user name, password and signed query: as it may appear in messages and records."""
    return str(redact(uri))


_CREDENTIALS = {
    *("AccountProblem", "AuthorizationHeaderMalformed", "ExpiredToken", "InvalidAccessKeyId", "InvalidSecurity"),
    *("InvalidToken", "NotSignedUp", "RequestTimeTooSkewed", "SignatureDoesNotMatch", "TokenRefreshRequired"),
    # exceptions of botocore, google-auth and azure-identity
    *("NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError", "ProfileNotFound", "NoRegionError"),
    *("TokenRetrievalError", "SSOTokenLoadError", "UnauthorizedSSOTokenError", "DefaultCredentialsError"),
    *("RefreshError", "ClientAuthenticationError"),
}
_RETRYABLE_STATUS = {408, 409, 425, 429}
_NETWORK_MODULES = ("aiohttp", "asyncio", "botocore", "aiobotocore", "fsspec", "gcsfs", "google", "azure", "http")


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
            fault = translated(error, f"can't {action} {public_uri(uri)}")
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


def translated(error: Exception, what: str) -> Exception:  # noqa: PLR0911 - one line per kind of fault
    """Return the exception of ours that says what kind of fault this is; the error itself if it is none of storage."""
    codes, status = fault_codes(error)
    text = str(redact(" ".join(str(error).split())))[:300] or type(error).__name__
    message = f"{what}: {text}"
    if isinstance(error, PipelineError):
        return error
    if codes & _CREDENTIALS:
        return ConfigurationError(f"{message}; the credentials are missing, wrong or expired: renew them")
    if isinstance(error, FileNotFoundError | NotADirectoryError | IsADirectoryError) or status in (404, 410):
        return NotFoundError(f"{what}: it is not there, or is a folder")
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
        return ConfigurationError(f"{message}; make room, or choose another place")
    refused = status is not None and 400 <= status < 500 and status not in _RETRYABLE_STATUS
    nameless = isinstance(error, ValueError) or "ParamValidationError" in codes
    if refused or nameless or isinstance(error, PermissionError) or getattr(error, "errno", 0) == errno.ENAMETOOLONG:
        return RefusedError(f"{message}; check the name and the permissions")
    if isinstance(error, OSError | EOFError) or type(error).__module__.split(".")[0] in _NETWORK_MODULES:
        return TransientError(f"{message}; tried repeatedly: check the network and the store, then start again")
    return error


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
        for attribute in ("status", "status_code", "code"):
            value = getattr(link, attribute, None)
            if isinstance(value, int) and 400 <= value < 600:
                status = status or value
    return names, status


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__
