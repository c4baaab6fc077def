from pathlib import Path

import pytest
from fsspec.implementations.memory import MemoryFileSystem
from pydantic import ValidationError

from pipeline import storage_faults
from pipeline.config import LabelConfig, load_config
from pipeline.config_reference import reference
from pipeline.errors import ConfigurationError

MINIMAL = ("input.kind=folder", "input.path=photos", "model.source=m", "output.path=out")


def test_overrides_alone_make_a_configuration() -> None:
    config = load_config(None, [*MINIMAL, "model.input_size=512", "input.path=[a, b]", "prompts.min_score=0.5"])
    assert config.model.input_size == 512
    assert config.input.path == ["a", "b"]
    assert config.prompts.min_score == 0.5


def test_overrides_win_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("input: {kind: folder, path: x}\nmodel: {source: a, batch_size: 2}\noutput: {path: o}\n")
    config = load_config(str(file), ["model.source=b"])
    assert (config.model.source, config.model.batch_size) == ("b", 2)


def test_all_faults_are_named_at_once() -> None:
    with pytest.raises(ConfigurationError) as caught:
        load_config(None, ["input.kind=tar", "model.sauce=x", "output.path=o", "model.input_size=500"])
    message = str(caught.value)
    for key in ("input.kind", "input.path", "model.sauce", "model.source", "model.input_size"):
        assert f"  {key}: " in message


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("nonsense", "section.key=value"),
        ("model.source.deep=1", "not a section"),
        ("model.source=[", "not valid YAML"),
    ],
)
def test_bad_overrides(override: str, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        load_config(None, [*MINIMAL, override])


@pytest.mark.parametrize("content", ["- a list", "input: [", ""])
def test_files_that_are_no_configuration(tmp_path: Path, content: str) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(content)
    with pytest.raises(ConfigurationError, match=r"c\.yaml"):
        load_config(str(file))


def test_binary_files_and_unknown_stores_are_faults_of_the_configuration(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_bytes(b"\x7fELF\xff\xfe\x00")
    with pytest.raises(ConfigurationError, match=r"c\.yaml is not valid YAML in UTF-8"):
        load_config(str(tmp_path / "c.yaml"))
    (tmp_path / "c.yaml").write_bytes(b"output: {path: 2024-99-99}")
    with pytest.raises(ConfigurationError, match=r"c\.yaml is not valid YAML"):
        load_config(str(tmp_path / "c.yaml"))
    with pytest.raises(ConfigurationError, match="nosuch"):
        load_config("nosuch://bucket/c.yaml")
    with pytest.raises(ConfigurationError, match="is not there, or is a folder"):
        load_config(str(tmp_path))


def test_a_configuration_in_a_store_is_retried_and_its_credentials_stay_secret(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    waits: list[float] = []
    monkeypatch.setattr(storage_faults, "_sleep", waits.append)
    MemoryFileSystem.store.clear()
    memory = MemoryFileSystem()
    memory.pipe_file("/c.yaml", b"input: {kind: nonsense}")
    whole = memory.cat_file

    def once_busy(self: MemoryFileSystem, path: str, **options: int) -> bytes:
        if not waits:
            raise TimeoutError("busy")
        return bytes(whole(path, **options))

    monkeypatch.setattr(MemoryFileSystem, "cat_file", once_busy)
    with pytest.raises(ConfigurationError, match=r"memory://c\.yaml has") as caught:
        load_config("memory://c.yaml")
    assert "input.kind" in str(caught.value)
    assert len(waits) == 1
    with pytest.raises(ConfigurationError) as caught:
        load_config("s3://me:SECRET@bucket/c.yaml")
    assert "SECRET" not in str(caught.value)
    with pytest.raises(ConfigurationError, match="not valid YAML") as caught:
        load_config(None, [*MINIMAL, "input.path=[https://h/a?sig=SECRET, "])
    assert "SECRET" not in str(caught.value)


def test_empty_sections_are_as_good_as_none(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("input: {kind: folder, path: x}\nmodel: {source: a}\noutput: {path: o}\nprompts:\nworkers:\n")
    assert load_config(str(file)).prompts.kind == "inline"
    config = load_config(str(file), ["prompts.kind=jsonl", "prompts.path=p.jsonl"])
    assert (config.prompts.kind, config.prompts.path) == ("jsonl", "p.jsonl")
    file.write_text("input:\nmodel: {source: a}\noutput: {path: o}\n")
    with pytest.raises(ConfigurationError, match=r"  input: "):
        load_config(str(file))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"gone\.yaml"):
        load_config(str(tmp_path / "gone.yaml"))


def test_prompt_settings_must_agree() -> None:
    with pytest.raises(ConfigurationError, match=r"prompts\.path is needed"):
        load_config(None, [*MINIMAL, "prompts.kind=coco"])
    with pytest.raises(ConfigurationError, match=r"prompts\.kind is inline"):
        load_config(None, [*MINIMAL, "prompts.path=p.jsonl"])


def test_what_changes_mattes_changes_the_hash_and_nothing_else_does() -> None:
    base = load_config(None, MINIMAL).matte_hash()
    assert load_config(None, [*MINIMAL, "workers.actors=8", "model.batch_size=2"]).matte_hash() == base
    assert load_config(None, [*MINIMAL, "output.path=elsewhere", "input.path=more"]).matte_hash() == base
    for change in ("model.input_size=512", "model.resize=aspect", "output.alpha_bits=16", "model.source=n"):
        assert load_config(None, [*MINIMAL, change]).matte_hash() != base


def test_the_reference_page_is_up_to_date() -> None:
    page = Path(__file__).parents[2] / "docs" / "configuration.md"
    assert page.read_text() == reference(), "run: python -m pipeline.config_reference > docs/configuration.md"


def test_how_images_are_decoded_changes_mattes_and_runs_that_do_not_tell_decoded_at_full_size() -> None:
    scaled, full = load_config(None, MINIMAL), load_config(None, [*MINIMAL, "input.decode=full"])
    assert scaled.matte_hash() != full.matte_hash()
    for config in (scaled, full):
        assert LabelConfig.recorded(config.model_dump(mode="json")) == config
    before = full.model_dump(mode="json")
    del before["input"]["decode"]
    assert LabelConfig.recorded(before) == full
    assert "decode" not in before["input"]  # what is read stays as it is
    with pytest.raises(ValidationError):
        LabelConfig.recorded([])
