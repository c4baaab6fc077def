import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import closing

import pytest
import torch

from pipeline.crashes import DEATHS_ALONE, CrashAccount, Verdict
from pipeline.ids import image_id
from pipeline.stages.hazards import ProcessWatch, in_ray_actor, is_device_lost, is_out_of_memory
from pipeline.stages.records import Work
from pipeline.timing import ActorTimes


class Board:
    """Notes what a stuck process says last."""

    def __init__(self) -> None:
        self.stuck_at: list[tuple[str, str]] = []

    def __call__(self, counts: dict[str, int], process: str, examples: Mapping[str, str]) -> None: ...

    def arrive(self, process: str) -> str | None: ...

    def begin(self, process: str, images: Sequence[int]) -> Verdict:
        return Verdict()

    def end(self, process: str) -> None: ...

    def acted(self, process: str, times: ActorTimes) -> None: ...

    def stuck(self, process: str, doing: str) -> None:
        self.stuck_at.append((process, doing))


class AccountBoard(Board):
    """Keeps a real account."""

    def __init__(self, account: CrashAccount) -> None:
        super().__init__()
        self._account = account

    def begin(self, process: str, images: Sequence[int]) -> Verdict:
        return self._account.begin(process, images)

    def end(self, process: str) -> None:
        self._account.end(process)


def work(manifest: str, key: str, occurrence: int) -> Work:
    """A row of a manifest in which other rows have the same key."""
    identity = image_id(manifest, key, occurrence)
    shard = f"{manifest}:rows-0"
    return Work(
        {"shard": shard, "image_key": key, "image_id": identity, "image": b"x", "prompts": [{"error_code": None}]}
    )


class Ended:
    """Stands for the end of the process."""

    def __init__(self, board: Board) -> None:
        self._board = board
        self.event = threading.Event()
        self.told_first = False

    def __call__(self, code: int) -> None:
        self.told_first = bool(self._board.stuck_at) and code != 0
        self.event.set()


def test_a_step_that_takes_too_long_ends_the_process_after_the_board_knows() -> None:
    board = Board()
    ended = Ended(board)
    watch = ProcessWatch(board, 0.1, ended)
    with watch.step("matting 3 objects"):
        assert ended.event.wait(10)
    assert ended.told_first
    assert board.stuck_at == [(watch.process, "matting 3 objects took longer than model.batch_timeout=0.1 s")]


def test_many_short_steps_take_as_long_as_they_like() -> None:
    board = Board()
    ended = Ended(board)
    watch = ProcessWatch(board, 0.2, ended)
    for _ in range(6):
        with watch.step("decoding"):
            time.sleep(0.05)
    time.sleep(0.3)  # between steps nothing is late
    assert not ended.event.is_set()


def test_steps_of_several_threads_are_watched_at_once() -> None:
    board = Board()
    ended = Ended(board)
    watch = ProcessWatch(board, 0.2, ended)

    def stick() -> None:
        with watch.step("decoding b"):
            ended.event.wait(10)

    stuck = threading.Thread(target=stick)
    stuck.start()
    while not ended.event.is_set():
        with watch.step("decoding a"):
            time.sleep(0.01)
    stuck.join()
    assert [doing.split(" took")[0] for _, doing in board.stuck_at] == ["decoding b"]


def test_a_step_that_raises_is_over() -> None:
    board = Board()
    ended = Ended(board)
    watch = ProcessWatch(board, 0.1, ended)
    with pytest.raises(RuntimeError), watch.step("matting"):
        raise RuntimeError
    time.sleep(0.2)
    assert not ended.event.is_set()


def test_every_process_has_an_id_of_its_own() -> None:
    assert len({ProcessWatch(None, 1).process for _ in range(100)}) == 100


def test_this_is_no_actor() -> None:
    assert not in_ray_actor()


@pytest.mark.parametrize(
    ("error", "out_of_memory", "lost"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), True, False),
        (RuntimeError("CUDA error: out of memory"), True, False),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate(handle)"), True, False),
        (RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"), True, False),
        (MemoryError(), True, False),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), False, True),
        (RuntimeError("CUDA error: device-side assert triggered"), False, True),
        (RuntimeError("shape mismatch"), False, False),
    ],
)
def test_faults_of_the_device_are_told_apart(error: Exception, out_of_memory: bool, lost: bool) -> None:
    assert is_out_of_memory(error) is out_of_memory
    assert is_device_lost(error) is lost


def test_living_processes_that_hold_rows_of_the_same_key_are_not_taken_for_dead() -> None:
    account = CrashAccount(actors=2)
    works = [work("m.jsonl", "cat.jpg", occurrence) for occurrence in range(2)]
    assert works[0].name == works[1].name
    watches = [ProcessWatch(AccountBoard(account), 10) for _ in works]
    for _ in range(DEATHS_ALONE + 1):
        in_hand = [watch.portions([each]) for watch, each in zip(watches, works, strict=True)]
        assert [list(map(id, next(portions))) for portions in in_hand] == [[id(each)] for each in works]
        assert [list(portions) for portions in in_hand] == [[], []]  # each lays down what it had
    assert account.deaths == 0
    assert [each.error for each in works] == [None, None]


def test_the_row_that_kills_is_condemned_and_the_one_of_the_same_key_is_not() -> None:
    account = CrashAccount()
    good, deadly = (work("m.jsonl", "cat.jpg", occurrence) for occurrence in range(2))
    for _ in range(DEATHS_ALONE):
        next(ProcessWatch(AccountBoard(account), 10).portions([deadly]))  # dies with it in hand
    assert list(ProcessWatch(AccountBoard(account), 10).portions([good, deadly])) == [[good, deadly]]
    assert (good.error, deadly.error and str(deadly.error[0])) == (None, "model_crashed")


class Crowd(Board):
    """Keeps which images are in hand at the same time, and how many hands were full when each was begun on."""

    def __init__(self, *suspects: int) -> None:
        super().__init__()
        self._suspects = frozenset(suspects)
        self.held: dict[str, list[int]] = {}
        self.most = 0
        self.beside: dict[int, list[int]] = {}
        self._lock = threading.Lock()

    def begin(self, hand: str, images: Sequence[int]) -> Verdict:
        with self._lock:
            self.held.pop(hand, None)
            if len(images) > 1 and (suspects := self._suspects & set(images)):
                return Verdict(suspects=frozenset(suspects))
            for image in images:
                self.beside[image] = [other for each in self.held.values() for other in each]
            if images:
                self.held[hand] = list(images)
            self.most = max(self.most, len(self.held))
            return Verdict()

    def end(self, hand: str) -> None:
        with self._lock:
            self.held.pop(hand, None)


def in_threads(watch: ProcessWatch, blocks: Sequence[Sequence[Work]], *, alone: bool = False) -> None:
    def work_through(block: Sequence[Work]) -> None:
        for _ in watch.portions(block, alone=alone):
            time.sleep(0.01)

    threads = [threading.Thread(target=work_through, args=[block]) for block in blocks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()


def test_threads_have_their_images_in_hand_at_the_same_time() -> None:
    crowd = Crowd()
    in_threads(ProcessWatch(crowd, 10), [[work("m", key, 0)] for key in "abcd"])
    assert crowd.most > 1
    assert crowd.held == {}


def test_a_suspect_is_alone_in_hand_whatever_other_threads_do() -> None:
    blocks = [[work("m", f"{key}{number}", 0) for number in range(4)] for key in "abcdef"]
    suspects = [blocks[0][1].identity, blocks[0][3].identity, blocks[2][0].identity, blocks[5][2].identity]
    crowd = Crowd(*suspects)
    in_threads(ProcessWatch(crowd, 10), blocks)
    assert {image: crowd.beside[image] for image in suspects} == {image: [] for image in suspects}
    assert not any(set(beside) & set(suspects) for beside in crowd.beside.values())
    assert set(crowd.beside) == {each.identity for block in blocks for each in block}
    assert crowd.held == {}


def test_who_asks_to_be_alone_is() -> None:
    crowd = Crowd()
    watch = ProcessWatch(crowd, 10)
    in_threads(watch, [[work("m", key, 0)] for key in "abcd"], alone=True)
    assert crowd.most == 1
    in_threads(ProcessWatch(None, 10), [[work("m", key, 0)] for key in "ab"], alone=True)


def test_a_portion_that_fails_does_not_keep_others_out() -> None:
    watch = ProcessWatch(Crowd(), 10)

    def fail(portion: Sequence[Work]) -> None:
        raise RuntimeError(portion[0].name)

    with pytest.raises(RuntimeError), closing(watch.portions([work("m", "a", 0)], alone=True)) as portions:
        fail(next(portions))
    in_threads(watch, [[work("m", "b", 0)]])


def test_each_thread_has_a_hand_of_its_own_and_keeps_it() -> None:
    watch = ProcessWatch(None, 10)
    assert watch.hand == watch.hand
    others: list[str] = []
    thread = threading.Thread(target=lambda: others.append(watch.hand))
    thread.start()
    thread.join()
    assert others[0] != watch.hand
    assert {each.partition(".")[0] for each in (watch.hand, *others)} == {watch.process}


def test_suspects_that_are_done_do_not_hide_that_process_after_process_dies() -> None:
    """Each process gets one image further and dies of what is no image's fault, such as a step that is too slow."""
    account = CrashAccount()
    block = [work("m", key, 0) for key in "abcd"]
    account.begin("first", [each.identity for each in block])
    reasons = []
    for _ in range(40):
        board = AccountBoard(account)
        watch = ProcessWatch(board, 10)
        reasons.append(account.arrive(watch.process))
        for each in block:
            each.error = None
        portions = watch.portions(block)
        next(portions)
        next(portions)  # the first one is done; it dies with the second one in hand, of which it is not found guilty
        account._deaths_alone.clear()
        account._losses_alone.clear()
        if reasons[-1]:
            break
    assert "it dies of something that is no image's fault" in str(reasons[-1])
