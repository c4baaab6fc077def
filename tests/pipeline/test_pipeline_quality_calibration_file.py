import json
from collections.abc import Callable
from typing import Any

import pytest

from pipeline.errors import ConfigurationError
from pipeline.quality.calibration_file import MAX_BYTES, decoded, encoded
from support.calibrating import fitted

Tree = dict[str, Any]


def document() -> Tree:
    found: Tree = json.loads(encoded(fitted().content))
    found["trees"] = found["trees"][:2]
    return found


def test_what_is_written_is_read() -> None:
    assert decoded(encoded(fitted().content), "file") == fitted().content


def _set(*path: Any) -> Callable[[Tree], None]:
    *way, last, value = path

    def change(tree: Any) -> None:
        for key in way:
            tree = tree[key]
        tree[last] = value

    return change


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_set("format", 2), "has the format '2', and this program reads 1"),
        (_set("trees", 0, "left", 0, 0), "node 0 has children that do not come after it"),
        (_set("trees", 0, "right", 0, 999), "node 0 has children that do not come after it"),
        (_set("trees", 1, "value", []), "the columns of a tree differ in length"),
        (_set("trees", 0, "feature", 0, 99), "a tree looks at a feature that there is not"),
        (_set("trees", 0, "threshold", 0, float("nan")), "finite number"),
        (_set("trees", 0, "threshold", 0, "1; import os"), "valid number"),
        (_set("features", 0, "name", "image_key"), "features.0.name"),
        (_set("features", []), "features: List should have at least 1 item"),
        (_set("curve", "y", [0.2, 0.1]), "the curve does not rise"),
        (_set("curve", {"x": [0, 1], "y": [0, 1.5]}), "the curve leaves 0 to 1"),
        (_set("curve", {"x": [1, 1], "y": [0, 1]}), "the curve does not rise"),
        (_set("model", "weights_sha256", "../../etc"), "model.weights_sha256"),
        (_set("second", "kind", "third"), "second.kind"),
        (_set("more", 1), "more: Extra inputs are not permitted"),
    ],
)
def test_a_damaged_file_is_refused_with_the_place(change: Callable[[Tree], None], said: str) -> None:
    tree = document()
    change(tree)
    with pytest.raises(ConfigurationError) as caught:
        decoded(json.dumps(tree).encode(), "mine.json")
    message = str(caught.value)
    assert said in message
    assert "the calibration mine.json" in message
    assert "name a file that jobs/calibrate.py wrote, or make it again" in message
    assert len(message) < 600


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "is not JSON"),
        (b"\x80\x04\x95", "is not JSON"),
        (b"[" * 100_000, "is not JSON"),
        (b"[]", "has the format 'None'"),
        (b"{" + b" " * MAX_BYTES + b"}", "is larger than 4,000,000 bytes"),
    ],
)
def test_other_files_are_refused(data: bytes, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        decoded(data, "mine.json")
