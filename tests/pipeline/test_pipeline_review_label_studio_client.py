import logging

import pytest

from pipeline.errors import ConfigurationError, TransientError
from pipeline.review import label_studio_client
from pipeline.review.label_studio_client import Client, checked_url
from support.fake_label_studio import REFRESH, TOKEN, FakeLabelStudio


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(label_studio_client, "_LONGEST_WAIT", 0.01)
    with FakeLabelStudio() as running:
        running.projects[1] = {"id": 1}
        yield running


@pytest.mark.parametrize("fault", [429, 500, 502, 503, 504, "lost"])
def test_what_does_no_harm_is_repeated(server: FakeLabelStudio, fault):
    server.faults += [("GET /api/projects/1", fault)] * 3
    assert Client(server.url, TOKEN).project(1) == {"id": 1}


def test_patience_ends(server: FakeLabelStudio):
    server.faults += [("GET /api/projects/1", 503)] * 100
    with pytest.raises(TransientError, match=r"failed \(503: .*\); try again"):
        Client(server.url, TOKEN).project(1)
    assert server.count("GET /api/projects/1") == 6


@pytest.mark.parametrize("fault", [503, "lost"])
def test_imports_are_not_repeated_blindly(server: FakeLabelStudio, fault):
    server.faults.append(("POST /api/projects/1/import", fault))
    with pytest.raises(TransientError):
        Client(server.url, TOKEN).import_tasks(1, [{"data": {}}])
    assert server.count("POST /api/projects/1/import") == 1


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (400, "was refused"),
        (401, "the token is wrong, expired"),
        (403, "may not do that"),
        (404, "check the URL and the number"),
        (413, "too large for the server"),
    ],
)
@pytest.mark.parametrize("token", [TOKEN, REFRESH])
def test_refusals_are_explained_without_the_token(server: FakeLabelStudio, status, words, token, caplog):
    server.faults.append(("GET /api/projects/1", status))  # this server says in its answer what token it got
    with caplog.at_level(logging.DEBUG), pytest.raises(ConfigurationError, match=words) as caught:
        Client(server.url, token).project(1)
    assert server.count("GET /api/projects/1") == 1
    for secret in (token, "access-token"):
        assert secret not in str(caught.value)
        assert secret not in caplog.text


@pytest.mark.parametrize("target", ["https://other.example.org/api/projects/1", "/login?next=secret"])
def test_redirects_are_not_followed(server: FakeLabelStudio, target):
    server.faults.append(("GET /api/projects/1", target))
    with pytest.raises(ConfigurationError, match=r"is redirected to .*give that address"):
        Client(server.url, TOKEN).project(1)


@pytest.mark.parametrize("token", ["wrong", REFRESH.replace("signature", "forgery")])
def test_wrong_tokens_are_refused(server: FakeLabelStudio, token):
    with pytest.raises(ConfigurationError, match="the token is wrong, expired"):
        Client(server.url, token).project(1)


@pytest.mark.parametrize("token", ["", "  ", "two words", "schlüssel", "a\nb"])
def test_what_is_no_token_is_not_sent(server: FakeLabelStudio, token):
    with pytest.raises(ConfigurationError, match="the token is empty or holds") as caught:
        Client(server.url, token)
    assert not token.strip() or token not in str(caught.value)


def test_a_password_file_of_the_user_does_not_replace_the_token(server: FakeLabelStudio, tmp_path, monkeypatch):
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login me password mine\n")
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    for token in (TOKEN, REFRESH):
        assert Client(server.url, token).project(1) == {"id": 1}


@pytest.mark.parametrize("answer", [None, [], "text", 3])
def test_other_servers_are_told_apart(server: FakeLabelStudio, answer):
    server.projects[1] = answer
    with pytest.raises(ConfigurationError, match="does not answer as Label Studio does"):
        Client(server.url, TOKEN).project(1)


def test_a_server_that_is_none_is_named():
    with pytest.raises(TransientError, match=r"127\.0\.0\.1:9/api/users"):
        Client("http://127.0.0.1:9", TOKEN)._send("GET", "/api/users")


@pytest.mark.parametrize("most", [2, 3, 1000])
def test_all_pages_are_read(server: FakeLabelStudio, monkeypatch, most):
    monkeypatch.setattr(label_studio_client, "_PAGE", 3)
    server.page = most
    for count in (0, 2, 3, 4, 6, 7):
        server.tasks = {n: {"id": n, "project": 1, "meta": {"n": n}} for n in range(count)}
        assert [task["meta"]["n"] for task in Client(server.url, TOKEN).listed(1, "meta")] == list(range(count))


@pytest.mark.parametrize(
    "url",
    [
        *("", "label.example.org", "ftp://host", "file:///etc", "http://", "https://me:pw@host", "https://me@host"),
        *("https://host?token=1", "https://host#x", "http://[::1", "https://host:port", "https://a b"),
    ],
)
def test_what_is_no_url_of_a_server_is_refused_without_showing_a_password(url):
    with pytest.raises(ConfigurationError) as caught:
        checked_url(url)
    assert "pw" not in str(caught.value)


def test_urls_lose_slashes_and_keep_their_path(caplog):
    assert checked_url(" https://host:8443/label/ ") == "https://host:8443/label"
    assert checked_url("http://localhost:8080") == "http://localhost:8080"
    assert not caplog.records
    checked_url("http://label.example.org")
    assert "is not https" in caplog.text
