"""The text encoder and the caption's token ids."""

from pathlib import Path

import pytest
import torch
from transformers import CLIPTokenizer

from sdmatte.configs import ModelConfigs
from sdmatte.errors import CheckpointError
from sdmatte.text import build_text_encoder, caption_ids

FIXTURE = Path(__file__).parents[1] / "fixtures" / "sdmatte_tiny"
TOKENIZER = FIXTURE / "tokenizer"


@pytest.fixture(scope="module")
def config() -> dict[str, object]:
    """The text encoder's configuration of the small reference model."""
    return ModelConfigs.from_folder(FIXTURE).text_encoder


def test_empty_caption_needs_no_tokenizer(config: dict[str, object]) -> None:
    ids = caption_ids("", None, config)
    assert ids.dtype == torch.int64
    assert ids.tolist() == [[998, 999] + [0] * 75]


def test_empty_caption_of_stable_diffusion_2() -> None:
    ids = caption_ids("", None, ModelConfigs.released("sdmatte").text_encoder)
    assert ids.tolist() == [[49406, 49407] + [0] * 75]


def test_empty_caption_equals_the_tokenizer_s_own(config: dict[str, object]) -> None:
    tokenizer = CLIPTokenizer.from_pretrained(str(TOKENIZER))
    own = tokenizer([""], padding="max_length", max_length=77, truncation=True, return_tensors="pt")["input_ids"]
    assert torch.equal(own, caption_ids("", TOKENIZER, config))


def test_caption_is_padded_and_truncated(config: dict[str, object]) -> None:
    short, long = caption_ids("a cat", TOKENIZER, config), caption_ids("a cat " * 90, TOKENIZER, config)
    assert short.shape == long.shape == (1, 77)
    end = short[0].tolist().index(999)
    assert short[0, 0] == 998
    assert end >= 3
    assert short[0, end + 1 :].eq(0).all()
    assert long[0, -1] == 999


def test_caption_without_tokenizer(config: dict[str, object]) -> None:
    with pytest.raises(CheckpointError, match="caption 'a cat' needs a tokenizer"):
        caption_ids("a cat", None, config)


def test_damaged_tokenizer_is_named(config: dict[str, object], tmp_path: Path) -> None:
    (tmp_path / "vocab.json").write_text("{")
    (tmp_path / "merges.txt").write_text("")
    with pytest.raises(CheckpointError, match=f"tokenizer in {tmp_path} can't be loaded"):
        caption_ids("a cat", tmp_path, config)


def test_tokenizer_of_another_model(config: dict[str, object]) -> None:
    with pytest.raises(CheckpointError, match="knows only 100 tokens"):
        caption_ids("a cat", TOKENIZER, {**config, "vocab_size": 100})


def test_encoder_works_after_meta_construction(config: dict[str, object]) -> None:
    with torch.device("meta"):
        encoder = build_text_encoder(config)
    weights = {name: torch.zeros(tensor.shape) for name, tensor in encoder.state_dict().items()}
    encoder.load_state_dict(weights, assign=True)
    assert not encoder.training
    assert encoder(caption_ids("", None, config))[0].shape == (1, 77, 1024)


def test_unusable_configuration(config: dict[str, object]) -> None:
    with pytest.raises(CheckpointError, match="does not describe a CLIP text encoder"):
        build_text_encoder({**config, "num_attention_heads": 15})
