import numpy as np
import pytest

from pipeline.quality.edges import ImageEdges, edge_alignment


def disc(radius: float = 30, x: float = 64) -> np.ndarray:
    rows, columns = np.mgrid[:96, :128].astype(np.float32)
    return np.clip(radius - np.hypot(columns - x, rows - 48) + 0.5, 0, 1)


def picture(alpha: np.ndarray, front: tuple[int, int, int], back: tuple[int, int, int]) -> np.ndarray:
    mixed = alpha[..., None] * np.array(front, np.float32) + (1 - alpha[..., None]) * np.array(back, np.float32)
    return np.rint(mixed).astype(np.uint8)


def test_edges_on_edges_are_aligned_and_others_are_not() -> None:
    edges = ImageEdges.of(picture(disc(), (200, 60, 60), (40, 90, 200)))
    assert edge_alignment(disc(), edges) > 0.8
    assert edge_alignment(disc(20), edges) < 0.05


def test_colours_of_equal_brightness_have_an_edge() -> None:
    edges = ImageEdges.of(picture(disc(), (150, 0, 0), (0, 76, 0)))
    assert edge_alignment(disc(), edges) > 0.8


def test_alignment_does_not_need_contrast() -> None:
    faint = ImageEdges.of(picture(disc(), (110, 110, 110), (90, 90, 90)))
    assert edge_alignment(disc(), faint) > 0.6


def test_an_edge_across_is_no_edge_along() -> None:
    columns = np.tile(np.linspace(0, 255, 128).astype(np.uint8), (96, 1))
    edges = ImageEdges.of(np.stack([columns] * 3, axis=-1))
    across, along = np.zeros((96, 128), np.float32), np.zeros((96, 128), np.float32)
    across[:, 64:] = along[48:] = 1
    assert edge_alignment(across, edges) > 0.3
    assert edge_alignment(along, edges) == pytest.approx(0, abs=1e-3)


def test_a_plain_picture_has_no_edges() -> None:
    assert edge_alignment(disc(), ImageEdges.of(np.full((96, 128, 3), 90, np.uint8))) == 0


@pytest.mark.parametrize("level", [0, 0.5, 1])
def test_a_plain_alpha_has_none_either(level: float) -> None:
    edges = ImageEdges.of(picture(disc(), (200, 60, 60), (40, 90, 200)))
    assert edge_alignment(np.full((96, 128), level, np.float32), edges) is None
