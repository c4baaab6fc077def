import math

import pytest
import torch
from diffusers.models.embeddings import get_timestep_embedding

from sdmatte.embeddings import box_features, coordinate_features, point_features
from sdmatte.prompts import MAX_POINTS

FEATURES = 1680  # of the released models


def sinusoid(value: float, channels: int) -> list[float]:
    """Cosines, then sines, of frequencies that fall from 1 to nearly 1/10000."""
    half = channels // 2
    angles = [value * math.exp(-math.log(10000) * index / half) for index in range(half)]
    return [math.cos(angle) for angle in angles] + [math.sin(angle) for angle in angles] + [0.0] * (channels % 2)


def test_each_coordinate_of_a_box_gets_its_own_sinusoid() -> None:
    coordinates = [0.0, 0.25, 0.5, 1.0]
    result = box_features(torch.tensor(coordinates), 320)
    assert (result.shape, result.dtype) == ((1280,), torch.float32)
    expected = [number for value in coordinates for number in sinusoid(value, 320)]
    torch.testing.assert_close(result, torch.tensor(expected))


@pytest.mark.parametrize(
    ("numbers", "padded", "channels"),
    [(20, 20, 84), (22, 24, 70), (24, 24, 70), (26, 28, 60), (62, 70, 24), (102, 105, 16), (2 * MAX_POINTS, 1680, 1)],
)
def test_points_share_the_features_by_the_smallest_divisor(numbers: int, padded: int, channels: int) -> None:
    assert padded * channels == FEATURES
    coordinates = torch.linspace(0.1, 1, numbers)
    result = point_features(coordinates, FEATURES)
    filled = coordinates.tolist() + [0.0] * (padded - numbers)
    expected = [number for value in filled for number in sinusoid(value, channels)]
    assert result.shape == (FEATURES,)
    torch.testing.assert_close(result, torch.tensor(expected))


def test_the_sinusoid_of_this_test_is_the_one_of_diffusers() -> None:
    ours = torch.tensor(sinusoid(0.3, 84))
    theirs = get_timestep_embedding(torch.tensor([0.3]), 84, flip_sin_to_cos=True, downscale_freq_shift=0)[0]
    torch.testing.assert_close(ours, theirs)


def test_boxes_and_points_share_a_batch() -> None:
    box, points = torch.tensor([0.1, 0.2, 0.3, 0.4]), torch.linspace(0, 1, 20)
    features = coordinate_features([box, points, box], [False, True, False], box_channels=320, points_dim=FEATURES)
    assert features.is_points.tolist() == [False, True, False]
    torch.testing.assert_close(features.box[[0, 2]], box_features(box, 320).expand(2, -1))
    torch.testing.assert_close(features.points[1], point_features(points, FEATURES))
    assert not features.box[1].any()
    assert not features.points[[0, 2]].any()
