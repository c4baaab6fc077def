"""What this program asks of a Label Studio server, over its HTTP API; tried with Label Studio 1.23.

The token goes into a header and nowhere else: it is in no URL, no message and no log.
"""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from pipeline.errors import ConfigurationError, TransientError
from sdmatte.urls import redact

if TYPE_CHECKING:
    import requests

_log = logging.getLogger(__name__)

_TIMEOUT = (10, 120)  # seconds to connect, and between two bytes of an answer; an import of 16 MiB takes some
_ATTEMPTS = 6
_LONGEST_WAIT = 30  # seconds between two attempts
_PAGE = 500  # tasks per page, of which two small fields are asked for
_JWT = re.compile(r"[\w-]+\.[\w-]+\.[\w-]+")
_ACCESS_SECONDS = 240  # access tokens live for 5 minutes
_RETRIED = {429, 500, 502, 503, 504}
_SHOWN = 300  # characters of an answer in messages

_HIDDEN = [
    *("tasks:inner_id", "tasks:annotations_results", "tasks:annotations_ids", "tasks:predictions_results"),
    *("tasks:predictions_model_versions", "tasks:predictions_score", "tasks:file_upload", "tasks:storage_filename"),
    *("tasks:created_at", "tasks:updated_at", "tasks:updated_by", "tasks:avg_lead_time", "tasks:draft_exists"),
    *("tasks:data.record_id", "tasks:data.run_id", "tasks:data.output", "tasks:data.image_key", "tasks:data.label"),
    *("tasks:data.width", "tasks:data.height", "tasks:data.has_matte", "tasks:data.predicted_mad"),
]  # columns of the list of tasks that tell reviewers nothing

Pictures = Mapping[str, bytes]


class Client:
    """A connection to one server.

    Args:
        url: Of the server, http or https, with its path if it has one.
        token: A personal access token, or a legacy token, of the user's account page.

    Raises:
        ConfigurationError: The URL or the token can't be used as such.
    """

    def __init__(self, url: str, token: str) -> None:
        import requests

        self.url = checked_url(url)
        self._token = token.strip()
        if not self._token or not self._token.isascii() or not self._token.isprintable() or " " in self._token:
            raise ConfigurationError("the token is empty or holds spaces; copy it from Label Studio's account page")
        self._is_personal = bool(_JWT.fullmatch(self._token))
        self._access = ""
        self._access_until = 0.0
        self._session = requests.Session()

    # --- projects ----------------------------------------------------------------------------------------------------

    def create_project(self, title: str, config: str, model_version: str) -> int:
        """Make a project that shows its tasks by rank, and begins with the predictions of a version.

        A project whose creation is reported as failed may exist nevertheless; it is empty then.
        """
        project = self._call(
            "POST",
            "/api/projects",
            json={
                "title": title[:50] or "Mattes",  # the server's limit
                "label_config": config,
                "model_version": model_version,
                "show_collab_predictions": True,  # an annotation begins as the prediction
                "sampling": "Sequential sampling",  # in the order of import, which is that of the ranks
                "show_instruction": False,
            },
            again=False,
        )
        number = self._object(project).get("id")
        if not isinstance(number, int):
            raise self._unlike()
        # What the data manager shows at first. Without a type as number, 10 would come before 9.
        view = {
            "title": "Worst first",
            "type": "list",
            "target": "tasks",
            "ordering": ["tasks:data.rank"],
            "columnsDisplayType": {"tasks:data.rank": "Number"},
            "hiddenColumns": {"explore": _HIDDEN, "labeling": [*_HIDDEN, "tasks:data.about", "tasks:data.image"]},
            "filters": {"conjunction": "and", "items": []},
        }
        self._call("POST", "/api/dm/views", json={"project": number, "data": view}, again=False)
        return number

    def project(self, number: int) -> dict[str, Any]:
        """Return a project's settings.

        Raises:
            ConfigurationError: There is none of that number, or this user may not see it.
        """
        return self._object(self._call("GET", f"/api/projects/{number}"))

    # --- tasks -------------------------------------------------------------------------------------------------------

    def listed(self, project: int, *fields: str) -> Iterator[dict[str, Any]]:
        """Yield all tasks of a project, with these fields only, by id."""
        page, seen = 1, 0
        while True:
            query = {"project": project, "include": ",".join(("id", *fields)), "page_size": _PAGE, "page": page}
            answer = self._call("GET", "/api/tasks", params=query)
            tasks = answer.get("tasks") if isinstance(answer, dict) else answer
            if not isinstance(tasks, list):
                raise self._unlike()
            yield from tasks
            # A server may have pages smaller than asked for, and refuses a page behind the last.
            seen += len(tasks)
            total = answer.get("total") if isinstance(answer, dict) else None
            if not tasks or (seen >= total if isinstance(total, int) else len(tasks) < _PAGE):
                return
            page += 1

    def task(self, number: int) -> dict[str, Any]:
        """Return a task with its annotations and predictions; URLs as they were imported."""
        return self._object(self._call("GET", f"/api/tasks/{number}", params={"resolve_uri": "false"}))

    def import_tasks(self, project: int, tasks: list[dict[str, Any]]) -> None:
        """Import tasks with their predictions. Not repeated here: it may have worked when it seems to have failed."""
        self._call("POST", f"/api/projects/{project}/import", json=tasks, again=False)

    def users(self) -> dict[int, str]:
        """Return e-mail addresses, or names, of users by their id; none where this user may not see them."""
        try:
            answer = self._call("GET", "/api/users")
        except ConfigurationError:
            return {}
        people = answer if isinstance(answer, list) else []
        return {one["id"]: str(one.get("email") or one.get("username") or one["id"]) for one in people if "id" in one}

    # --- pictures ----------------------------------------------------------------------------------------------------

    def uploads(self, project: int) -> list[str]:
        """Return the paths of the files that were uploaded to a project."""
        answer = self._call("GET", f"/api/projects/{project}/file-uploads", params={"all": "true"})
        return [str(one["file"]) for one in answer if isinstance(one, dict) and one.get("file")]

    def upload(self, project: int, pictures: Pictures) -> None:
        """Upload files, without making tasks of them; uploaded twice they do no harm."""
        files = {name: (name, data, "application/octet-stream") for name, data in pictures.items()}
        self._call("POST", f"/api/projects/{project}/import", params={"commit_to_project": "false"}, files=files)

    # --- requests ----------------------------------------------------------------------------------------------------

    def _call(self, method: str, path: str, *, again: bool = True, **request: Any) -> Any:
        """Send a request, repeat it where that does no harm, and return the JSON of the answer.

        Raises:
            ConfigurationError: The server refuses it.
            TransientError: It can't be reached, or is overloaded.
        """
        attempts = Retrying(
            retry=retry_if_exception_type(TransientError),
            stop=stop_after_attempt(_ATTEMPTS if again else 1),
            wait=wait_random_exponential(max=_LONGEST_WAIT),
            reraise=True,
        )
        return attempts(self._send, method, path, **request)

    def _send(self, method: str, path: str, **request: Any) -> Any:
        import requests

        where = f"{method} {self.url}{path}"
        try:
            answer = self._session.request(
                method,
                self.url + path,
                auth=self._authorise,  # not a plain header: that would be replaced by what a .netrc holds
                timeout=_TIMEOUT,
                allow_redirects=False,
                **request,
            )
        except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError) as error:
            raise TransientError(f"{where}: {self._clean(type(error).__name__, str(error))}; try again") from None
        except requests.RequestException as error:
            raise ConfigurationError(f"{where}: {self._clean(type(error).__name__, str(error))}") from None
        if answer.status_code < 300:
            try:
                return answer.json()
            except ValueError:
                raise ConfigurationError(f"{where} does not answer in JSON; is that Label Studio?") from None
        raise self._fault(where, answer)

    def _fault(self, where: str, answer: requests.Response) -> Exception:
        status = answer.status_code
        if status < 400:
            target = self._clean(answer.headers.get("Location", "elsewhere"))
            return ConfigurationError(f"{where} is redirected to {target}; give that address as the URL")
        text = self._clean(_detail(answer))
        if status in _RETRIED:
            return TransientError(f"{where} failed ({status}: {text}); try again")
        hints = {
            401: "the token is wrong, expired, or of a kind that the organisation has switched off",
            403: "the user of this token may not do that",
            404: "it isn't there: check the URL and the number of the project",
            413: "that is too large for the server: raise its DATA_UPLOAD_MAX_MEMORY_SIZE, or its proxy's limit",
        }
        return ConfigurationError(f"{where} was refused ({status}: {text}); {hints.get(status, 'see the message')}")

    def _object(self, answer: Any) -> dict[str, Any]:
        if not isinstance(answer, dict):
            raise self._unlike()
        return answer

    def _unlike(self) -> ConfigurationError:
        return ConfigurationError(f"{self.url} does not answer as Label Studio does; check the URL")

    def _authorise(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if self._is_personal:
            request.headers["Authorization"] = f"Bearer {self._access_token()}"
        else:
            request.headers["Authorization"] = f"Token {self._token}"
        return request

    def _access_token(self) -> str:
        """Return what a personal access token is exchanged for; it lives for minutes."""
        if time.monotonic() > self._access_until:
            import requests

            answer = requests.post(
                f"{self.url}/api/token/refresh",
                json={"refresh": self._token},
                auth=lambda request: request,  # nothing of a .netrc
                timeout=_TIMEOUT,
                allow_redirects=False,
            )
            if answer.status_code != 200:
                raise self._fault(f"POST {self.url}/api/token/refresh", answer)
            try:
                self._access = str(answer.json()["access"])
            except (ValueError, KeyError, TypeError):
                raise self._unlike() from None
            self._access_until = time.monotonic() + _ACCESS_SECONDS
        return self._access

    def _clean(self, *texts: str) -> str:
        """Return what others wrote, as far as a message may hold it."""
        text = " ".join(" ".join(texts).split())
        for secret in (self._token, self._access):
            text = text.replace(secret, "…") if secret else text
        return redact(text)[:_SHOWN]


def checked_url(url: str) -> str:
    """Return a server's URL without slashes at its end.

    Raises:
        ConfigurationError: It is no http(s) URL, or holds a user, password, query or fragment.
    """
    try:
        parts = urlsplit(url.strip())
        host, _ = parts.hostname, parts.port
    except ValueError:
        host, parts = None, urlsplit("")
    if parts.scheme not in ("http", "https") or not host or any(letter.isspace() for letter in url.strip()):
        raise ConfigurationError(f"{redact(url)!r} is no URL of a server; it must be like https://label.example.org")
    if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
        raise ConfigurationError(
            f"the URL of {host} must hold no user, password, query or fragment; the token is given apart from it"
        )
    if parts.scheme == "http" and host not in ("localhost", "127.0.0.1", "::1"):
        _log.warning("%s is not https: whoever is in between can read the token and the images", host)
    return f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}"


def _detail(answer: requests.Response) -> str:
    """Return the reason of a refusal, as far as there is one for people."""
    try:
        content = answer.json()
    except ValueError:
        return str(answer.reason or "no reason given")
    if not isinstance(content, dict):
        return json.dumps(content)[:_SHOWN]
    parts: Iterable[Any] = (content.get("detail"), content.get("validation_errors"))
    return " ".join(part if isinstance(part, str) else json.dumps(part) for part in parts if part) or str(
        answer.reason
    )
