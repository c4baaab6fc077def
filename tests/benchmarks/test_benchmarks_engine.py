"""What `make bench-engine` makes of its measurements, and its parts; the measuring takes a quarter of an hour."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import engine, engine_objects, engine_peak, engine_profile, engine_report
from benchmarks.engine_emulation import EmulatedBfloat16
from benchmarks.engine_objects import BATCH, FOUR_PROMPTS, ONE_PROMPT, asked, covered
from benchmarks.engine_parts import NO_BFLOAT16
from benchmarks.engine_peak import Peak
from benchmarks.engine_report import NO_CUDA, report, spread, verdicts
from benchmarks.engine_targets import Verdict, passed, unmeasured
from benchmarks.engine_timing import PLAIN, Answer, Comparison, Deviation, Side, alternate, deviation
from benchmarks.engine_work import Passes, Work, count
from sdmatte.configs import ModelConfigs
from support.seeded import seeded_tensor

ALPHA = np.zeros((2, 2), np.float32)
NANO, BIG = "sdmatte-nano, 512 px, float32", "sdmatte, name-seeded, 512 px, float32"


def comparison(objects: int, plain: float, **others: float) -> Comparison:
    """Three rounds, each side's seconds the same in all of them."""
    answers = {name: [Answer([ALPHA] * objects, seconds)] * 3 for name, seconds in ({PLAIN: plain} | others).items()}
    return Comparison("a comparison", 1, objects, answers, {"float32": 1.0})


def results(**changes: object) -> engine.Results:
    found = engine.Results(
        machine={
            "cpu": "a CPU", "threads": 2, "cores": 2, "capability": "AVX2", "torch": "2", "load": 0.0,
        },
        peaks={"float32": Peak(2e11, 1e11)},
        comparisons={
            "one": comparison(1, 30.0, float32=20.0),
            "four": comparison(4, 120.0, float32=60.0),
            "nano": comparison(8, 4.0, float32=1.0),
        },
        work={"one": Work(10**12, 10**12), "four": Work(4 * 10**12, 0), "nano": Work(10**9, 0)},
        deviations={NANO: Deviation(36, 0.001, 0.1, 1.0), BIG: Deviation(11, 0.1, 1.0, 3.0)},
    )  # fmt: skip
    for name, value in changes.items():
        getattr(found, name).update(value)
    return found


def judged(**changes: object) -> dict[str, Verdict]:
    return {each.meaning: each for each in verdicts(engine.Plan(), results(**changes))}


def one(found: dict[str, Verdict], *words: str) -> Verdict:
    (verdict,) = [each for meaning, each in found.items() if all(word in meaning for word in words)]
    return verdict


def test_the_targets_are_those_that_were_set() -> None:
    limits = {(each.limit, each.at_least) for each in verdicts(engine.Plan(), results())}
    assert limits == {
        (1.25, True), (1.45, True), (3.0, True), (3.7, True), (10.0, True), (0.45, True), (16.0, False),
        (0.25, False), (4.0, False), (1.5, False),
    }  # fmt: skip


def test_ratios_are_held_against_their_targets() -> None:
    found = judged()
    assert one(found, "float32, 1 per image").value == 1.5
    assert one(found, "float32, 4 per image").value == 2.0
    assert one(found, "nano at 512 px").value == 4.0
    slower = judged(comparisons={"one": comparison(1, 30.0, float32=24.1)})
    assert not one(slower, "float32, 1 per image").met
    assert one(slower, "float32, 4 per image").met


def test_bfloat16_without_instructions_is_missed_and_says_why() -> None:
    found = judged()
    for prompts in "14":
        verdict = one(found, f"bfloat16, {prompts} per image")
        assert verdict.applies
        assert not verdict.met
        assert NO_BFLOAT16 in str(verdict)
        assert str(verdict).endswith("MISSED")
    assert not passed(list(found.values()))


def test_bfloat16_with_instructions_is_measured() -> None:
    fast = {
        "one": comparison(1, 30.0, float32=20.0, bfloat16=9.0),
        "four": comparison(4, 120.0, float32=60.0, bfloat16=30.0),
    }
    found = judged(comparisons=fast, peaks={"bfloat16": Peak(1e12, 1e12)})
    assert one(found, "bfloat16, 1 per image").met
    assert passed(list(found.values()))


def test_targets_of_a_gpu_miss_nothing_where_there_is_none() -> None:
    verdict = one(judged(), "peak memory")
    assert not verdict.applies
    assert NO_CUDA in str(verdict)
    assert passed([verdict])


def test_a_gpu_is_held_against_its_own_targets(monkeypatch: pytest.MonkeyPatch) -> None:
    found = results(
        comparisons={"one": comparison(1, 3.0, bfloat16=0.2), "nano": comparison(8, 4.0, bfloat16=1.0)},
        peaks={"bfloat16": Peak(2e13, 2e13)},
        memory={"bfloat16": 12.0},
    )
    plan = engine.Plan(device="cuda", size=1024)
    share = 2e12 / 0.2 / 2e13
    monkeypatch.setattr(engine_report, "default_precision", lambda _: "bfloat16")  # that asks torch for the card
    listed = {each.meaning: each for each in verdicts(plan, found)}
    assert one(listed, "1024 px, bfloat16 on a GPU", "objects").value == pytest.approx(15)
    assert one(listed, "needed FLOP/s").value == pytest.approx(share)
    assert not one(listed, "float32, 1 per image").applies


@pytest.mark.parametrize(
    ("name", "each", "missed"),
    [
        (NANO, Deviation(36, 0.26, 0.1, 1.0), "mean 255 |d alpha|, nano"),
        (NANO, Deviation(36, 0.001, 4.1, 9.0), "99.9th"),
        (NANO, Deviation(36, math.nan, math.nan, math.nan), "mean 255 |d alpha|, nano"),
        (BIG, Deviation(11, 1.6, 3.0, 9.0), "mean 255 |d alpha|, name-seeded"),
        ("sdmatte-nano, 192 px, float32", Deviation(36, 0.26, 0.1, 1.0), "mean 255 |d alpha|, nano"),
    ],
)
def test_large_deviations_are_missed_at_any_size(name: str, each: Deviation, missed: str) -> None:
    assert not one(judged(deviations={name: each}), missed).met
    assert one(judged(), missed).met


def test_deviations_of_other_modes_are_no_targets() -> None:
    found = judged(deviations={"sdmatte-nano, 192 px, bfloat16 (emulated)": Deviation(36, 9.0, 99.0, 99.0)})
    assert all(each.met for meaning, each in found.items() if "alpha" in meaning)


def test_the_report_gives_medians_with_their_spread_and_the_share_of_the_peak() -> None:
    text = report(results())
    assert "20.000 [20.000 - 20.000]" in text
    assert "1.50 [1.50 - 1.50]" in text
    # 1 TFLOP of each kind at 1e11 and 2e11 FLOP/s are 15 s, of 20.
    assert "75%" in text
    assert spread([1.0, 3.0, 2.0]) == "2.00 [1.00 - 3.00]"


def test_sides_take_turns_and_warm_up_is_not_counted() -> None:
    called: list[str] = []

    def side(name: str) -> Side:
        def answer(questions: object) -> Answer:
            called.append(name)
            return Answer([ALPHA], 1.0 + len(called))

        return answer

    rounds = [asked(ONE_PROMPT[0])] * 2
    found = alternate("x", {PLAIN: side(PLAIN), "float32": side("float32")}, rounds, ["float32"])
    assert called == ["float32", PLAIN, "float32", "float32", PLAIN]
    assert found.warm_up == {"float32": 2.0}
    assert found.seconds(PLAIN) == [3.0, 6.0]
    assert found.ratios("float32") == [3 / 4, 6 / 5]


def test_deviations_are_of_all_pixels_together() -> None:
    far = np.full((2, 2), 1.0, np.float32)
    found = deviation([ALPHA, ALPHA], [ALPHA, far])
    assert (found.objects, found.mean, found.worst) == (2, 127.5, 255.0)
    assert math.isnan(deviation([ALPHA], [ALPHA * np.float32(np.nan)]).mean)


def test_objects_are_photographs_with_prompts_of_several_sizes() -> None:
    shares = [covered(each, at) for each in asked(BATCH) for at in range(len(each.prompts))]
    assert len(shares) == 8
    assert min(shares) < 0.05
    assert max(shares) > 0.8
    assert [len(each[0].prompts) for each in map(asked, ONE_PROMPT)] == [1, 1, 1]
    assert [len(each[0].prompts) for each in map(asked, FOUR_PROMPTS)] == [4, 4]
    assert all(len(asked(each)) == 1 for each in (*ONE_PROMPT, *FOUR_PROMPTS))  # one image each
    again = asked(FOUR_PROMPTS[1])[0].prompts
    assert all(a == b for a, b in zip(again[:3], asked(FOUR_PROMPTS[1])[0].prompts[:3], strict=True))


def test_the_counted_work_is_that_of_the_released_model() -> None:
    found = count(ModelConfigs.released("sdmatte"), 512)
    assert found.encode.total / 1e12 == pytest.approx(1.12, abs=0.005)
    assert found.unet.total / 1e12 == pytest.approx(0.83, abs=0.005)
    assert found.decode.total / 1e12 == pytest.approx(2.51, abs=0.005)


def test_images_are_encoded_once_in_what_is_needed() -> None:
    passes = Passes(Work(1, 0), Work(0, 10), Work(100, 0))
    assert passes.needed(1, 4) == Work(405, 40)
    assert passes.repeated(4) == Work(408, 40)
    assert Work(10, 30).floor(Peak(matrix=15.0, convolution=5.0)) == 4.0


def test_emulated_bfloat16_rounds_as_torch_does() -> None:
    torch.manual_seed(0)
    images, kernel, matrix = (torch.randn(*shape).bfloat16() for shape in ((1, 8, 9, 9), (4, 8, 3, 3), (9, 5)))
    plain = [torch.conv2d(images, kernel), torch.matmul(images, matrix), torch.relu(images)]
    out = torch.empty(9, 5, dtype=torch.bfloat16)
    with EmulatedBfloat16() as mode, torch.inference_mode():
        emulated = [torch.conv2d(images, kernel), torch.matmul(images, matrix), torch.relu(images)]
        torch.mm(images[0, 0], matrix, out=out)
    assert mode.calls == 3
    assert {each.dtype for each in emulated} == {torch.bfloat16}
    for one_, other in zip([*plain, plain[1][0, 0]], [*emulated, out], strict=True):
        torch.testing.assert_close(one_, other, atol=0.05, rtol=0.01)
    exact = torch.conv2d(images.double(), kernel.double())
    assert torch.equal(emulated[0], exact.to(torch.bfloat16))


def test_emulation_leaves_float32_alone() -> None:
    with EmulatedBfloat16() as mode:
        torch.mm(torch.ones(2, 2), torch.ones(2, 2))
    assert mode.calls == 0


def test_instructions_are_read_from_the_cpus_flags(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_peak, "cpu_flags", lambda: frozenset({"avx512f", "avx512bw"}))
    assert not engine_peak.computes_bfloat16("cpu")  # AVX-512 alone only emulates it
    monkeypatch.setattr(engine_peak, "cpu_flags", lambda: frozenset({"amx_bf16"}))
    assert engine_peak.computes_bfloat16("cpu")


def test_peaks_and_facts_of_this_machine() -> None:
    peak = engine_peak.measure("cpu", torch.float32, shrink=32)
    assert peak.matrix > 1e6
    assert peak.convolution > 1e6
    facts = engine_peak.machine("cpu")
    assert {"cpu", "cpu_flags", "threads", "torch", "load"} <= facts.keys()
    json.dumps(facts)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("aten::mkldnn_convolution", "convolution"),
        ("aten::_scaled_dot_product_flash_attention_for_cpu", "attention"),
        ("aten::addmm", "linear"),
        ("aten::native_group_norm", "norm and activation"),
        ("aten::copy_", "copies"),
        ("aten::topk", "other"),
    ],
)
def test_operators_are_grouped(name: str, kind: str) -> None:
    assert engine_profile.group(name) == kind


def test_a_profile_lists_operators_and_the_time_outside_of_them() -> None:
    matrix = torch.randn(200, 200)
    text = engine_profile.table("a product", lambda: matrix @ matrix, "cpu")
    assert text.startswith("a product: ")
    assert "outside of torch's operators" in text
    assert "aten::mm" in text


def test_a_verdict_without_a_value_is_missed() -> None:
    verdict = unmeasured("a figure", 3.0, "nothing to measure with")
    assert not verdict.met
    assert "nothing to measure with" in str(verdict)
    assert not passed([verdict])
    assert Verdict("a figure", 3.0, 3.0, at_least=True).met
    assert not Verdict("a figure", 3.01, 3.0, at_least=False).met


def test_bad_arguments_exit_with_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert engine.main(["--quick", "--against", str(tmp_path)]) == 2
    assert "clone of https://github.com/vivoCameraResearch/SDMatte" in capsys.readouterr().err
    assert engine.main(["--quick", "--device", "nothing"]) == 2


@pytest.mark.slow
def test_a_quick_look_prints_tables_writes_figures_and_never_passes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "figures.json"
    assert engine.main(["--quick", "--json", str(file)]) == 1
    printed = capsys.readouterr().out.splitlines()
    assert printed[-1].startswith("MISSED: this was a quick look")
    figures = json.loads(file.read_text())
    assert figures["comparisons"].keys() == {"nano", "one", "four"}
    assert len(figures["targets"]) == 11
    default = next(name for name in figures["comparisons"]["one"]["sides"] if name != PLAIN)
    apart = {name: each for name, each in figures["deviations"].items() if name.endswith(default)}
    assert len(apart) >= 2
    assert all(each["mean"] < 1.5 for each in apart.values())


@pytest.mark.slow
def test_a_quick_profile_is_written(tmp_path: Path) -> None:
    file = tmp_path / "profile.txt"
    assert engine.main(["--quick", "--profile", str(file)]) == 0
    assert file.read_text().count("outside of torch's operators") == 2


def test_seeded_weights_follow_from_the_released_names(tmp_path: Path) -> None:
    found = engine_objects.weights("sdmatte-mini", tmp_path / "weights")
    name = "text_encoder.text_model.embeddings.token_embedding.weight"
    np.testing.assert_array_equal(found.state[name], seeded_tensor(name, found.state[name].shape))
    assert {tensor.dtype for tensor in found.state.values()} == {torch.float32}
    found.state[name].zero_()  # as an engine might, in its own process
    again = engine_objects.weights("sdmatte-mini", tmp_path / "weights")  # another one maps the same file
    np.testing.assert_array_equal(again.state[name], seeded_tensor(name, again.state[name].shape))
