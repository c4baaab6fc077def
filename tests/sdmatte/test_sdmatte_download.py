"""Models from the hub, through huggingface's own client, and from other URLs."""

import hashlib
import http.server
import importlib
import json
import shutil
import socket
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fsspec
import huggingface_hub
import pytest
import torch
from fsspec.implementations.memory import MemoryFileSystem
from huggingface_hub import constants
from safetensors.torch import save_file

from sdmatte.configs import ModelConfigs
from sdmatte.download import cache_folder, fetch_url
from sdmatte.errors import CheckpointError
from sdmatte.locate import locate

FIXTURES = Path(__file__).parents[1] / "fixtures"
COMMIT = "1" * 40


def make_model(folder: Path, *weights: str, configs: bool = True) -> Path:
    if configs:
        shutil.copytree(FIXTURES / "sdmatte_tiny", folder, ignore=shutil.ignore_patterns("expected.safetensors"))
    folder.mkdir(parents=True, exist_ok=True)
    for name in weights:
        save_file({"unet.conv_in.bias": torch.full((2,), float(len(name)))}, folder / name)
    return folder


# The hub, from the cache


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of huggingface's, for a client that may not use the network."""
    cache = tmp_path / "hub"
    cache.mkdir()
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return cache


def go_online(monkeypatch: pytest.MonkeyPatch, port: int) -> None:
    """Let huggingface's client use the network, with this port in the place of the hub."""
    endpoint = f"http://127.0.0.1:{port}"
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    )


def cached_repository(cache: Path, repository: str, *weights: str, configs: bool = True) -> Path:
    """Lay out a downloaded repository as huggingface's client does: blobs, and a snapshot of links to them."""
    root = cache / f"models--{repository.replace('/', '--')}"
    snapshot = make_model(root / "snapshots" / COMMIT, *weights, configs=configs)
    for path in [path for path in snapshot.rglob("*") if path.is_file()]:
        blob = root / "blobs" / hashlib.sha256(path.read_bytes()).hexdigest()
        blob.parent.mkdir(exist_ok=True)
        path.replace(blob)
        path.symlink_to(blob)
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text(COMMIT)
    return snapshot


def test_hub_repository_from_the_cache(hub_cache: Path) -> None:
    snapshot = cached_repository(hub_cache, "LongfeiHuang/SDMatte", "SDMatte.pth", "SDMatte_plus.pth")
    files = locate("LongfeiHuang/SDMatte")
    assert files.weights == snapshot / "SDMatte.pth"
    assert files.name == "SDMatte"
    assert files.configs.same_model(ModelConfigs.from_folder(FIXTURES / "sdmatte_tiny"))
    assert files.tokenizer == snapshot / "tokenizer"
    plus = locate("LongfeiHuang/SDMatte", weights="SDMatte_plus")
    assert (plus.weights.name, plus.prompt_kinds) == ("SDMatte_plus.pth", ("box",))
    assert locate("LongfeiHuang/SDMatte", revision=COMMIT) == files


def test_hub_repository_of_weights_alone(hub_cache: Path) -> None:
    snapshot = cached_repository(
        hub_cache, "1038lab/SDMatte", "SDMatte.safetensors", "SDMatte_plus.safetensors", configs=False
    )
    files = locate("1038lab/SDMatte")
    assert files.weights == snapshot / "SDMatte.safetensors"
    assert files.configs == ModelConfigs.released("sdmatte")


def test_local_folder_wins_over_the_hub(hub_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cached_repository(hub_cache, "me/model", "model.safetensors")
    make_model(tmp_path / "me" / "model", "model.safetensors")
    monkeypatch.chdir(tmp_path)
    assert locate("me/model").weights == Path("me/model/model.safetensors")


def test_another_cached_file_is_not_taken_for_the_default(hub_cache: Path) -> None:
    cached_repository(hub_cache, "LongfeiHuang/SDMatte", "SDMatte_plus.pth")
    with pytest.raises(CheckpointError, match=r"cached copy of .* of another name only: SDMatte_plus.pth"):
        locate("LongfeiHuang/SDMatte")


def test_neither_folder_nor_cached(hub_cache: Path) -> None:
    with pytest.raises(CheckpointError) as caught:
        locate("LongfeiHuang/SDMate")
    message = str(caught.value)
    assert "'LongfeiHuang/SDMate' is not a folder here, and as a hub repository it is not in the cache" in message
    assert "hf download LongfeiHuang/SDMate" in message
    assert "HF_HUB_OFFLINE" in message


def test_uncached_revision(hub_cache: Path) -> None:
    cached_repository(hub_cache, "me/model", "model.safetensors")
    with pytest.raises(CheckpointError, match="not in the cache at revision 'v2'"):
        locate("me/model", revision="v2")


def test_unreachable_hub_falls_back_to_the_cache(
    hub_cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound and not listening: connections are refused
        go_online(monkeypatch, unused.getsockname()[1])
        pauses: list[float] = []
        monkeypatch.setattr(time, "sleep", pauses.append)
        snapshot = cached_repository(hub_cache, "me/model", "model.safetensors")
        assert locate("me/model").weights == snapshot / "model.safetensors"
        assert "the hub can't be reached" in caplog.text
        assert "HF_HUB_OFFLINE=1" in caplog.text
        assert sum(pauses) <= 2  # the client's own retries would take half a minute
        with pytest.raises(CheckpointError, match=r"the hub can't be reached .* HF_HUB_OFFLINE=1"):
            locate("me/other")


@pytest.mark.parametrize("name", ["-owner/name", "owner/name--x", "a/b."])
def test_invalid_hub_id(hub_cache: Path, name: str) -> None:
    with pytest.raises(CheckpointError, match=r"there is no file or folder|neither a folder here nor a repository"):
        locate(name)


# The hub, through a small server that speaks its protocol


class Hub(http.server.ThreadingHTTPServer):
    """One repository, `me/model`; and others that are gated or missing."""

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), HubHandler)
        self.folder = folder
        self.downloaded: list[str] = []
        self.hiccups = 0


class HubHandler(http.server.BaseHTTPRequestHandler):
    """The few requests that the client makes."""

    server: Hub

    def log_message(self, *args: object) -> None:
        """Keep quiet."""

    def do_HEAD(self) -> None:
        self.respond(body=False)

    def do_GET(self) -> None:
        self.respond(body=True)

    def respond(self, body: bool) -> None:
        path = self.path.partition("?")[0]
        if self.server.hiccups:
            self.server.hiccups -= 1
            return self.fail(503, "Busy")
        if "me/gated" in path:
            return self.fail(403, "GatedRepo")
        if "me/model" not in path:
            return self.fail(404, "RepoNotFound")
        if "v2" in path:
            return self.fail(404, "RevisionNotFound")
        files = sorted(path for path in self.server.folder.rglob("*") if path.is_file())
        names = [path.relative_to(self.server.folder).as_posix() for path in files]
        if "/tree/" in path:
            entries = [
                {"type": "file", "path": name, "size": file.stat().st_size, "oid": self.etag(file)}
                for name, file in zip(names, files, strict=True)
            ]
            return self.send(json.dumps(entries).encode(), body)
        if path.startswith("/api/models/"):
            siblings = [{"rfilename": name} for name in names]
            return self.send(json.dumps({"id": "me/model", "sha": COMMIT, "siblings": siblings}).encode(), body)
        name = path.split("/", 5)[5]  # /me/model/resolve/<revision>/<name>
        if body:
            self.server.downloaded.append(name)
        file = self.server.folder / name
        return self.send(file.read_bytes(), body, {"ETag": f'"{self.etag(file)}"', "X-Repo-Commit": COMMIT})

    @staticmethod
    def etag(file: Path) -> str:
        return hashlib.sha1(file.read_bytes()).hexdigest()

    def send(self, content: bytes, body: bool, headers: dict[str, str] | None = None) -> None:
        self.send_response(200)
        for key, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        if body:
            self.wfile.write(content)

    def fail(self, status: int, code: str) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()


@pytest.fixture
def hub(hub_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """The server, for a client that may use the network."""
    server = Hub(make_model(tmp_path / "repository", "model.safetensors", "model_plus.pth"))
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    go_online(monkeypatch, server.server_port)
    yield server
    server.shutdown()
    server.server_close()


def test_only_what_is_needed_is_downloaded(hub: Hub, hub_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = locate("me/model")
    assert files.weights.read_bytes() == (hub.folder / "model.safetensors").read_bytes()
    assert files.configs.same_model(ModelConfigs.from_folder(hub.folder))
    assert hub.downloaded[-1] == "model.safetensors"
    assert "model_plus.pth" not in hub.downloaded
    assert "state_dict_shapes.json" not in hub.downloaded
    assert {"unet/config.json", "vae/config.json", "text_encoder/config.json", "tokenizer/vocab.json"} < set(
        hub.downloaded
    )

    hub.downloaded.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert locate("me/model") == files
    assert hub.downloaded == []


def test_a_hiccup_of_the_hub_is_survived(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "sleep", lambda _: None)
    hub.hiccups = 1
    assert locate("me/model").weights.name == "model.safetensors"


def test_a_failed_download_does_not_show_its_signed_url(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> str:
        raise OSError("403 Forbidden for url 'https://cdn-lfs.hf.co/me/blob?Signature=SECRET&Expires=1'")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fail)
    with pytest.raises(CheckpointError, match=r"403 Forbidden for url 'https://cdn-lfs.hf.co/me/blob") as caught:
        locate("me/model")
    assert "SECRET" not in printed(caught.value)


def test_gated_repository(hub: Hub) -> None:
    with pytest.raises(
        CheckpointError, match=r"me/gated is gated: accept its terms on https://huggingface.co/me/gated"
    ):
        locate("me/gated")


def test_missing_repository_names_both_possibilities(hub: Hub) -> None:
    with pytest.raises(CheckpointError, match="'me/mode' is neither a folder here nor a repository on the hub"):
        locate("me/mode")


def test_missing_revision(hub: Hub) -> None:
    with pytest.raises(CheckpointError, match="me/model has no revision 'v2'"):
        locate("me/model", revision="v2")


# Other URLs


@pytest.fixture
def bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[MemoryFileSystem]:
    """A remote folder `memory://bucket/MyMatte` with a model, and an empty cache."""
    monkeypatch.setenv("SDMATTE_CACHE", str(tmp_path / "cache"))
    filesystem = fsspec.filesystem("memory")
    model = make_model(tmp_path / "MyMatte", "MyMatte.safetensors", "MyMatte_plus.safetensors")
    filesystem.put(str(model), "/bucket/MyMatte", recursive=True)
    yield filesystem
    filesystem.rm("/bucket", recursive=True)


def copies(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Record what is copied from the bucket from now on."""
    copied: list[str] = []
    original = MemoryFileSystem.get_file

    def get_file(self: MemoryFileSystem, rpath: str, lpath: str, **options: object) -> None:
        copied.append(rpath)
        original(self, rpath, lpath, **options)

    monkeypatch.setattr(MemoryFileSystem, "get_file", get_file)
    return copied


def test_remote_folder_is_copied_once(
    bucket: MemoryFileSystem, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    copied = copies(monkeypatch)
    files = locate("memory://bucket/MyMatte/")
    assert files.name == "MyMatte"
    assert files.weights.read_bytes() == (tmp_path / "MyMatte" / "MyMatte.safetensors").read_bytes()
    assert files.weights.is_relative_to(cache_folder())
    assert files.configs.same_model(ModelConfigs.from_folder(tmp_path / "MyMatte"))
    assert files.tokenizer is not None
    assert (files.tokenizer / "merges.txt").exists()
    assert len(copied) == 8  # the weights, three configurations, four files of the tokenizer
    copied.clear()
    assert locate("memory://bucket/MyMatte") == files
    assert copied == []


def test_changed_weights_are_copied_again(bucket: MemoryFileSystem, tmp_path: Path) -> None:
    before = locate("memory://bucket/MyMatte")
    bucket.pipe_file("/bucket/MyMatte/MyMatte.safetensors", b"changed")
    after = locate("memory://bucket/MyMatte")
    assert after.weights.read_bytes() == b"changed"
    assert before.weights.exists()
    assert before.weights != after.weights


def test_remote_file_and_choice(bucket: MemoryFileSystem) -> None:
    by_name = locate("memory://bucket/MyMatte", weights="MyMatte_plus")
    by_url = locate("memory://bucket/MyMatte/MyMatte_plus.safetensors")
    assert by_name.prompt_kinds == by_url.prompt_kinds == ("box",)
    assert by_url.weights.read_bytes() == by_name.weights.read_bytes()
    assert by_url.folder is not None


def test_processes_wait_for_one_copy(bucket: MemoryFileSystem, monkeypatch: pytest.MonkeyPatch) -> None:
    copied = copies(monkeypatch)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(locate, ["memory://bucket/MyMatte"] * 4))
    assert len({files.weights for files in found}) == 1
    assert len(copied) == 8


def test_interrupted_copy_is_not_used(bucket: MemoryFileSystem, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: MemoryFileSystem, rpath: str, lpath: str, **options: object) -> None:
        Path(lpath).write_bytes(b"half")
        raise ConnectionResetError("connection reset")

    with monkeypatch.context() as patch:
        patch.setattr(MemoryFileSystem, "get_file", fail)
        with pytest.raises(CheckpointError, match=r"memory://bucket/MyMatte can't be copied: ConnectionResetError"):
            locate("memory://bucket/MyMatte")
    assert locate("memory://bucket/MyMatte").weights.stat().st_size > 10


def test_short_copy_is_noticed(bucket: MemoryFileSystem, monkeypatch: pytest.MonkeyPatch) -> None:
    def cut(self: MemoryFileSystem, rpath: str, lpath: str, **options: object) -> None:
        Path(lpath).write_bytes(b"short")

    monkeypatch.setattr(MemoryFileSystem, "get_file", cut)
    with pytest.raises(CheckpointError, match=r"bytes, and 5 arrived"):
        locate("memory://bucket/MyMatte")


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("memory://bucket/none", "memory://bucket/none does not exist"),
        ("memory://bucket/MyMatte/none.pth", "none.pth does not exist"),
        ("memory://bucket/MyMatte/unet", "has no weights file at its top"),
        ("nonsense://bucket/x", "nonsense://bucket/x can't be read: fsspec knows no nonsense:// URLs here; check"),
        ("https://huggingface.co/LongfeiHuang/SDMatte", "give the repository as owner/name"),
    ],
)
def test_faulty_urls(bucket: MemoryFileSystem, url: str, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        locate(url)


def printed(error: BaseException) -> str:
    """What a traceback of the error shows, its causes included."""
    return "".join(traceback.format_exception(error, limit=0))


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("memory://user:SECRET@bucket/none/a.pth?X-Amz-Signature=SECRET", "memory://bucket/none/a.pth does not exist"),
        ("memory://user:SECRET@bucket/none", "memory://bucket/none does not exist"),
        ("s3://key:SECRET@bucket/a.pth", "s3://bucket/a.pth can't be copied: "),  # no such bucket name
    ],
)
def test_secrets_of_a_url_are_not_shown(bucket: MemoryFileSystem, url: str, shown: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        fetch_url(url, None)
    assert shown in str(caught.value)
    assert "SECRET" not in printed(caught.value)


@pytest.mark.parametrize("status", [404, 403])
def test_signatures_of_a_web_server_are_not_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    class Refuse(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_error(status)

        def do_GET(self) -> None:
            self.send_error(status)

        def log_message(self, *args: object) -> None:
            """Keep quiet."""

    monkeypatch.setenv("SDMATTE_CACHE", str(tmp_path / "cache"))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Refuse)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    host = f"127.0.0.1:{server.server_port}"
    try:
        with pytest.raises(CheckpointError) as caught:
            locate(f"http://me:SECRET@{host}/m.safetensors?X-Amz-Signature=SECRET%2F&X-Amz-Date=1")
    finally:
        server.shutdown()
        server.server_close()
    assert f"http://{host}/m.safetensors does not exist, or is refused: " in str(caught.value)
    assert f"HTTP status {status}" in str(caught.value)
    assert "SECRET" not in printed(caught.value)


@pytest.mark.parametrize(
    ("url", "module", "cure"),
    [
        ("s3://bucket/model", "s3fs", "pip install 's3fs'"),
        ("https://host/m.safetensors?sig=SECRET", "aiohttp", "pip install 'aiohttp'"),
        ("gs://bucket/model", "gcsfs", "pip install 'gcsfs'"),
        ("abfss://container@account/model", "adlfs", "pip install 'adlfs'"),
        ("sftp://me:SECRET@host/model", "paramiko", 'requires "paramiko" to be installed'),
    ],
)
def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch, url: str, module: str, cure: str) -> None:
    scheme = url.partition(":")[0]
    registry = importlib.import_module("fsspec.registry")  # the attribute of that name is something else
    monkeypatch.delitem(registry._registry, scheme, raising=False)
    monkeypatch.delitem(sys.modules, f"fsspec.implementations.{scheme.removesuffix('s')}", raising=False)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(CheckpointError) as caught:
        fetch_url(url, None)
    assert cure in str(caught.value)
    assert "SECRET" not in printed(caught.value)


def test_s3(s3_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SDMATTE_CACHE", str(tmp_path / "cache"))
    model = make_model(tmp_path / "SDMatte", "SDMatte.safetensors")
    filesystem = fsspec.filesystem("s3")
    filesystem.mkdir("sdmatte-models")
    filesystem.put(str(model), "sdmatte-models/SDMatte", recursive=True)
    files = locate("s3://sdmatte-models/SDMatte")
    assert files.weights.read_bytes() == (model / "SDMatte.safetensors").read_bytes()
    assert locate("s3://sdmatte-models/SDMatte/SDMatte.safetensors").folder is not None
    with pytest.raises(CheckpointError, match="s3://sdmatte-models/other does not exist"):
        locate("s3://sdmatte-models/other")
    with pytest.raises(CheckpointError, match="s3://no-such-bucket/other"):
        locate("s3://no-such-bucket/other")
