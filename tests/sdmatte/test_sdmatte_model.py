import hashlib
import logging
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode

from sdmatte import Auto, Box, CheckpointError, ImageError, Mask, Points, Prompt, PromptError, SDMatte, SDMatteError
from sdmatte.devices import choose_dtype
from sdmatte.engine.build import Engine
from sdmatte.geometry import quantise
from support.models import SIZE, mini, mini_aspect, photo, seeded_folder

HEIGHT, WIDTH = 60, 100
BOX = Box(10, 5, 70, 55)


def disc(height: int = HEIGHT, width: int = WIDTH) -> NDArray[np.bool_]:
    y, x = np.mgrid[0:height, 0:width]
    return np.asarray((y - height / 2) ** 2 + (x - width / 2) ** 2 < (height / 3) ** 2)


PROMPTS: list[Prompt] = [BOX, Points([(50, 30), (20, 10)]), Mask(disc()), Box(0, 0, WIDTH, HEIGHT, transparent=True)]


@pytest.fixture(scope="module")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return seeded_folder("sdmatte_tiny", tmp_path_factory.mktemp("models"))


def assert_same(found: NDArray[np.float32], expected: NDArray[np.float32]) -> None:
    """Equal up to what another batch size does to float32 sums, which random weights amplify."""
    np.testing.assert_allclose(found, expected, atol=2e-4)


# --- what comes out


def test_one_picture_one_prompt() -> None:
    alpha = mini()(photo(HEIGHT, WIDTH), BOX)
    assert (alpha.shape, alpha.dtype) == ((HEIGHT, WIDTH), np.float32)
    assert alpha.min() >= 0
    assert alpha.max() <= 1
    assert alpha.std() > 0.01


def test_paths_pillow_images_and_arrays_are_one(tmp_path: Path) -> None:
    pixels = photo(HEIGHT, WIDTH)
    path = tmp_path / "photo.png"
    Image.fromarray(pixels).save(path)
    expected = mini()(pixels, BOX)
    for image in (path, str(path), Image.fromarray(pixels)):
        np.testing.assert_array_equal(mini()(image, BOX), expected)


def test_several_images_with_mixed_prompts_equal_singles_in_order() -> None:
    images = [photo(HEIGHT, WIDTH, 1), photo(HEIGHT, WIDTH, 2), photo(HEIGHT, WIDTH, 3)]
    prompts: list[list[Prompt]] = [PROMPTS, [], PROMPTS[::-1][:2]]
    expected = [[mini()(image, prompt) for prompt in mine] for image, mine in zip(images, prompts, strict=True)]
    for batch_size in (3, 16):
        found = mini().predict(images, prompts, batch_size=batch_size)
        assert [len(mine) for mine in found] == [4, 0, 2]
        for mine, theirs in zip(found, expected, strict=True):
            for alpha, single in zip(mine, theirs, strict=True):
                assert_same(alpha, single)
    different = [np.abs(one - two).max() for one in expected[0] for two in expected[0] if one is not two]
    assert min(different) > 0.01, "the prompts make no difference, so their order was not tested"


def test_an_image_is_encoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    batches: list[int] = []
    encode = Engine.encode_image
    monkeypatch.setattr(
        Engine, "encode_image", lambda self, pixels: batches.append(len(pixels)) or encode(self, pixels)
    )
    mini().predict([photo(HEIGHT, WIDTH)], [PROMPTS], batch_size=4)
    assert batches == [1]
    batches.clear()
    mini().predict([photo(HEIGHT, WIDTH), photo(50, 50)], [PROMPTS, [Box(0, 0, 20, 20)]], batch_size=3)
    assert batches == [2]


def test_encoding_and_matting_can_be_had_apart() -> None:
    images = [photo(HEIGHT, WIDTH), photo(90, 40, 1)]
    one, other = mini().encode(images)
    assert (one.width, one.height, one.grid) == (WIDTH, HEIGHT, (SIZE, SIZE))
    assert (other.width, other.height) == (40, 90)
    assert one.latent.shape == (4, SIZE // 8, SIZE // 8)
    alphas = mini().matte([(other, Box(0, 0, 30, 30)), (one, BOX)])
    assert [alpha.shape for alpha in alphas] == [(90, 40), (HEIGHT, WIDTH)]
    assert_same(alphas[1], mini()(images[0], BOX))


def test_alphas_have_the_size_of_the_original_where_its_pixels_are_smaller() -> None:
    full = photo(4 * HEIGHT, 4 * WIDTH)
    half = np.asarray(Image.fromarray(full).reduce(2))
    image = mini_aspect().encode([half], [(4 * WIDTH, 4 * HEIGHT)])[0]
    assert (image.width, image.height) == (4 * WIDTH, 4 * HEIGHT)
    assert image.grid == mini_aspect().encode([full])[0].grid
    box = Box(4 * BOX.x0, 4 * BOX.y0, 4 * BOX.x1, 4 * BOX.y1)
    assert mini_aspect().matte([(image, box)])[0].shape == (4 * HEIGHT, 4 * WIDTH)


def test_nothing_in_nothing_out() -> None:
    assert mini().predict([], []) == []
    assert mini().predict([photo(8, 8)], [[]]) == [[]]
    assert mini().encode([]) == mini().matte([]) == []


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_integer_alphas_are_the_rounded_float_ones(dtype: str) -> None:
    image = photo(HEIGHT, WIDTH)
    alpha = mini()(image, BOX)
    quantised = mini()(image, BOX, dtype=dtype)  # type: ignore[call-overload]
    assert quantised.dtype == dtype
    np.testing.assert_array_equal(quantised, quantise(alpha, dtype))  # type: ignore[call-overload]
    assert np.abs(quantised / np.iinfo(dtype).max - alpha).max() <= 0.5 / np.iinfo(dtype).max + 1e-7
    np.testing.assert_array_equal(mini().predict([image], [[BOX]], dtype=dtype)[0][0], quantised)  # type: ignore[call-overload]


def test_transparency_is_seen() -> None:
    image = photo(HEIGHT, WIDTH)
    difference = mini()(image, BOX) - mini()(image, Box(BOX.x0, BOX.y0, BOX.x1, BOX.y1, transparent=True))
    assert np.abs(difference).max() > 0.01


def test_aspect_mode_keeps_the_shape_of_the_image() -> None:
    wide, tall = photo(60, 240), photo(240, 60)
    images = mini_aspect().encode([wide, tall, photo(80, 80)])
    assert [image.grid for image in images] == [(64, 256), (256, 64), (SIZE, SIZE)]
    assert [tuple(image.latent.shape) for image in images] == [(4, 8, 32), (4, 32, 8), (4, 16, 16)]
    prompts: list[list[Prompt]] = [
        [Box(30, 10, 200, 50), Points([(100, 30)])],
        [Mask(disc(240, 60))],
        [Box(0, 0, 80, 80)],
    ]
    found = mini_aspect().predict([wide, tall, photo(80, 80)], prompts)
    assert [[alpha.shape for alpha in mine] for mine in found] == [[(60, 240)] * 2, [(240, 60)], [(80, 80)]]
    assert_same(found[0][1], mini_aspect()(wide, prompts[0][1]))
    # On a square image both modes are the same.
    assert_same(found[2][0], mini()(photo(80, 80), prompts[2][0]))


# --- faults


def test_errors_name_the_image_and_the_prompt(tmp_path: Path) -> None:
    image = photo(HEIGHT, WIDTH)
    images = [image] * 6
    prompts = [[BOX], [BOX], [BOX], [BOX], [BOX, BOX, Box(200, 0, 300, 10)], [BOX]]
    with pytest.raises(PromptError, match=r"image 4, prompt 2: box .* does not overlap") as caught:
        mini().predict(images, prompts, batch_size=2)
    assert caught.value.code == "prompt_out_of_frame"
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"not an image")
    with pytest.raises(ImageError, match="image 1: ") as unreadable:
        mini().predict([image, broken], [[BOX], [BOX]])
    assert unreadable.value.code == "image_unsupported"


def test_a_single_picture_needs_no_numbers() -> None:
    with pytest.raises(PromptError, match=r"^box .* does not overlap"):
        mini()(photo(HEIGHT, WIDTH), Box(200, 0, 300, 10))


def test_images_and_prompts_must_pair() -> None:
    with pytest.raises(PromptError, match="2 images but 1 lists of prompts"):
        mini().predict([photo(8, 8)] * 2, [[BOX]])


def test_a_batch_has_at_least_one() -> None:
    with pytest.raises(SDMatteError, match="batch_size is 0"):
        mini().predict([photo(8, 8)], [[]], batch_size=0)


@pytest.mark.parametrize("size", [0, -64, 100, 1000])
def test_input_sizes_must_fit_the_network(size: int) -> None:
    with pytest.raises(SDMatteError, match=f"input_size {size} must be a positive multiple of 64"):
        SDMatte.untrained(device="cpu", input_size=size)


def test_the_default_size_is_the_papers() -> None:
    assert SDMatte.untrained(device="cpu").input_size == 1024


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ((1, 2, 30, 40), r"got tuple; did you mean Box\(1, 2, 30, 40\)\?"),
        ([1, 2.5, 30, 40], r"got list; did you mean Box\(1, 2\.5, 30, 40\)\?"),
        ([(1, 2), (3, 4)], r"got list; did you mean Points\(\[\(1, 2\), \.\.\.\]\)\?"),
        (np.zeros((4, 4)), r"got ndarray; did you mean Mask\(array\)\?"),
        (None, "got NoneType$"),
        ("box", "got str$"),
    ],
)
def test_what_is_no_prompt_is_told_apart_from_bad_prompts(value: object, message: str) -> None:
    model = mini()
    with pytest.raises(PromptError, match=f"Box, Points, Mask, Auto or Trimap, {message}") as caught:
        model(np.zeros((50, 60, 3), np.uint8), value)  # type: ignore[call-overload]
    assert caught.value.code == "prompt_malformed"


def test_kinds_that_the_weights_do_not_know_are_refused(tiny_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_folder, tmp_path, dirs_exist_ok=True)
    (tmp_path / "model.safetensors").rename(tmp_path / "SDMatte_plus.safetensors")
    plus = SDMatte.from_pretrained(tmp_path, device="cpu", input_size=SIZE)
    assert plus.prompt_kinds == ("box",)
    plus.check(BOX, WIDTH, HEIGHT)
    with pytest.raises(PromptError, match="SDMatte_plus was trained for box prompts, not for points") as caught:
        plus(photo(HEIGHT, WIDTH), Points([(3, 3)]))
    assert caught.value.code == "prompt_unsupported"


def test_kinds_that_no_weights_were_trained_for_are_warned_of_once(caplog: pytest.LogCaptureFixture) -> None:
    model = SDMatte.untrained(device="cpu", input_size=SIZE)
    with caplog.at_level(logging.WARNING, logger="sdmatte"):
        alpha = model(photo(HEIGHT, WIDTH), Auto())
        model.check(Auto(), WIDTH, HEIGHT)
        model.check(BOX, WIDTH, HEIGHT)
    assert alpha.shape == (HEIGHT, WIDTH)
    assert [record.getMessage() for record in caplog.records] == [
        "sdmatte-mini (untrained) was trained for box, points, mask prompts, not for auto; expect poor mattes"
    ]


def test_not_a_number_is_no_alpha(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would end as 0 in an 8-bit alpha."""
    monkeypatch.setattr(Engine, "decode", lambda self, latent: latent[:, :1] * float("nan"))
    with pytest.raises(SDMatteError, match="NaN in float32"):
        mini()(photo(HEIGHT, WIDTH), BOX, dtype="uint8")


# --- devices and types


@pytest.mark.parametrize(
    ("device", "reason"),
    [
        ("gpu", "can't be used"),
        ("cuda:99", "can't be used"),
        pytest.param("cuda", "nvidia-smi", marks=pytest.mark.skipif(torch.cuda.is_available(), reason="has a GPU")),
    ],
)
def test_devices_that_are_not_there(device: str, reason: str) -> None:
    with pytest.raises(SDMatteError, match=reason) as caught:
        SDMatte.untrained(device=device)
    assert repr(device) in str(caught.value)


def test_faults_of_the_machine_come_before_the_weights(monkeypatch: pytest.MonkeyPatch, tiny_folder: Path) -> None:
    monkeypatch.setattr("sdmatte.model.read_state_dict", lambda path: pytest.fail("the weights were read"))
    for options in ({"device": "gpu"}, {"precision": "int8"}, {"input_size": 100}):
        with pytest.raises(SDMatteError):
            SDMatte.from_pretrained(tiny_folder, **options)  # type: ignore[arg-type]


def test_precisions_that_are_not_to_be_had() -> None:
    with pytest.raises(SDMatteError, match="use bfloat16 or float32"):
        SDMatte.untrained(device="cpu", precision="float16")
    with pytest.raises(SDMatteError, match="expected auto, float32, bfloat16, float16"):
        SDMatte.untrained(device="cpu", precision="int8")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("device", "capability", "expected"),
    [
        ("cpu", None, "float32"),
        ("cuda", (9, 0), "bfloat16"),
        ("cuda:1", (8, 0), "bfloat16"),
        ("cuda", (7, 5), "float16"),
    ],
)
def test_the_automatic_precision(
    monkeypatch: pytest.MonkeyPatch, device: str, capability: tuple[int, int] | None, expected: str
) -> None:
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda device: capability)
    assert choose_dtype("auto", torch.device(device)) == (expected, getattr(torch, expected))
    assert choose_dtype("auto", torch.device(device), 873_000_000)[0] == expected
    assert choose_dtype("auto", torch.device(device), 7_500_000)[0] == "float32"  # small: nothing to gain


@pytest.mark.parametrize(("name", "mean", "largest"), [("sdmatte_tiny", 0.02, 0.2), ("litesdmatte_tiny", 0.003, 0.03)])
def test_bfloat16_is_close_to_float32_on_the_cpu(tmp_path: Path, name: str, mean: float, largest: float) -> None:
    """Measured: 0.0082 and 0.075 (tiny), 0.0012 and 0.010 (lite); random weights amplify the rounding."""
    folder = seeded_folder(name, tmp_path)
    full, half = (
        SDMatte.from_pretrained(folder, device="cpu", precision=precision, input_size=SIZE)
        for precision in ("float32", "bfloat16")
    )
    assert half.precision == "bfloat16"
    assert {each.dtype for each in half._network.unet.mid_block.parameters()} == {torch.bfloat16}
    exact = [half._network.unet.conv_in, half._network.unet.conv_out, half._network.unet.bbox_embedding]
    assert {each.dtype for module in exact for each in module.parameters()} == {torch.float32}
    for prompt in PROMPTS[:3]:
        alpha = half(photo(HEIGHT, WIDTH), prompt)
        assert alpha.dtype == np.float32
        difference = np.abs(alpha - full(photo(HEIGHT, WIDTH), prompt))
        assert 0 < difference.mean() < mean
        assert difference.max() < largest


# --- loading


def test_untrained_weights_follow_from_the_seed() -> None:
    before = torch.get_rng_state()
    one, same, other = (SDMatte.untrained(device="cpu", input_size=SIZE, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before), "the global random state was changed"
    assert one.weights_sha256 == same.weights_sha256 != other.weights_sha256
    assert len(one.weights_sha256) == 64
    image = photo(HEIGHT, WIDTH)
    np.testing.assert_array_equal(one(image, BOX), same(image, BOX))
    assert np.abs(one(image, BOX) - other(image, BOX)).max() > 0.01
    assert not one.trained
    assert one.name == "sdmatte-mini (untrained)"


def test_untrained_models_have_a_source_of_their_own() -> None:
    model = SDMatte.from_pretrained("untrained:sdmatte-mini", device="cpu", input_size=SIZE, resize="aspect")
    assert (model.weights_sha256, model.trained) == (mini().weights_sha256, False)
    assert (model.input_size, model.resize) == (SIZE, "aspect")
    with pytest.raises(CheckpointError, match="nonsense"):
        SDMatte.from_pretrained("untrained:nonsense")


def test_transformers_4_and_5_names_both_load(tiny_folder: Path, tmp_path: Path) -> None:
    image, alphas, digests = photo(HEIGHT, WIDTH), [], []
    for folder in (tiny_folder, seeded_folder("sdmatte_tiny", tmp_path, drop="text_model.")):
        model = SDMatte.from_pretrained(folder, device="cpu", input_size=SIZE)
        assert (model.name, model.trained, model.precision) == ("sdmatte_tiny", True, "float32")
        assert model.weights_sha256 == hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
        alphas.append(model(image, BOX))
        digests.append(model.weights_sha256)
    assert digests[0] != digests[1]
    np.testing.assert_array_equal(*alphas)


def test_loading_says_nothing(tiny_folder: Path) -> None:
    """No warnings of diffusers' or transformers' about what is meant."""
    options = {"source": str(tiny_folder), "precision": "bfloat16", "device": "cpu"}
    code = f"from sdmatte import SDMatte; SDMatte.from_pretrained(**{options})"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert run.stdout + run.stderr == ""


def test_the_text_encoder_goes_unless_there_is_a_caption(tiny_folder: Path) -> None:
    image = photo(HEIGHT, WIDTH)
    without = SDMatte.from_pretrained(tiny_folder, device="cpu", input_size=SIZE)
    assert without._network.text_encoder is None
    with pytest.raises(SDMatteError, match="load the model with a caption"):
        without.set_caption("a cat")

    captioned = SDMatte.from_pretrained(tiny_folder, device="cpu", input_size=SIZE, caption="a cat")
    assert captioned._network.text_encoder is not None
    cat = captioned(image, BOX)
    assert np.abs(cat - without(image, BOX)).max() > 1e-4
    captioned.set_caption("a dog on a lawn")
    assert np.abs(captioned(image, BOX) - cat).max() > 1e-4
    captioned.set_caption("")
    np.testing.assert_array_equal(captioned(image, BOX), without(image, BOX))


def test_a_caption_needs_a_tokenizer() -> None:
    with pytest.raises(CheckpointError, match="tokenizer"):
        SDMatte.untrained(device="cpu", caption="a cat")


# --- memory: attention scores are never materialised


class LargestScores(TorchDispatchMode):
    """Watches for tensors whose last two dimensions are both at least ``tokens``."""

    def __init__(self, tokens: int) -> None:
        super().__init__()
        self.tokens, self.found = tokens, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        with self:  # so that the steps of a composite operation are seen, too
            outputs = function.decompose(*args, **(kwargs or {}))
        if outputs is not NotImplemented:
            return outputs
        outputs = function(*args, **(kwargs or {}))
        for output in outputs if isinstance(outputs, tuple | list) else (outputs,):
            if isinstance(output, torch.Tensor) and output.ndim >= 2 and min(output.shape[-2:]) >= self.tokens:
                storage = output.untyped_storage().nbytes()
                self.found += storage >= self.tokens**2 * output.element_size()  # not a mask expanded in name only
        return outputs


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("prompt", PROMPTS[:3], ids=lambda prompt: prompt.kind)
def test_no_operation_returns_attention_scores(precision: str, prompt: Prompt) -> None:
    side = 256
    model = SDMatte.untrained(device="cpu", input_size=side, precision=precision)  # type: ignore[arg-type]
    with LargestScores((side // 8) ** 2) as watcher:
        model(photo(HEIGHT, WIDTH), prompt)
    assert watcher.found == 0


def test_the_watcher_sees_scores_where_there_are_some() -> None:
    side = 256
    model = SDMatte.untrained(device="cpu", input_size=side)
    with LargestScores((side // 8) ** 2) as watcher, sdpa_kernel(SDPBackend.MATH):
        model(photo(HEIGHT, WIDTH), BOX)
    assert watcher.found > 0


MEASURE = """
import resource
import numpy as np
from sdmatte import Box, SDMatte

image, box = np.zeros((64, 64, 3), np.uint8), Box(5, 5, 50, 50)
SDMatte.untrained(device="cpu", input_size=128)(image, box)  # loads everything that is loaded once
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
SDMatte.untrained(device="cpu", input_size=1024)(image, box)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss has other units elsewhere")
def test_peak_memory_at_full_size() -> None:
    """Measured: 294 MB; one head's scores of the first level take 1074 MB, and 2415 MB came with the plain kernel."""
    run = subprocess.run([sys.executable, "-c", MEASURE], capture_output=True, text=True, check=True, timeout=200)
    assert int(run.stdout) < 128**4 * 4 / 2
