"""Label Studio: mattes go there as soft brush masks, worst first, and come back with all their levels.

``export`` writes files, ``push`` brings them to a server, ``pull`` fetches what people did, ``read`` makes reviews of
it; a project's export in the format "JSON" can be read as well. docs/review.md shows the whole way.
"""

from __future__ import annotations

import hashlib
import json
import logging
import random
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from pipeline import storage
from pipeline.errors import BadInputError, ConfigurationError, TransientError
from pipeline.folders import require_empty
from pipeline.ids import show
from pipeline.review.items import ReturnFault, ReviewExport, ReviewItem
from pipeline.review.label_studio_client import Client
from pipeline.review.label_studio_config import CONFIG, MODEL_VERSION, check_config, check_prediction
from pipeline.review.label_studio_read import read
from pipeline.review.label_studio_tasks import FOLDER, Images, task_of
from sdmatte.urls import redact

__all__ = ["Images", "Pushed", "export", "pull", "push", "read"]

_log = logging.getLogger(__name__)

CONFIG_FILE = "config.xml"
MANIFEST_FILE = "manifest.json"
PUSHED_FILE = "pushed.json"

_VERSION = 1
_FILE_BYTES = 16 * 2**20  # of a file of tasks, unless a single task is larger; also what one request carries
_FILE_TASKS = 200
_ROUNDS = 6  # of attempts to import a batch
_LOOKS = 10  # for tasks that a server took: about three minutes
_FIRST_WAIT = 1.0  # seconds between them, at most; doubled each time
_LONGEST_WAIT = 30
_UPLOAD_BYTES = 16 * 2**20
_UPLOAD_FILES = 50  # a server takes 100 per request

Key = tuple[str, str]
"""record_id and run_id, as text."""


@dataclass(frozen=True)
class Pushed:
    """What a server holds now.

    Attributes:
        project: Number of the project.
        url: Where people work on it.
        imported: Tasks that were imported this time.
        present: Tasks that were there already.
    """

    project: int
    url: str
    imported: int
    present: int


# --- export ----------------------------------------------------------------------------------------------------------


def export(items: Iterable[ReviewItem], folder: str, *, images: Images = "files", title: str) -> ReviewExport:
    """Write a project: ``config.xml``, ``tasks-0001.json`` ..., ``images/``, and last ``manifest.json``.

    Args:
        items: The objects, in the order of their ranks.
        folder: New or empty, local or any URL; nothing in it is overwritten.
        images: How pictures reach the browser. `files`: they are written to ``images/``, and :func:`push` uploads them
            to the server; each picture once, whatever the number of its objects. `embed`: they stand in the tasks, so
            that the files can be dragged into Label Studio by hand; for dozens of objects, as every list of tasks
            carries all pictures. `uri`: tasks name the originals (http, s3, gs, azure-blob) and the server is
            connected to that storage; nothing is copied, and formats and EXIF are left to the browser.
        title: Of the project.

    Raises:
        ConfigurationError: The folder holds an export already, can't be written to, or `images` is unknown.
        TransientError: The store failed repeatedly.
    """
    if images not in ("embed", "uri", "files"):
        raise ConfigurationError(f"images={images!r} is not known; choose files, embed or uri")
    writer = _Writer(storage.absolute(folder))
    left_out = []
    for item in items:
        try:
            task, picture = task_of(item, images)
        except BadInputError as error:
            where = f"record {show(item.record['record_id'])} of {redact(item.output)}"
            left_out.append(ReturnFault(where, f"left out ({error.code}): {error}"))
            continue
        if picture is not None:
            writer.picture(picture.name, picture.data)
        writer.task(task)
    writer.finish(title, images)
    return ReviewExport(writer.folder, writer.tasks, tuple(writer.files), tuple(left_out))


class _Writer:
    """Writes an export; the files of tasks are bounded in bytes and number."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.tasks = 0
        self.files: dict[str, str] = {}  # with their hashes
        self._pictures: set[str] = set()
        self._texts: list[str] = []
        self._bytes = 0
        require_empty(folder, "the export")
        self._write(CONFIG_FILE, CONFIG.encode())

    def picture(self, name: str, data: bytes) -> None:
        if name not in self._pictures:
            self._pictures.add(name)
            self._write(name, data)

    def task(self, task: dict[str, Any]) -> None:
        text = json.dumps(task, separators=(",", ":"), allow_nan=False)  # ASCII: a length is a number of bytes
        if self._texts and (self._bytes + len(text) > _FILE_BYTES or len(self._texts) == _FILE_TASKS):
            self._flush()
        self._texts.append(text)
        self._bytes += len(text)
        self.tasks += 1

    def finish(self, title: str, images: Images) -> None:
        self._flush()
        manifest = {
            "version": _VERSION,
            "tool": "label_studio",
            "title": title,
            "images": images,
            "tasks": self.tasks,
            "files": self.files,
        }
        self._write(MANIFEST_FILE, json.dumps(manifest, indent=1).encode())

    def _flush(self) -> None:
        if self._texts:
            name = f"tasks-{len(self.files) + 1:04d}.json"
            data = f"[{','.join(self._texts)}]".encode()
            self._write(name, data)
            self.files[name] = hashlib.sha256(data).hexdigest()
            self._texts, self._bytes = [], 0

    def _write(self, name: str, data: bytes) -> None:
        storage.write_bytes_atomic(storage.join(self.folder, name), data)


# --- push ------------------------------------------------------------------------------------------------------------


def push(folder: str, url: str, token: str, *, project: int | None = None) -> Pushed:
    """Bring an export to a server. Pushing again imports only what is not there yet.

    Which tasks are there is told by record_id and run_id, so an object that was exported twice from the same run is
    one task of a project. Two pushes into one project at the same time are not told from each other.

    Args:
        folder: Written by :func:`export`.
        url: Of the server.
        token: A personal access token or a legacy token; kept nowhere.
        project: Number of a project made by this function; default: the one that this folder was pushed to on that
            server (``pushed.json`` in the folder), else a new one.

    Raises:
        ConfigurationError: The folder is no complete export or was changed, a prediction doesn't fit the
            configuration, or the server refuses.
        TransientError: The server can't be reached or failed repeatedly; push again.
    """
    folder = storage.absolute(folder)
    manifest = _manifest(folder)
    client = Client(url, token)
    number = _project(client, folder, manifest, project)
    present = {key for task in client.listed(number, "meta") if (key := _key(task.get("meta")))}
    imported = already = 0
    uploads: dict[str, str] | None = None
    for name, digest in manifest["files"].items():
        tasks = _tasks(folder, name, digest)
        missing = [task for task in tasks if _key(task["meta"]) not in present]
        already += len(tasks) - len(missing)
        if missing and manifest["images"] == "files":
            uploads = _uploaded(client.uploads(number)) if uploads is None else uploads
            _upload(client, number, folder, missing, uploads)
        if missing:
            _import(client, number, missing, present)
        imported += len(missing)
    return Pushed(number, f"{client.url}/projects/{number}/data", imported, already)


def _manifest(folder: str) -> dict[str, Any]:
    path = storage.join(folder, MANIFEST_FILE)
    try:
        manifest = json.loads(storage.read_bytes(path))
        complete = manifest["version"] == _VERSION and manifest["tool"] == "label_studio"
        complete = complete and isinstance(manifest["files"], dict) and isinstance(manifest["title"], str)
    except storage.NotFoundError:
        raise ConfigurationError(f"{redact(folder)} holds no {MANIFEST_FILE}: the export is not complete") from None
    except (ValueError, KeyError, TypeError):
        complete = False
    if not complete:
        raise ConfigurationError(f"{redact(path)} is none of this program's version; export again")
    return dict(manifest)


def _project(client: Client, folder: str, manifest: dict[str, Any], project: int | None) -> int:
    """Find or make the project, and remember it in the folder."""
    path = storage.join(folder, PUSHED_FILE)
    known: dict[str, Any] = {}
    if storage.exists(path):
        try:
            known = dict(json.loads(storage.read_bytes(path)))
        except (ValueError, TypeError):
            raise ConfigurationError(f"{redact(path)} is damaged; delete it, and give the project's number") from None
    number = project if project is not None else known.get(client.url)
    if number is None:
        number = client.create_project(manifest["title"], CONFIG, MODEL_VERSION)
        storage.write_bytes_atomic(path, json.dumps(known | {client.url: number}).encode())
        return number
    try:
        check_config(client.project(number).get("label_config"))
    except ConfigurationError as error:
        if project is not None:
            raise
        raise ConfigurationError(
            f"{error}. It is the project that {PUSHED_FILE} names for this server: delete that file to make a new one"
        ) from None
    return number


def _tasks(folder: str, name: str, digest: str) -> list[dict[str, Any]]:
    """Read a file of tasks, and check what the server does not."""
    path = storage.join(folder, name)
    data = storage.read_bytes(path)
    if hashlib.sha256(data).hexdigest() != digest:
        raise ConfigurationError(f"{redact(path)} is not as it was exported; export again")
    tasks: list[dict[str, Any]] = json.loads(data)
    for task in tasks:
        size = (task["data"]["width"], task["data"]["height"])
        try:
            check_prediction(task["predictions"][0], None, size)
        except ConfigurationError as error:
            record = show(int(task["data"]["record_id"]))
            raise ConfigurationError(f"{redact(path)}, record {record}: {error}") from None
    return tasks


def _key(meta: Any) -> Key | None:
    if isinstance(meta, dict) and isinstance(meta.get("record_id"), str) and isinstance(meta.get("run_id"), str):
        return meta["record_id"], meta["run_id"]
    return None


def _import(client: Client, project: int, tasks: list[dict[str, Any]], present: set[Key]) -> None:
    """Import tasks, and wait until the server lists them.

    Some servers say yes at once and make the tasks later. So what they took, or began to take, is not sent again.
    After a fault the server is asked first: it may have worked all the same.
    """
    wait = _FIRST_WAIT
    for attempt in range(_ROUNDS):
        try:
            client.import_tasks(project, tasks)
            break
        except TransientError as error:
            if attempt == _ROUNDS - 1:
                raise
            _log.warning("%s", error)
            time.sleep(random.uniform(0, wait))  # noqa: S311 - jitter
            wait = min(2 * wait, _LONGEST_WAIT)
            if len(_unlisted(client, project, tasks, present)) < len(tasks):
                break
    _settle(client, project, tasks, present)


def _settle(client: Client, project: int, tasks: list[dict[str, Any]], present: set[Key]) -> None:
    """Wait until the server lists tasks that it took."""
    wait = 0.0
    for _ in range(_LOOKS):
        time.sleep(wait)
        if not (tasks := _unlisted(client, project, tasks, present)):
            return
        wait = min(max(2 * wait, _FIRST_WAIT), _LONGEST_WAIT)
    raise TransientError(
        f"{client.url} took {len(tasks)} tasks and does not list them yet; push again once it does: those that are "
        "not listed then are sent again"
    )


def _unlisted(client: Client, project: int, tasks: list[dict[str, Any]], present: set[Key]) -> list[dict[str, Any]]:
    """Ask what is there by now; return what isn't."""
    present |= {key for task in client.listed(project, "meta") if (key := _key(task.get("meta")))}
    return [task for task in tasks if _key(task["meta"]) not in present]


def _uploaded(paths: Iterable[str]) -> dict[str, str]:
    """Return uploaded files by the name that they had; the server puts 8 digits and a dash in front."""
    return {path.rpartition("/")[2].partition("-")[2]: path for path in paths}


def _upload(client: Client, project: int, folder: str, tasks: list[dict[str, Any]], known: dict[str, str]) -> None:
    """Upload the pictures of tasks that the server doesn't hold, and let the tasks name what it holds."""
    batch: dict[str, bytes] = {}

    def send() -> None:
        if batch:
            client.upload(project, batch)
            known.update(_uploaded(client.uploads(project)))
            batch.clear()

    for task in tasks:
        name = task["data"]["image"].removeprefix(f"{FOLDER}/")
        if name not in known and name not in batch:
            batch[name] = storage.read_bytes(storage.join(folder, FOLDER, name))
            if len(batch) == _UPLOAD_FILES or sum(map(len, batch.values())) > _UPLOAD_BYTES:
                send()
    send()
    for task in tasks:
        name = task["data"]["image"].removeprefix(f"{FOLDER}/")
        if name not in known:
            raise TransientError(f"{client.url} does not list the picture {name} that was uploaded; push again")
        task["data"]["image"] = f"/data/{known[name]}"


# --- pull ------------------------------------------------------------------------------------------------------------


def pull(url: str, token: str, project: int) -> Iterator[dict[str, Any]]:
    """Fetch the tasks of a project that somebody submitted an annotation for, one at a time.

    Drafts that were never submitted do not count, and are not fetched for their own sake: their strokes are stored as
    paths that only the editor can draw. Predictions come along, as what was shown.

    Args:
        url: Of the server.
        token: As for :func:`push`.
        project: Its number.

    Yields:
        Tasks for :func:`read`, with e-mail addresses in place of user ids.

    Raises:
        ConfigurationError: There is no such project, it was not made for mattes, or the server refuses.
        TransientError: The server can't be reached or failed repeatedly.
    """
    client = Client(url, token)
    check_config(client.project(project).get("label_config"))
    users = client.users()
    for listed in client.listed(project, "total_annotations", "cancelled_annotations"):
        if not listed.get("total_annotations") and not listed.get("cancelled_annotations"):
            continue
        task = client.task(listed["id"])
        for annotation in task.get("annotations") or ():
            by = annotation.get("completed_by") if isinstance(annotation, dict) else None
            if isinstance(by, int):
                annotation["completed_by"] = {"id": by, "email": users.get(by, str(by))}
        yield task
