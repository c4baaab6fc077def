"""The command, end to end with a small untrained model: files in, files out, and what it says when it can't."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import sdmatte
from sdmatte import cli
from sdmatte.cli import main
from sdmatte.errors import SDMatteError

MODEL = ["--model", "untrained:sdmatte-mini", "--size", "128", "--device", "cpu"]
BOX = ["--box", "10", "5", "60", "40"]
W, H = 72, 48


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder to work in, with a photo."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SDMATTE_MODEL", raising=False)
    noise = np.random.default_rng(1).integers(0, 256, (H, W, 3), dtype=np.uint8)
    Image.fromarray(noise).save("photo.png")
    return tmp_path


@pytest.fixture
def loads(monkeypatch):
    """The options that models are loaded with; loads the real (untrained) one whatever was asked for."""
    from sdmatte.model import SDMatte

    seen = []
    untrained = SDMatte.untrained

    def from_pretrained(source, **options):
        seen.append((source, options))
        return untrained(device="cpu", input_size=128)

    monkeypatch.setattr(SDMatte, "from_pretrained", from_pretrained)
    return seen


def refused(capsys, *arguments):
    """Wrong usage: exit code 2, one line of error below the usage."""
    with pytest.raises(SystemExit) as caught:
        main([str(argument) for argument in arguments])
    assert caught.value.code == 2
    return capsys.readouterr().err


def fails(capsys, *arguments):
    """A failure: exit code 1, one line on stderr, nothing written."""
    before = sorted(Path.cwd().iterdir())
    assert main([str(argument) for argument in arguments]) == 1
    out, err = capsys.readouterr()
    *_, last = err.splitlines()
    assert last.startswith("sdmatte: error: ")
    assert "Traceback" not in err
    assert out == ""
    assert sorted(Path.cwd().iterdir()) == before
    return last


def test_alpha_cutout_and_preview(here, capsys):
    wanted = ["-o", "alpha.png", "--cutout", "cutout.png", "--preview", "sub/preview.png"]
    (here / "sub").mkdir()
    assert main(["photo.png", *BOX, *wanted, *MODEL]) == 0
    out, err = capsys.readouterr()
    said = out.splitlines()
    assert said[0].startswith(f"wrote alpha.png ({W} x {H}, 8-bit alpha, ")
    assert said[1].startswith(f"wrote cutout.png ({W} x {H}, RGBA, ")
    assert said[2].startswith(f"wrote sub/preview.png ({W} x {H}, RGB, ")
    assert "warning: this model is untrained" in err
    with (
        Image.open("alpha.png") as alpha,
        Image.open("cutout.png") as cutout,
        Image.open("sub/preview.png") as preview,
    ):
        assert (alpha.mode, cutout.mode, preview.mode) == ("L", "RGBA", "RGB")
        assert alpha.size == cutout.size == preview.size == (W, H)
        np.testing.assert_array_equal(np.asarray(cutout)[..., 3], np.asarray(alpha))
    assert sorted(path.name for path in here.iterdir()) == ["alpha.png", "cutout.png", "photo.png", "sub"]


@pytest.mark.parametrize("compiled", [True, False])
def test_compiling_is_announced(here, capsys, monkeypatch, loads, compiled):
    from sdmatte import cutout

    monkeypatch.setattr(cutout, "is_compiled", lambda: compiled)
    monkeypatch.setattr(cutout, "estimate_foreground", lambda pixels, alpha: pixels)
    assert main(["photo.png", *BOX]) == 0
    assert "compiling" not in capsys.readouterr().err  # nothing to compile without colours
    assert main(["photo.png", *BOX, "--cutout", "c.png", "--preview", "p.png"]) == 0
    announced = capsys.readouterr().err.count("compiling the foreground estimation; once per machine")
    assert announced == (0 if compiled else 1)


def test_help_shows_no_credentials(here, capsys, monkeypatch):
    monkeypatch.setenv("SDMATTE_MODEL", "https://me:SECRET@host/100%25/m.safetensors?sig=SECRET")
    with pytest.raises(SystemExit):
        main(["--help"])
    out = capsys.readouterr().out
    assert "https://host/100%25/m.safetensors" in "".join(out.split())
    assert "SECRET" not in out


def test_the_file_holds_what_the_model_says(here, capsys):
    assert main(["photo.png", *BOX, "--bits", "16", *MODEL]) == 0
    assert "wrote photo_alpha.png" in capsys.readouterr().out
    model = sdmatte.SDMatte.untrained(input_size=128, device="cpu")
    expected = model("photo.png", sdmatte.Box(10, 5, 60, 40), dtype="uint16")
    with Image.open("photo_alpha.png") as alpha:
        assert alpha.mode == "I;16"
        written = np.asarray(alpha)
    assert np.abs(written.astype(int) - expected).max() <= 1
    assert len(np.unique(written)) > 256


@pytest.mark.parametrize(
    ("arguments", "kind", "transparent"),
    [
        (BOX, "box", False),
        ([*BOX, "--transparent"], "box", True),
        (["--points", "10,20", "30.5,4"], "points", False),
        (["--mask", "mask.png", "--transparent"], "mask", True),
        (["--auto"], "auto", False),
    ],
)
def test_prompts(here, monkeypatch, loads, arguments, kind, transparent):
    from sdmatte.model import SDMatte

    mask = np.zeros((H, W), np.uint8)
    mask[3:9, 4:30] = 255
    Image.fromarray(mask).save("mask.png")
    prompts = []

    def call(self, image, prompt):
        prompts.append(prompt)
        return np.zeros(image.shape[:2], np.float32)

    monkeypatch.setattr(SDMatte, "__call__", call)
    assert main(["photo.png", *arguments]) == 0
    (prompt,) = prompts
    assert (prompt.kind, prompt.transparent) == (kind, transparent)
    if kind == "box":
        assert (prompt.x0, prompt.y0, prompt.x1, prompt.y1) == (10, 5, 60, 40)
    if kind == "points":
        assert prompt.xy == ((10, 20), (30.5, 4))
    if kind == "mask":
        np.testing.assert_array_equal(prompt.binary(), mask > 0)


def test_the_default_model_is_named_once_and_only_where_nobody_chose_it(here, monkeypatch, capsys):
    note = "note: sdmatte-nano is small and coarse; --model LongfeiHuang/SDMatte is the paper's"
    assert main(["photo.png", *BOX]) == 0
    assert capsys.readouterr().err.count(note) == 1
    assert main(["photo.png", *BOX, "--model", "sdmatte-nano"]) == 0
    assert note not in capsys.readouterr().err
    monkeypatch.setenv("SDMATTE_MODEL", "sdmatte-nano")
    assert main(["photo.png", *BOX]) == 0
    assert note not in capsys.readouterr().err


def test_model_options(here, monkeypatch, loads):
    plain = {"weights": None, "device": None, "precision": "auto", "input_size": None, "resize": "square"}
    assert main(["photo.png", *BOX]) == 0
    assert loads.pop() == ("sdmatte-nano", plain)
    monkeypatch.setenv("SDMATTE_MODEL", "/models/mine")
    assert main(["photo.png", *BOX]) == 0
    assert loads.pop() == ("/models/mine", plain)
    chosen = ["--model", "M", "--weights", "W", "--device", "cuda:1", "--precision", "bfloat16", "--size", "512"]
    assert main(["photo.png", *BOX, *chosen, "--aspect"]) == 0
    options = {"weights": "W", "device": "cuda:1", "precision": "bfloat16", "input_size": 512, "resize": "aspect"}
    assert loads.pop() == ("M", options)


def test_coordinates_are_those_of_the_upright_photo(here, capsys):
    exif = Image.Exif()
    exif[0x0112] = 6
    with Image.open("photo.png") as photo:
        photo.save("turned.jpg", exif=exif)
    assert main(["turned.jpg", "--box", "0", "40", str(H), "70", *MODEL]) == 0
    out, err = capsys.readouterr()
    assert "sdmatte: turned.jpg: exif rotated" in err
    assert f"{H} x {W}" in out
    with Image.open("turned_alpha.png") as alpha:
        assert alpha.size == (H, W)


def test_what_is_wrong_with_the_input(here, capsys, monkeypatch):
    """Found before a model is loaded."""

    def load(*_, **__):
        raise AssertionError("loaded a model in vain")

    monkeypatch.setattr(cli, "_load", load)
    assert "no.jpg" in fails(capsys, "no.jpg", *BOX)
    Path("broken.jpg").write_bytes(b"\xff\xd8\xff\xe0")
    assert "broken.jpg" in fails(capsys, "broken.jpg", *BOX)
    assert "does not overlap" in fails(capsys, "photo.png", "--box", 500, 500, 600, 600)
    assert "no area" in fails(capsys, "photo.png", "--box", 40, 5, 10, 40)
    assert "outside" in fails(capsys, "photo.png", "--points", "500,1")
    Image.new("L", (W, H)).save("empty.png")
    assert "no pixel inside" in fails(capsys, "photo.png", "--mask", "empty.png")
    Image.new("L", (W, H + 1), 255).save("large.png")
    assert "must be equal" in fails(capsys, "photo.png", "--mask", "large.png")
    Image.new("RGBA", (W, H), (255, 255, 255, 0)).save("rgba.png")
    assert "transparency" in fails(capsys, "photo.png", "--mask", "rgba.png")


def test_a_model_that_is_not_there(here, capsys):
    assert "nowhere" in fails(capsys, "photo.png", *BOX, "--model", "./nowhere")


def test_wrong_usage(here, capsys):
    assert "one of the arguments" in refused(capsys, "photo.png")
    assert "not allowed with" in refused(capsys, "photo.png", *BOX, "--auto")
    assert "expected 4" in refused(capsys, "photo.png", "--box", 1, 2, 3)
    assert "expected X,Y" in refused(capsys, "photo.png", "--points", "1;2")
    assert "expected X,Y" in refused(capsys, "photo.png", "--points", "1,b")
    assert "--bits" in refused(capsys, "photo.png", *BOX, "--bits", 12)
    assert ".png" in refused(capsys, "photo.png", *BOX, "-o", "alpha.jpg")
    assert "no folder" in refused(capsys, "photo.png", *BOX, "-o", "none/alpha.png")
    (here / "folder.png").mkdir()
    assert "is a folder" in refused(capsys, "photo.png", *BOX, "-o", "folder.png")


def test_inputs_and_outputs_are_never_overwritten_by_one_another(here, capsys):
    content = Path("photo.png").read_bytes()
    Path("link.png").symlink_to("photo.png")
    os.link("photo.png", "hard.png")
    for name in ("photo.png", "./photo.png", here / "photo.png", "link.png", "hard.png"):
        for option in ("-o", "--cutout", "--preview"):
            assert "overwrite" in refused(capsys, "photo.png", *BOX, option, name)
    assert "overwrite" in refused(capsys, "link.png", *BOX, "-o", "photo.png")
    assert "overwrite" in refused(capsys, "photo.png", *BOX, "--cutout", "photo_alpha.png")
    assert "overwrite" in refused(capsys, "photo.png", *BOX, "--cutout", "a.png", "--preview", "a.png")
    Image.new("L", (W, H), 255).save("mask.png")
    assert "overwrite" in refused(capsys, "photo.png", "--mask", "mask.png", "-o", "mask.png")
    assert Path("photo.png").read_bytes() == content


def test_a_write_that_fails_leaves_the_old_file(here, capsys, monkeypatch):
    Path("alpha.png").write_bytes(b"old")

    def replace(self, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", replace)
    assert "No space left" in fails(capsys, "photo.png", *BOX, "-o", "alpha.png", *MODEL)
    assert Path("alpha.png").read_bytes() == b"old"


def test_a_gpu_that_is_too_small(here, capsys, monkeypatch):
    import torch

    def load(options):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")

    monkeypatch.setattr(cli, "_load", load)
    assert "--size" in fails(capsys, "photo.png", *BOX)


def test_errors_of_our_own_making_keep_their_traceback(here, monkeypatch):
    def load(options):
        raise RuntimeError("a bug")

    monkeypatch.setattr(cli, "_load", load)
    with pytest.raises(RuntimeError, match="a bug"):
        main(["photo.png", *BOX])


def test_messages_of_several_lines_become_one(here, capsys, monkeypatch):
    def load(options):
        raise SDMatteError("first\n  second")

    monkeypatch.setattr(cli, "_load", load)
    assert fails(capsys, "photo.png", *BOX) == "sdmatte: error: first second"


def test_convert(here, capsys):
    import hashlib

    import torch

    torch.save({"model": {"unet.conv_in.weight": torch.ones(2, 3)}, "iteration": 7}, "train.pth")
    assert main(["convert", "train.pth", "out.safetensors"]) == 0
    wrote, sha256 = capsys.readouterr().out.splitlines()
    assert wrote.startswith("wrote ")
    assert "out.safetensors" in wrote
    assert "1 tensors" in wrote
    assert sha256 == "sha256 " + hashlib.sha256(Path("out.safetensors").read_bytes()).hexdigest()
    assert "none.pth" in fails(capsys, "convert", "none.pth", "other.safetensors")
    assert "OUT" in refused(capsys, "convert", "train.pth")


def test_a_photo_named_convert(here, loads):
    Path("photo.png").rename("convert")
    assert main(["./convert", *BOX]) == 0
    assert Path("convert_alpha.png").exists()


@pytest.mark.parametrize("arguments", [["--help"], ["convert", "--help"], ["--version"]])
def test_help_is_quick(arguments):
    script = (
        "import sys; from sdmatte.cli import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit as stop: assert not stop.code\n"
        "assert not {'torch', 'diffusers', 'transformers', 'cv2', 'scipy'} & set(sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments], check=True, capture_output=True, text=True, timeout=120
    )
    assert (sdmatte.__version__ if arguments == ["--version"] else "usage: sdmatte") in done.stdout


def test_as_a_module_in_a_process_of_its_own(here):
    done = subprocess.run(
        [sys.executable, "-m", "sdmatte", "no.jpg", *BOX], check=False, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("sdmatte: error: no.jpg: ")
    assert len(done.stderr.splitlines()) == 1
