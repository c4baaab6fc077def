import io
import json
from pathlib import Path

import boto3
import numpy as np
import pytest
from PIL import Image

from pipeline.errors import ConfigurationError, TransientError
from pipeline.originals import Unavailable
from pipeline.review import label_studio, label_studio_client
from pipeline.review.items import Returned
from pipeline.review.label_studio import export, pull, push, read
from support.fake_label_studio import REFRESH, TOKEN, FakeLabelStudio
from support.review_items import all_levels, made_item


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(label_studio_client, "_LONGEST_WAIT", 0.01)
    monkeypatch.setattr(label_studio, "_LONGEST_WAIT", 0.01)
    monkeypatch.setattr(label_studio, "_FIRST_WAIT", 0.01)
    with FakeLabelStudio() as running:
        yield running


@pytest.fixture
def folder(tmp_path: Path) -> str:
    return str(tmp_path / "project")


def ranks(server):
    return [task["data"]["rank"] for task in server.tasks.values()]


# --- export ----------------------------------------------------------------------------------------------------------


def test_an_export_is_files_in_the_order_of_the_ranks(folder: str):
    items = [made_item(rank) for rank in range(3)]
    exported = export(items, folder, title="Mattes")
    assert (exported.folder, exported.tasks, exported.files, exported.left_out) == (
        folder,
        3,
        ("tasks-0001.json",),
        (),
    )
    tasks = json.loads(Path(folder, "tasks-0001.json").read_text())
    assert [task["data"]["rank"] for task in tasks] == [0, 1, 2]
    assert len({task["data"]["image"] for task in tasks}) == 1  # one picture, however many its objects
    assert Path(folder, tasks[0]["data"]["image"]).read_bytes() == items[0].image
    assert json.loads(Path(folder, "manifest.json").read_text())["tasks"] == 3


def test_files_of_tasks_are_bounded(folder: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(label_studio, "_FILE_TASKS", 3)
    assert export(map(made_item, range(7)), folder, title="Mattes").files == tuple(
        f"tasks-000{n}.json" for n in (1, 2, 3)
    )
    one = len(json.dumps(json.loads(Path(folder, "tasks-0001.json").read_text())[0], separators=(",", ":")))
    monkeypatch.setattr(label_studio, "_FILE_BYTES", 2 * one + 20)
    exported = export(map(made_item, range(7)), folder + "-2", title="Mattes")
    assert len(exported.files) == 4
    sizes = [Path(exported.folder, file).stat().st_size for file in exported.files]
    assert max(sizes) < 2 * one + 100


def test_what_can_not_be_shown_is_left_out_and_named(folder: str):
    items = [made_item(0, image=Unavailable("gone")), made_item(1), made_item(2, alpha=None)]
    exported = export(items, folder, title="Mattes")
    assert exported.tasks == 1
    assert [fault.where for fault in exported.left_out] == [
        "record 8000000000000000 of /data/out",
        "record 8000000000000002 of /data/out",
    ]
    assert "left out (image_unavailable): its image can't be had: gone" in exported.left_out[0].message


def test_nothing_is_overwritten(folder: str):
    export([made_item()], folder, title="Mattes")
    before = {path: path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}
    with pytest.raises(ConfigurationError, match="is not empty, and the export overwrites nothing"):
        export([made_item(5)], folder, title="Mattes")
    assert {path: path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()} == before


# --- push ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("token", [TOKEN, REFRESH, f"  {TOKEN}\n"])
def test_a_push_makes_a_project_and_a_second_one_adds_nothing(server: FakeLabelStudio, folder: str, token: str):
    export([made_item(rank) for rank in range(3)], folder, title="Mattes")
    pushed = push(folder, server.url + "/", token)
    assert (pushed.project, pushed.imported, pushed.present) == (1, 3, 0)
    assert pushed.url == f"{server.url}/projects/1/data"
    assert server.projects[1]["sampling"] == "Sequential sampling"
    pushed = push(folder, server.url, token)
    assert (pushed.project, pushed.imported, pushed.present) == (1, 0, 3)
    assert ranks(server) == [0, 1, 2]
    assert len(server.projects) == len(server.files) == 1
    assert server.tasks[1]["data"]["image"] == f"/data/{server.files[0]}"
    everything = b"".join(path.read_bytes() for path in Path(folder).rglob("*") if path.is_file())
    assert token.strip().encode() not in everything


@pytest.mark.parametrize("fault", [503, "lost"])
def test_a_push_outlives_faults_and_doubles_nothing(server: FakeLabelStudio, folder: str, fault, monkeypatch):
    monkeypatch.setattr(label_studio, "_FILE_TASKS", 2)
    export([made_item(rank) for rank in range(5)], folder, title="Mattes", images="embed")
    server.faults += [("POST /api/projects/1/import", fault)] * 3
    server.faults += [("GET /api/tasks", 503), ("GET /api/tasks", "lost"), ("GET /api/tasks", 429)]
    assert push(folder, server.url, TOKEN).imported == 5
    assert not server.faults
    assert ranks(server) == [0, 1, 2, 3, 4]


def test_what_a_server_took_and_makes_later_is_not_sent_again(server: FakeLabelStudio, folder: str, monkeypatch):
    monkeypatch.setattr(label_studio, "_FILE_TASKS", 2)
    server.lag = 3
    export([made_item(rank) for rank in range(5)], folder, title="Mattes", images="embed")
    assert push(folder, server.url, TOKEN).imported == 5
    assert ranks(server) == [0, 1, 2, 3, 4]
    assert server.count("POST /api/projects/1/import") == 3


def test_what_a_server_never_lists_is_sent_once_and_named(server: FakeLabelStudio, folder: str):
    server.lag = 10**6
    export([made_item()], folder, title="Mattes", images="embed")
    with pytest.raises(TransientError, match="took 1 tasks and does not list them yet"):
        push(folder, server.url, TOKEN)
    assert server.count("POST /api/projects/1/import") == 1


def test_a_folder_with_glob_characters_in_its_name_is_taken_as_it_stands(s3_server: str):
    boto3.client("s3", endpoint_url=s3_server).create_bucket(Bucket="review-export")
    folder = "s3://review-export/[c]"
    assert export([made_item()], folder, title="Mattes").tasks == 1
    with pytest.raises(ConfigurationError, match="is not empty"):
        export([made_item()], folder, title="Mattes")


def test_a_push_that_fails_goes_on_where_it_stopped(server: FakeLabelStudio, folder: str, monkeypatch):
    monkeypatch.setattr(label_studio, "_FILE_TASKS", 2)
    export([made_item(rank) for rank in range(5)], folder, title="Mattes")
    server.faults = [("POST /api/projects/1/import", 503)] * 100
    with pytest.raises(TransientError, match=r"failed \(503"):
        push(folder, server.url, TOKEN)
    server.faults.clear()
    assert push(folder, server.url, TOKEN).imported == 5
    assert ranks(server) == [0, 1, 2, 3, 4]
    assert len(server.projects) == 1


def test_files_that_were_changed_are_not_pushed(server: FakeLabelStudio, folder: str):
    export([made_item()], folder, title="Mattes")
    tasks = Path(folder, "tasks-0001.json")
    tasks.write_text(tasks.read_text().replace('"mask"', '"musk"'))
    with pytest.raises(ConfigurationError, match=r"tasks-0001.json is not as it was exported"):
        push(folder, server.url, TOKEN)
    assert not server.tasks


def test_incomplete_exports_and_other_folders_are_not_pushed(server: FakeLabelStudio, folder: str):
    export([made_item()], folder, title="Mattes")
    Path(folder, "manifest.json").write_text('{"version": 99}')
    with pytest.raises(ConfigurationError, match="none of this program's version"):
        push(folder, server.url, TOKEN)
    Path(folder, "manifest.json").unlink()
    with pytest.raises(ConfigurationError, match="the export is not complete"):
        push(folder, server.url, TOKEN)
    assert not server.projects


def test_other_projects_are_left_alone(server: FakeLabelStudio, folder: str):
    export([made_item()], folder, title="Mattes")
    server.projects[1] = {"id": 1, "label_config": "<View><Text name='t' value='$t'/></View>"}
    for ask in (lambda: push(folder, server.url, TOKEN, project=1), lambda: list(pull(server.url, TOKEN, 1))):
        with pytest.raises(ConfigurationError, match="it was not made for mattes"):
            ask()
    assert not server.tasks


def test_a_project_that_is_gone_is_named_with_the_file_that_remembers_it(server: FakeLabelStudio, folder: str):
    export([made_item()], folder, title="Mattes")
    push(folder, server.url, TOKEN)
    server.projects.clear()
    with pytest.raises(ConfigurationError, match=r"pushed.json names for this server: delete that file"):
        push(folder, server.url, TOKEN)


def test_a_file_that_remembers_nothing_any_more_is_named(server: FakeLabelStudio, folder: str):
    export([made_item()], folder, title="Mattes")
    for damaged in ("[1]", "{", "3"):
        Path(folder, "pushed.json").write_text(damaged)
        with pytest.raises(ConfigurationError, match=r"pushed.json is damaged; delete it"):
            push(folder, server.url, TOKEN)
    assert not server.projects


# --- pull ------------------------------------------------------------------------------------------------------------


def test_annotated_tasks_come_back_with_names(server: FakeLabelStudio, folder: str):
    export([made_item(rank) for rank in range(3)], folder, title="Mattes")
    push(folder, server.url, TOKEN)
    result = [
        *server.tasks[2]["predictions"][0]["result"],
        {"from_name": "verdict", "to_name": "image", "type": "choices", "value": {"choices": ["accept"]}},
    ]
    annotation = {"id": 8, "result": result, "completed_by": 1, "updated_at": "2026-03-04T05:06:07Z"}
    server.tasks[2] |= {"total_annotations": 1, "annotations": [annotation]}
    (one,) = read(pull(server.url, TOKEN, 1))
    assert isinstance(one, Returned)
    assert (one.record_id, one.verdict, one.reviewer, one.review_id) == (
        -(2**63) + 1,
        "accept",
        "ann@example.org",
        "8",
    )
    np.testing.assert_array_equal(one.mask, all_levels(48, 32))
    np.testing.assert_array_equal(one.shown, all_levels(48, 32))
    assert np.array_equal(one.mask, Image.open(io.BytesIO(made_item().record["alpha"]["bytes"])))
