"""The demo's corpus."""

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from pipeline import demo
from pipeline.config import load_config
from pipeline.demo import DemoCorpus, build_demo_corpus, prepare_demo
from pipeline.errors import ConfigurationError
from sdmatte.images import decode_image
from sdmatte.prompts import Box, Mask, Points, Prompt


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> DemoCorpus:
    return build_demo_corpus(tmp_path_factory.mktemp("corpus"))


def members(shard: Path) -> dict[str, bytes]:
    with tarfile.open(shard) as tar:
        return {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]


def prompts_of(files: dict[str, bytes], key: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in files[f"{key}.prompts.jsonl"].splitlines()]


def parsed(prompt: dict[str, Any], files: dict[str, bytes], key: str) -> Prompt:
    (kind,) = {"box", "points", "mask"} & prompt.keys()
    if kind == "mask":
        mask = Image.open(io.BytesIO(files[f"{key}.{prompt['mask']}"]))
        return Mask(decode_image(mask.convert("L")).pixels[..., 0])
    return Box(*prompt["box"]) if kind == "box" else Points(prompt["points"])


def test_it_holds_ten_photographs_and_all_kinds_of_prompts(corpus: DemoCorpus) -> None:
    images, kinds, transparent = 0, [], 0
    for shard in corpus.shards:
        files = members(shard)
        keys = [name.removesuffix(".jpg") for name in files if name.endswith(".jpg")]
        images += len(keys)
        for key in keys:
            photo = decode_image(files[f"{key}.jpg"])
            assert photo.notes == ()
            height, width = photo.pixels.shape[:2]
            assert max(width, height) <= 741
            for raw in prompts_of(files, key):
                prompt = parsed(raw, files, key)
                prompt.validate(width, height)
                assert raw["label"]
                kinds.append(prompt.kind)
                transparent += raw.get("transparent", False)
    assert (images, len(kinds)) == (corpus.images, corpus.objects) == (10, 20)
    assert {kind: kinds.count(kind) for kind in set(kinds)} == {"box": 7, "points": 7, "mask": 6}
    assert transparent == 1


def test_members_of_a_key_stand_together_and_every_mask_is_named_by_a_prompt(corpus: DemoCorpus) -> None:
    assert len(corpus.shards) == 3
    for shard in corpus.shards:
        names = list(members(shard))
        keys = [name.partition(".")[0] for name in names]
        assert sorted(set(keys), key=keys.index) == [key for at, key in enumerate(keys) if key not in keys[:at]]
        assert keys == sorted(keys)
        masks = {name for name in names if name.endswith(".png")}
        named = {
            f"{key}.{prompt['mask']}"
            for key in set(keys)
            for prompt in prompts_of(members(shard), key)
            if "mask" in prompt
        }
        assert masks == named


def test_the_same_bytes_are_written_every_time(corpus: DemoCorpus, tmp_path: Path) -> None:
    again = build_demo_corpus(tmp_path)
    assert [shard.read_bytes() for shard in again.shards] == [shard.read_bytes() for shard in corpus.shards]


def test_without_the_photographs_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo.resources, "files", lambda _: tmp_path / "no-skimage")
    with pytest.raises(ConfigurationError, match=r"astronaut\.png .*pip install 'scikit-image"):
        build_demo_corpus(tmp_path / "corpus")


def test_the_configuration_can_be_loaded_and_labels_the_corpus(tmp_path: Path) -> None:
    prepared = prepare_demo(tmp_path / "it's a: demo")
    config = load_config(str(prepared.config))
    assert config.input.path == str(prepared.corpus.shards[0].parent / "*.tar")
    assert (config.model.source, config.model.input_size) == ("sdmatte-nano", None)
    assert config.output.path == str(prepared.run)
    assert config.output.contact_sheet >= prepared.corpus.objects
    assert not prepared.run.exists()


def test_a_second_demo_replaces_what_the_first_made_and_nothing_else(tmp_path: Path) -> None:
    first = prepare_demo(tmp_path)
    shards = [shard.read_bytes() for shard in first.corpus.shards]
    (first.run / "records").mkdir(parents=True)
    (first.run / "records" / "part-0.parquet").write_bytes(b"old")
    (tmp_path / "released").mkdir()
    (tmp_path / "released" / "run.json").write_text("{}")
    first.config.write_text("model: mine")

    second = prepare_demo(tmp_path)

    assert second == first
    assert not second.run.exists()
    assert (tmp_path / "released" / "run.json").read_text() == "{}"
    assert load_config(str(second.config)).output.path == str(second.run)
    assert [shard.read_bytes() for shard in second.corpus.shards] == shards


def test_a_folder_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "mine.txt").write_text("precious")
    with pytest.raises(ConfigurationError, match="holds files that no demo made"):
        prepare_demo(tmp_path)
    assert [path.name for path in tmp_path.rglob("*")] == ["corpus", "mine.txt"]

    with pytest.raises(ConfigurationError, match="is a file"):
        prepare_demo(tmp_path / "corpus" / "mine.txt")
