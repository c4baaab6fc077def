"""Which images were in hand when a process of the model died: the account that finds the guilty ones.

A process says which images it begins on, and when it is done with them. If another process begins on an image that is
still in somebody's hand, that somebody is dead: Ray gives an image to one process at a time. What the dead one had in
hand is suspect from then on, and is done one image at a time. An image during which a process died
:data:`DEATHS_ALONE` times while it was *alone* in hand is condemned: its prompts become error records, and it is not
touched again. So an image that kills its process does so three times at most, and costs none of its neighbours.

A process that disappears together with its node (preemption, a power cut) says little about the image that it had in
hand, so that such deaths condemn only from :data:`LOSSES_ALONE` on.

Images are told apart by ``image_id`` here, never by name: rows of a manifest may share a key, and be in hand of two
processes that are both alive.

A process may have several hands, one for each block of images that it works on at a time (:func:`hand_of`). It dies
with all of them, and an image is alone in hand only if all the others are empty: a process does suspects while it does
nothing else.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from pipeline.errors import ErrorCode

DEATHS_ALONE = 2
"""Deaths of a process with nothing but an image in hand, after which the image is condemned."""

LOSSES_ALONE = 5
"""The same, counting those that died together with their node."""


@dataclass(frozen=True)
class Verdict:
    """What a process is told before it begins on images.

    Attributes:
        stop: Why the run must not go on; None while it may.
        condemned: Code and message, by image id, of those that must not be touched again.
        suspects: Ids of images to be done one at a time. Where there are any, nothing is in hand yet: the process
            begins anew on each of them, and on the others.
    """

    stop: str | None = None
    condemned: dict[int, tuple[str, str]] = field(default_factory=dict)
    suspects: frozenset[int] = frozenset()


def hand_of(process: str, number: int) -> str:
    """Return the name of one of a process's hands; the process's own name is that of a hand, too."""
    return f"{process}.{number}"


@dataclass
class _Process:
    """A process, and what it has in each of its hands."""

    node: str
    hands: dict[str, tuple[int, ...]] = field(default_factory=dict)
    stuck: str | None = None


class CrashAccount:
    """Who has which images in hand, and what is known about those during which a process died.

    Args:
        actors: Processes of the model that work at the same time.
        node_is_alive: Tells whether a node of the cluster is still there.

    Attributes:
        deaths: Processes that died with images in hand.
        dead: The hands of those that were found out since this was last emptied.
    """

    def __init__(self, actors: int = 1, node_is_alive: Callable[[str], bool] = lambda _: True) -> None:
        self.deaths = 0
        self.dead: list[str] = []
        self._node_is_alive = node_is_alive
        self._starts = 0
        self._starts_allowed = 10 + 5 * actors
        self._processes: dict[str, _Process] = {}
        self._holders: dict[int, str] = {}
        self._suspects: set[int] = set()
        self._deaths_alone: Counter[int] = Counter()
        self._losses_alone: Counter[int] = Counter()
        self._condemned: dict[int, tuple[str, str]] = {}

    def arrive(self, process: str, node: str = "") -> str | None:
        """Note that a process starts; returns why it shouldn't, where process after process dies for nothing."""
        self._processes[process] = _Process(node)
        self._starts += 1
        if self._starts <= self._starts_allowed:
            return None
        return (
            f"the model's process has been started {self._starts} times since an image was last finished: it dies of "
            "something that is no image's fault, often too little memory on its node. Lower workers.actors or "
            "model.batch_size, and see the workers' logs of Ray. What was committed stays, and the same command "
            "continues the run"
        )

    def begin(self, hand: str, images: Sequence[int]) -> Verdict:
        """Take images in hand, unless some of them are suspects among others; lays down what was in that hand before.

        Args:
            hand: Of the process that takes them.
            images: Their ids (:func:`pipeline.ids.image_id`).
        """
        self._lay_down(hand)
        for image in images:
            holder = self._holders.get(image)
            if holder is None:
                continue
            if _process_of(holder) == _process_of(hand):  # a repetition within a process that is alive
                self._take(image, holder)
            else:
                self._bury(_process_of(holder))
        condemned = {image: self._condemned[image] for image in images if image in self._condemned}
        left = tuple(dict.fromkeys(image for image in images if image not in condemned))
        suspects = frozenset(image for image in left if image in self._suspects)
        if suspects and len(left) > 1:
            return Verdict(condemned=condemned, suspects=suspects)
        self._known(_process_of(hand)).hands[hand] = left
        self._holders.update(dict.fromkeys(left, hand))
        return Verdict(condemned=condemned)

    def end(self, hand: str) -> None:
        """Lay down what is in a hand: it is done."""
        if self._lay_down(hand):
            self._starts = 0

    def stuck(self, process: str, doing: str) -> None:
        """Note that a process will end itself because what it is doing takes too long."""
        self._known(process).stuck = doing

    def _known(self, process: str) -> _Process:
        return self._processes.setdefault(process, _Process(""))  # unknown where the account was lost meanwhile

    def _lay_down(self, hand: str) -> tuple[int, ...]:
        process = self._processes.get(_process_of(hand))
        images = process.hands.get(hand, ()) if process else ()
        for image in images:
            del self._holders[image]
        if process:
            process.hands[hand] = ()
        return images

    def _take(self, image: int, hand: str) -> None:
        """Take one image out of a hand."""
        hands = self._processes[_process_of(hand)].hands
        hands[hand] = tuple(each for each in hands[hand] if each != image)
        del self._holders[image]

    def _bury(self, name: str) -> None:
        """Draw the conclusions from a process's death."""
        process = self._processes[name]
        images = [image for hand in process.hands for image in self._lay_down(hand)]
        del self._processes[name]
        self.deaths += 1
        self.dead.extend(process.hands)
        self._suspects.update(images)
        if len(images) != 1:
            return
        (image,) = images
        self._losses_alone[image] += 1
        # A process that ended itself did so whatever became of its node since.
        if process.stuck or not process.node or self._node_is_alive(process.node):
            self._deaths_alone[image] += 1
        if self._deaths_alone[image] >= DEATHS_ALONE or self._losses_alone[image] >= LOSSES_ALONE:
            self._condemned[image] = _sentence(self._losses_alone[image], process.stuck)
            self._starts = 0


def _process_of(hand: str) -> str:
    return hand.partition(".")[0]


def _sentence(deaths: int, stuck: str | None) -> tuple[str, str]:
    """Return the code and the message of a condemned image's records; the last death decides."""
    if stuck:
        return ErrorCode.MODEL_TIMEOUT, (
            f"{stuck}, with nothing but this image in hand; it was tried alone {deaths} times and not again, and none "
            "of its prompts is labelled. Raise model.batch_timeout if the device is slow, else leave the image out"
        )
    return ErrorCode.MODEL_CRASHED, (
        f"the model's process died {deaths} times with nothing but this image in hand; it is not tried again, and "
        "none of its prompts is labelled. The workers' logs of Ray may say of what it died: a fault in native code or "
        "too little memory for an image of this size"
    )
