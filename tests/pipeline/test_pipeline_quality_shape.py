import numpy as np
import pytest

from pipeline.quality.shape import fragments, frame_contact, holes


@pytest.fixture
def core() -> np.ndarray:
    """A 40 x 40 object in 100 x 100 pixels."""
    core = np.zeros((100, 100), bool)
    core[20:60, 20:60] = True
    return core


def test_parts_are_counted_but_not_specks(core: np.ndarray) -> None:
    core[70:80, 70:80] = True
    core[90, 90] = True
    assert fragments(core) == (2, pytest.approx(101 / 1701))


def test_parts_that_touch_at_a_corner_are_one(core: np.ndarray) -> None:
    core[60:70, 60:70] = True
    assert fragments(core) == (1, 0)


def test_nothing_has_no_parts(core: np.ndarray) -> None:
    assert fragments(core & False) == (0, None)
    assert holes(core & False) == (0, None)


def test_holes_are_counted_but_not_specks(core: np.ndarray) -> None:
    core[30:40, 30:40] = False
    core[50, 50] = False
    assert holes(core) == (1, pytest.approx(101 / 1600))


def test_what_opens_to_the_border_is_no_hole(core: np.ndarray) -> None:
    assert holes(core) == (0, 0)
    core[:, 38:40] = False
    core[0, :] = core[:, 0] = core[-1, :] = core[:, -1] = True
    assert holes(core)[0] == 1  # the frame encloses all of it
    core[-1, 38:40] = False
    assert holes(core)[0] == 0


def test_a_hole_that_only_a_corner_connects_with_outside_is_closed(core: np.ndarray) -> None:
    core[20:23, 20:23] = False
    core[23:28, 23:28] = False
    assert holes(core) == (1, pytest.approx(25 / (1600 - 9)))


def test_contact_is_the_share_of_the_border(core: np.ndarray) -> None:
    assert frame_contact(core) == 0
    core[0] = True
    assert frame_contact(core) == pytest.approx(100 / 396)
    assert frame_contact(~core & core) == 0
    assert frame_contact(core | True) == 1


def test_of_a_line_of_pixels_all_are_border() -> None:
    assert frame_contact(np.array([[True, False, False, False]])) == 0.25
    assert frame_contact(np.array([[True], [False]])) == 0.5
