import io
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

from pipeline.budget import BudgetExceededError
from pipeline.crashes import Verdict
from pipeline.errors import ErrorCode
from pipeline.ids import id_sum, image_id
from pipeline.schema import IMAGE_ROWS, PROMPT
from pipeline.stages import matte
from pipeline.stages.matte import MatteImages
from pipeline.stages.parcels import pack, unpack
from pipeline.stages.records import OUTPUT, model_prompt
from pipeline.timing import ActorTimes
from sdmatte import SDMatte
from sdmatte.model import EncodedImage
from support.run_rows import label_config

WIDTH, HEIGHT = 96, 64


@pytest.fixture(scope="module")
def model() -> SDMatte:
    return SDMatte.untrained(input_size=64)


def photo(width: int = WIDTH, height: int = HEIGHT) -> bytes:
    file = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 255, (height, width, 3), np.uint8)
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def mask_png() -> bytes:
    file = io.BytesIO()
    pixels = np.zeros((HEIGHT, WIDTH), bool)
    pixels[10:50, 20:60] = True
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def prompt(record_id: int, **fields: Any) -> dict[str, Any]:
    return dict.fromkeys(field.name for field in PROMPT) | {"record_id": record_id, "transparent": False} | fields


def box(record_id: int, **fields: Any) -> dict[str, Any]:
    return prompt(record_id, kind="box", box=[10.0, 5.0, 60.0, 55.0], **fields)


def identity(key: str) -> int:
    return image_id("s", key)


def row(key: str, prompts: Sequence[dict[str, Any]], data: bytes | None = b"", **fields: Any) -> dict[str, Any]:
    return {
        "shard": "s",
        "image_key": key,
        "image_uri": f"/corpus/{key}",
        "image_id": identity(key),
        "image": photo() if data == b"" else data,
        "image_width": WIDTH,
        "image_height": HEIGHT,
        "prompts": list(prompts),
    } | fields


def ledger(ids: Sequence[int]) -> dict[str, Any]:
    return {"shard": "s", "ledger": {"images": 1, "records": len(ids), "id_sum": id_sum(ids), "matched": []}}


def label(stage: MatteImages, *rows: dict[str, Any]) -> list[dict[str, Any]]:
    table = stage.label(pa.Table.from_pylist(list(rows), schema=IMAGE_ROWS))
    assert table.schema == OUTPUT
    return table.to_pylist()


def test_every_prompt_kind_becomes_a_record_with_an_alpha_of_the_images_size(model: SDMatte) -> None:
    stage = MatteImages(label_config("out"), "run", model)
    prompts = [
        box(1, label="cat", score=0.5, id="7", repairs=["box_clipped"]),
        prompt(2, kind="points", points=[[20.0, 20.0], [30.0, 40.0]]),
        prompt(3, kind="mask", mask=mask_png(), transparent=True),
    ]
    records = label(stage, row("a", prompts))
    assert [record["record_id"] for record in records] == [1, 2, 3]
    for record in records:
        assert record["status"] == "ok"
        assert record["error_code"] is None
        alpha = Image.open(io.BytesIO(record["alpha"]["bytes"]))
        assert (alpha.size, alpha.mode) == ((WIDTH, HEIGHT), "L")
        assert record["coverage"] == pytest.approx(np.asarray(alpha).mean() / 255, abs=0.003)
        assert (record["weights_sha256"], record["precision"]) == (model.weights_sha256, "float32")
        assert (record["input_height"], record["input_width"]) == (64, 64)
        assert len(record["image_sha256"]) == 64
    assert (records[0]["label"], records[0]["prompt_score"], records[0]["prompt_id"]) == ("cat", 0.5, "7")
    assert records[0]["prompt_repairs"] == ["box_clipped"]
    assert records[0]["prompt_iou"] is not None
    assert records[1]["prompt_point_alpha"] is not None
    assert records[2]["transparent"] is True


def test_the_alpha_is_the_models_own_rounded(model: SDMatte) -> None:
    config = label_config("out")
    config = config.model_copy(update={"output": config.output.model_copy(update={"alpha_bits": 16})})
    stage = MatteImages(config, "run", model)
    (record,) = label(stage, row("a", [box(1)]))
    stored = np.asarray(Image.open(io.BytesIO(record["alpha"]["bytes"])))
    pixels = np.asarray(Image.open(io.BytesIO(photo())))
    expected = model(pixels, model_prompt(box(1)), dtype="uint16")
    assert stored.dtype == np.uint16
    assert np.array_equal(stored, expected)


def test_faults_stay_with_their_objects(model: SDMatte) -> None:
    stage = MatteImages(label_config("out"), "run", model)
    audited = {"error_code": "prompt_out_of_frame", "error_message": "box lies elsewhere"}
    records = label(
        stage,
        row("good", [box(1), box(2, **audited)]),
        row("cut", [box(3), box(4)], data=photo()[:900]),
        row("gone", [box(5, error_code="image_missing", error_message="not there")], data=None),
        row("fine", [box(6)]),
        ledger([1, 2, 3, 4, 5, 6]),
    )
    outcome = {record["record_id"]: record["error_code"] for record in records[:-1]}
    assert outcome == {
        1: None,
        2: "prompt_out_of_frame",
        3: "image_truncated",
        4: "image_truncated",
        5: "image_missing",
        6: None,
    }
    assert records[1]["error_message"] == "box lies elsewhere"
    assert all(record["alpha"] is None for record in records if record["status"] == "error")
    assert records[-1]["ledger"]["records"] == 6
    assert {key for key, value in records[-1].items() if value is not None} == {"shard", "ledger"}


def test_a_damaged_mask_costs_its_object_only(model: SDMatte) -> None:
    stage = MatteImages(label_config("out"), "run", model)
    prompts = [prompt(1, kind="mask", mask=mask_png()[:60]), prompt(2, kind="mask", mask=b"no png"), box(3)]
    assert [record["error_code"] for record in label(stage, row("a", prompts))] == [
        "prompt_malformed",
        "prompt_malformed",
        None,
    ]


def test_codes_from_the_model_are_in_the_closed_list(model: SDMatte) -> None:
    stage = MatteImages(label_config("out"), "run", model)
    (record,) = label(stage, row("a", [prompt(1, kind="box", box=[500.0, 500.0, 600.0, 600.0])]))
    assert ErrorCode(record["error_code"]) is ErrorCode.PROMPT_OUT_OF_FRAME


class Troubled:
    """The model, with faults at given boxes' left edges."""

    def __init__(self, model: SDMatte, faults: dict[float, Any]) -> None:
        self._model, self._faults = model, faults
        self.calls: list[int] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def matte(self, objects: Sequence[Any]) -> list[np.ndarray]:
        self.calls.append(len(objects))
        alphas = self._model.matte(objects)
        for index, (_, wanted) in enumerate(objects):
            fault = self._faults.get(wanted.x0)
            if isinstance(fault, Exception):
                raise fault
            if fault is not None:
                alphas[index] = np.full_like(alphas[index], fault)
        return alphas


def at(record_id: int, x0: float) -> dict[str, Any]:
    return prompt(record_id, kind="box", box=[x0, 5.0, 60.0, 55.0])


def test_a_poisonous_object_fails_alone(model: SDMatte) -> None:
    faults = {11.0: RuntimeError("poison"), 12.0: torch.OutOfMemoryError("CUDA out of memory"), 13.0: np.nan}
    stage = MatteImages(label_config("out", model={"batch_size": 8}), "run", Troubled(model, faults))  # type: ignore[arg-type]
    records = label(stage, row("a", [at(1, 10), at(2, 11), at(3, 12), at(4, 13), at(5, 14), at(6, 15)]))
    assert [record["error_code"] for record in records] == [
        None,
        "model_failed",
        "model_out_of_memory",
        "alpha_not_finite",
        None,
        None,
    ]
    assert "poison" in records[1]["error_message"]


def test_a_lost_device_is_not_the_objects_fault(model: SDMatte) -> None:
    lost = {10.0: RuntimeError("CUDA error: device-side assert triggered")}
    stage = MatteImages(label_config("out"), "run", Troubled(model, lost))  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match="device-side"):
        label(stage, row("a", [at(1, 10)]))


class Rationed:
    """The model on a device with room for so many objects of a batch."""

    def __init__(self, model: SDMatte, room: int) -> None:
        self._model, self.room = model, room
        self.calls: list[int] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def matte(self, objects: Sequence[Any]) -> list[np.ndarray]:
        self.calls.append(len(objects))
        if len(objects) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return self._model.matte(objects)


def test_a_full_device_gets_smaller_batches_and_larger_ones_again(
    model: SDMatte, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.batching.REGROW_AFTER", 2)
    rationed = Rationed(model, room=2)
    stage = MatteImages(label_config("out", model={"batch_size": 4}), "run", rationed)  # type: ignore[arg-type]
    prompts = [box(number) for number in range(8)]
    assert {record["status"] for record in label(stage, row("a", prompts))} == {"ok"}
    assert rationed.calls[:3] == [4, 2, 2]
    assert max(rationed.calls[1:]) <= 4
    rationed.room = 4
    rationed.calls.clear()
    assert {record["status"] for record in label(stage, row("b", prompts * 2))} == {"ok"}
    assert rationed.calls[-1] == 4


def test_large_images_are_worked_on_one_at_a_time(model: SDMatte, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matte, "PIXELS_AT_A_TIME", 2 * WIDTH * HEIGHT)
    board = Board()
    label(MatteImages(label_config("out"), "run", model, board), *[row(f"{n}", [box(n)]) for n in range(5)])
    assert board.begun == [[identity(key) for key in keys] for keys in ("01", "23", "4")]


class Board:
    """Notes what it is told, and gives the verdicts that it was given, the last one for ever."""

    def __init__(self, *verdicts: Verdict, stop: str | None = None) -> None:
        self._verdicts = list(verdicts) or [Verdict()]
        self._stop = stop
        self.begun: list[list[int]] = []
        self.ended = 0
        self.counts: list[dict[str, int]] = []
        self.examples: dict[str, str] = {}

    def __call__(self, counts: dict[str, int], process: str, examples: Mapping[str, str]) -> None:
        self.counts.append(counts)
        self.examples |= examples

    def arrive(self, process: str) -> str | None:
        return self._stop

    def begin(self, process: str, images: Sequence[int]) -> Verdict:
        if not images:  # laid down
            return Verdict()
        self.begun.append(list(images))
        return self._verdicts.pop(0) if len(self._verdicts) > 1 else self._verdicts[0]

    def end(self, process: str) -> None:
        self.ended += 1

    def acted(self, process: str, times: ActorTimes) -> None:
        self.times = times

    def stuck(self, process: str, doing: str) -> None:
        raise AssertionError(doing)


def test_the_board_is_told_what_is_in_hand_and_what_was_done(model: SDMatte) -> None:
    board = Board()
    unwanted = row("c", [box(4, error_code="prompt_degenerate", error_message="no area")])
    rows = (row("a", [box(1), box(2)]), row("b", [box(3)], data=b"not an image"), unwanted, ledger([1, 2, 3, 4]))
    label(MatteImages(label_config("out"), "run", model, board), *rows)
    assert board.begun == [[identity("a"), identity("b")]]  # what nobody will look at can't kill anybody
    assert board.ended == 1
    assert board.counts == [{"ok": 2}, {"image_unsupported": 1, "prompt_degenerate": 1}]
    assert board.examples["prompt_degenerate"] == "s: c: no area"


def test_suspects_are_done_alone_and_first_and_the_records_keep_their_order(model: SDMatte) -> None:
    board = Board(Verdict(suspects=frozenset({identity("b"), identity("d")})), Verdict())
    stage = MatteImages(label_config("out"), "run", model, board)
    records = label(stage, *[row(key, [box(number)]) for number, key in enumerate("abcd")])
    assert board.begun == [[identity(key) for key in keys] for keys in ("abcd", "b", "d", "ac")]
    assert board.ended == 1  # what is done counts for certain once all is
    assert [(record["image_key"], record["status"]) for record in records] == [(key, "ok") for key in "abcd"]


def test_a_condemned_image_is_not_touched_and_all_its_prompts_say_why(
    model: SDMatte, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded = []
    decode = matte.decode_image
    monkeypatch.setattr(matte, "decode_image", lambda data, **o: decoded.append(len(data)) or decode(data, **o))
    board = Board(Verdict(condemned={identity("b"): ("model_crashed", "it kills")}))
    stage = MatteImages(label_config("out"), "run", model, board)
    deadly = [box(2), box(3, error_code="prompt_degenerate", error_message="no area")]
    records = label(stage, row("a", [box(1)]), row("b", deadly, data=photo() + b"deadly"), row("c", [box(4)]))
    assert [record["error_code"] for record in records] == [None, "model_crashed", "prompt_degenerate", None]
    assert records[1]["error_message"] == "it kills"
    assert len(records[1]["image_sha256"]) == 64
    assert decoded == [len(photo())] * 2


def test_the_board_can_stop_the_run(model: SDMatte) -> None:
    stage = MatteImages(label_config("out"), "run", model, Board(Verdict(stop="too many")))
    with pytest.raises(BudgetExceededError, match="too many"):
        label(stage, row("a", [box(1)]))


def test_where_process_after_process_dies_no_model_is_loaded_any_more() -> None:
    stage = MatteImages(label_config("out", model={"source": "/no/such/model"}), "run", None, Board(stop="dying"))
    with pytest.raises(BudgetExceededError, match="dying"):
        label(stage, row("a", [box(1)]))


def test_a_parcel_in_is_a_parcel_out_whatever_is_in_it(model: SDMatte) -> None:
    stage = MatteImages(label_config("out"), "run", model)
    for rows in ([row("a", [box(1)]), ledger([1])], [ledger([])], []):
        (parcel,) = stage(pack(pa.Table.from_pylist(rows, schema=IMAGE_ROWS)))
        assert len(parcel) == 1
        assert unpack(parcel).schema == OUTPUT
        assert len(unpack(parcel)) == len(rows)


def test_records_carry_features_and_a_score_that_says_whether_it_was_made_for_this_model(model: SDMatte) -> None:
    (record,) = label(MatteImages(label_config("out"), "run", model), row("a", [box(1)]))
    assert isinstance(record["image_phash"], int)
    for name in ("softness", "semi_transparent", "frame_contact", "prompt_area", "fragments"):
        assert record[name] is not None, name
    assert record["second_difference"] is None
    assert 0 < record["predicted_mad"] < 1
    assert record["quality"] == pytest.approx(2 ** (-record["predicted_mad"] / 0.02), rel=1e-5)
    assert len(record["calibration"]) == 16
    assert record["calibration_matches"] is False  # the bundled ones are of sdmatte-nano


def test_a_second_pass_fills_its_features_and_leaves_the_alpha_as_it_is(model: SDMatte) -> None:
    prompts = [box(1), prompt(2, kind="mask", mask=mask_png())]
    single = label(MatteImages(label_config("out"), "run", model), row("a", prompts))
    twice = label(MatteImages(label_config("out", quality={"second": "flip"}), "run", model), row("a", prompts))
    for before, after in zip(single, twice, strict=True):
        assert after["alpha"] == before["alpha"]
        assert after["second_difference"] > 0
        assert 0 <= after["second_agreement"] < 1


def test_an_object_on_which_the_second_pass_fails_keeps_its_matte(
    model: SDMatte, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = MatteImages(label_config("out", quality={"second": "jitter"}), "run", model)
    assert stage._second is not None
    second = stage._second.matte

    def failing(objects: Sequence[Any]) -> Any:
        if any(each.spec["record_id"] == 2 for each in objects):
            raise RuntimeError("no second matte of this")
        return second(objects)

    monkeypatch.setattr(stage._second, "matte", failing)
    records = label(stage, row("a", [box(1), box(2), box(3)]))
    assert [record["status"] for record in records] == ["ok", "ok", "ok"]
    assert [record["second_difference"] is None for record in records] == [False, True, False]


def test_images_that_look_alike_have_hashes_that_differ_in_few_bits(model: SDMatte) -> None:
    pixels = np.asarray(Image.open(io.BytesIO(photo())))
    smooth = np.kron(pixels[::16, ::16], np.ones((16, 16, 1), np.uint8))
    files = []
    for image in (Image.fromarray(smooth), Image.fromarray(smooth).resize((WIDTH * 2, HEIGHT * 2))):
        file = io.BytesIO()
        image.save(file, "JPEG", quality=80)
        files.append(file.getvalue())
    stage = MatteImages(label_config("out"), "run", model)
    one, two = (label(stage, row("a", [box(1)], data))[0]["image_phash"] for data in files)
    assert ((one ^ two) & (2**64 - 1)).bit_count() <= 6


def test_errors_have_no_score(model: SDMatte) -> None:
    (record,) = label(MatteImages(label_config("out"), "run", model), row("a", [box(1)], b"no image"))
    assert record["status"] == "error"
    assert record["predicted_mad"] is record["quality"] is record["calibration"] is None


class Remote:
    """The model on a device that computes while this machine has its hands free, for so many seconds per batch."""

    def __init__(self, model: SDMatte, seconds: float) -> None:
        self._model, self._seconds = model, seconds
        self.busy = self.most = 0
        self.threads: set[str] = set()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def encode(self, pixels: Sequence[Any], sizes: Sequence[tuple[int, int]]) -> list[Any]:
        return [EncodedImage(torch.empty(0), *size, (64, 64)) for size in sizes]

    def matte(self, objects: Sequence[Any]) -> list[np.ndarray]:
        self.busy += 1
        self.most = max(self.most, self.busy)
        self.threads.add(threading.current_thread().name)
        time.sleep(self._seconds)
        self.busy -= 1
        return [np.zeros((image.height, image.width), np.float32) for image, _ in objects]


def test_while_the_model_computes_for_one_call_another_decodes_and_writes(
    model: SDMatte, monkeypatch: pytest.MonkeyPatch
) -> None:
    remote = Remote(model, 0.1)
    stage = MatteImages(label_config("out"), "run", remote)  # type: ignore[arg-type]
    decode = matte.decode_image

    def slow(data: bytes, **options: Any) -> Any:
        time.sleep(0.08)
        return decode(data, **options)

    monkeypatch.setattr(matte, "decode_image", slow)
    blocks = [pack(pa.Table.from_pylist([row(f"{n}", [box(n)])], schema=IMAGE_ROWS)) for n in range(6)]

    def work(mine: Sequence[pa.Table]) -> list[int]:
        done = [unpack(out) for block in mine for out in stage(block)]
        return [number for table in done for number in table["record_id"].to_pylist()]

    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(work, [blocks[::2], blocks[1::2]]))
    assert found == [[0, 2, 4], [1, 3, 5]]
    assert remote.most == 1  # never two at a time
    assert len(remote.threads) == 1
    times = stage._spans.times()
    assert times.threads["compute"] >= 0.6
    assert times.threads["decode"] >= 0.48
    assert times.total < times.threads["compute"] + times.threads["decode"]  # as it would be one after the other
    assert times.exclusive["decode"] < 0.6 * times.threads["decode"]


def test_two_calls_keep_suspects_alone(model: SDMatte) -> None:
    """The board says of one image of each block that a process died with it."""
    board = Board(Verdict(suspects=frozenset({identity("1"), identity("4")})))
    stage = MatteImages(label_config("out"), "run", model, board)
    blocks = [[row(f"{n + k}", [box(n + k)]) for k in range(3)] for n in (0, 3)]
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda block: [each["record_id"] for each in label(stage, *block)], blocks))
    assert found == [[0, 1, 2], [3, 4, 5]]
    assert sorted(map(len, board.begun)) == [1, 1, 2, 2, 3, 3]  # each block whole, its suspect, the others


def test_the_board_is_told_where_the_time_went_and_the_budget_of_pixels(model: SDMatte) -> None:
    board = Board()
    stage = MatteImages(label_config("out", quality={"second": "jitter"}), "run", model, board)
    (_,) = stage(pack(pa.Table.from_pylist([row("a", [box(1), box(2)])], schema=IMAGE_ROWS)))
    for activity in ("compute", "decode", "score", "encode"):
        assert board.times.threads[activity] > 0, activity
    assert "wait" not in board.times.exclusive
    limit = 4 * 64 * 64
    assert board.times.batches == {
        kind: {"limit": limit, "smallest": limit, "last": limit} for kind in ("encode", "matte", "second")
    }


def test_objects_per_batch_follow_from_the_pixels_of_their_grids(model: SDMatte) -> None:
    sizes = {}
    for budget in (64 * 64, 3 * 64 * 64):
        rationed = Rationed(model, room=99)
        config = label_config("out", model={"batch_pixels": budget})
        label(MatteImages(config, "run", rationed), row("a", [box(number) for number in range(6)]))  # type: ignore[arg-type]
        sizes[budget] = rationed.calls
    assert sizes == {64 * 64: [1] * 6, 3 * 64 * 64: [3, 3]}


def test_batches_hold_one_shape_where_the_aspect_is_kept() -> None:
    aspect = SDMatte.untrained(input_size=128, resize="aspect")
    rationed = Rationed(aspect, room=99)
    stage = MatteImages(label_config("out", model={"batch_size": 2}), "run", rationed)  # type: ignore[arg-type]
    wide, tall = photo(128, 32), photo(32, 128)
    rows = [
        row(f"{number}", [prompt(number, kind="box", box=[1, 1, 30, 30])], wide if number % 2 else tall)
        for number in range(4)
    ]
    assert {record["status"] for record in label(stage, *rows)} == {"ok"}
    assert rationed.calls == [2, 2]


def test_a_second_pass_of_a_larger_input_gets_smaller_batches(model: SDMatte, monkeypatch: pytest.MonkeyPatch) -> None:
    config = label_config("out", quality={"second": "resolution", "second_size": 128})
    stage = MatteImages(config, "run", model)
    assert stage._second is not None
    second, sizes = stage._second.matte, []

    def counted(objects: Sequence[Any]) -> Any:
        sizes.append(len(objects))
        return second(objects)

    monkeypatch.setattr(stage._second, "matte", counted)
    records = label(stage, row("a", [box(number) for number in range(4)]))
    assert all(record["second_difference"] is not None for record in records)
    assert sizes == [1] * 4
