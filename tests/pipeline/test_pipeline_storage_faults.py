"""Faults of real servers and of URLs, sorted by kind, and what their messages must not hold."""

import http.server
import socket
import threading
from urllib.parse import quote

import pytest

from pipeline import storage, storage_faults
from pipeline.config import LabelConfig
from pipeline.errors import ConfigurationError, TransientError
from pipeline.storage import NotFoundError, RefusedError
from pipeline.storage_faults import check_url, translated

SECRET = "wJalrXUt/nFEMI+K7MDENGbPxRfiCY"  # made up
READERS = (
    storage.read_bytes,
    storage.file_info,
    storage.open_stream,
    lambda uri, **options: storage.read_beginning(uri, 9, **options),
)


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr(storage_faults, "_sleep", lambda seconds: None)


class Answering(http.server.BaseHTTPRequestHandler):
    """Answers `/<status>/...` with that status; redirects lead to themselves."""

    def do_GET(self):
        status = int(self.path.split("/")[1])
        self.send_response(status)
        if status == 302:
            self.send_header("Location", self.path)
        body = b"the image" if status == 200 else b""
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    do_HEAD = do_GET  # noqa: N815 - the name that http.server looks for

    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def server():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answering)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def closed_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        yield listener.getsockname()[1]  # bound, but nobody listens


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize(
    ("status", "kind"),
    [
        *((status, NotFoundError) for status in (404, 410)),
        *((status, RefusedError) for status in (302, 400, 401, 403, 451)),  # 302: a redirect in circles
        *((status, TransientError) for status in (408, 429, 500, 502, 503, 504)),
    ],
)
def test_answers_of_web_servers(server, read, status, kind):
    with pytest.raises(kind) as caught:
        read(f"http://user:{quote(SECRET, '')}@{server}/{status}/a.jpg?sig=s3cr3t-signature", retries=1)
    assert type(caught.value) is kind
    assert f"http://{server}/{status}/a.jpg" in str(caught.value)
    for secret in (SECRET, quote(SECRET, ""), "s3cr3t"):
        assert secret not in str(caught.value)


def test_web_servers_that_work(server):
    assert storage.read_bytes(f"http://{server}/200/a.jpg") == b"the image"
    assert storage.file_info(f"http://{server}/200/a.jpg").size == 9


@pytest.mark.parametrize("read", READERS)
def test_servers_that_do_not_answer_are_transient(read, closed_port):
    with pytest.raises(TransientError, match=str(closed_port)):
        read(f"http://127.0.0.1:{closed_port}/a.jpg", retries=1)
    with pytest.raises(TransientError, match="no-such-host"):
        read("http://no-such-host.invalid/a.jpg", retries=0)


@pytest.mark.parametrize(
    "url",
    ["s3://", "s3:///key", "gs://", "https://", "http:///a", "http://[::1", "http://host:99999/a", "http://a b/c"],
)
def test_urls_that_are_none(url):
    for read in READERS:
        with pytest.raises(RefusedError, match="not a usable URL"):
            read(url)


def test_urls_and_paths_that_pass():
    for uri in ("/data/a@b:c.jpg", "s3://bucket/a:b@c.jpg", "s3://arn:aws:s3:us-west-2:1:accesspoint/x/key", "data"):
        check_url(uri)
    for uri in ("abfs://box@account.dfs.core.windows.net/a", "https://me:pw@host:80/a", "memory://", "hf://a/b@c/d"):
        check_url(uri)


def test_links_in_circles_are_not_the_networks_fault(tmp_path):
    (tmp_path / "a.jpg").symlink_to("b.jpg")
    (tmp_path / "b.jpg").symlink_to("a.jpg")
    for read in READERS:
        with pytest.raises(RefusedError):
            read(f"{tmp_path}/a.jpg", retries=0)


@pytest.mark.parametrize("scheme", ["gs", "az"])
def test_missing_packages_are_named(scheme):
    package = {"gs": "gcsfs", "az": "adlfs"}[scheme]
    with pytest.raises(RefusedError, match=package):
        storage.read_bytes(f"{scheme}://bucket/a.jpg")


def test_hub_files_without_network_are_transient(monkeypatch):
    import httpx2
    from huggingface_hub import HfFileSystem

    def no_network(self, *args, **kwargs):
        raise httpx2.ConnectError("[Errno -2] Name or service not known")

    monkeypatch.setattr(HfFileSystem, "info", no_network)
    with pytest.raises(TransientError, match="Name or service"):
        storage.file_info("hf://datasets/a/b/c.jpg", retries=0)


# --- credentials -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("url", [f"s3://AKIAKEY:{SECRET}@bucket/x", f"gs://token:{SECRET}@bucket/x", "s3://key@b/x"])
def test_keys_in_the_urls_of_buckets_are_refused(url):
    for read in READERS:
        with pytest.raises(RefusedError, match="environment") as caught:
            read(url)
        assert SECRET not in str(caught.value)
        assert "AKIAKEY" not in str(caught.value)


@pytest.mark.parametrize("key", ["input", "output", "prompts"])
def test_keys_in_configured_urls_are_refused_before_anything_starts(key):
    tree = {
        "input": {"kind": "folder", "path": "x"},
        "prompts": {"kind": "jsonl", "path": "x"},
        "model": {"source": "untrained:sdmatte-mini"},
        "output": {"path": "x"},
    }
    tree[key]["path"] = f"s3://AKIAKEY:{SECRET}@bucket/x"
    with pytest.raises(ConfigurationError, match=rf"^{key}\.path: s3://bucket/x") as caught:
        LabelConfig.model_validate(tree)
    assert SECRET not in str(caught.value)


def test_secrets_are_cut_out_however_they_are_quoted():
    uri = f"https://me:{quote(SECRET, '')}@host/a.jpg?sig={quote(SECRET, '')}&part=abcdefgh"
    quoted = f'bad name "me:{SECRET}@host", {SECRET}, part abcdefgh, me:{quote(SECRET, "")}'
    message = str(translated(ValueError(quoted), "can't read", uri))
    assert "host" in message
    for secret in (SECRET, quote(SECRET, ""), "abcdefgh"):
        assert secret not in message


@pytest.mark.parametrize(
    "uri",
    ["https://h/my photo.jpg?X-Sig={}", "HTTPS://u:p@h/x?{}", "https://h/a.jpg#frag?sig={}", "https://h/a?b::{}"],
)
def test_secrets_of_unusual_urls_are_cut_out(uri):
    url = uri.format("abcdefghSECRET")
    for quoted in (url, repr(url), url.partition("?")[2], "abcdefghSECRET" if "=" in uri else ""):
        assert "SECRET" not in str(translated(ValueError(quoted), f"can't read {storage.public_uri(url)}", url))
