"""The walk back to an image: where it has nowhere to go."""

import torch

from advkit.evaluation.tries import _to_plane


def test_points_go_to_the_plane_inside_the_box_and_stay_where_there_is_no_slope() -> None:
    points = torch.tensor([[0.5, 0.5], [0.5, 0.5], [0.0, 0.0], [0.2, 0.0]])
    gradient = torch.tensor([[2.0, 0.0], [0.0, 0.0], [1.0, 1.0], [1.0, 1.0]])
    heights = torch.tensor([0.4, 1.0, 1.0, 0.1])  # the third would have to leave the box
    found = _to_plane(points, heights, gradient, (0.0, 1.0))
    torch.testing.assert_close(found, torch.tensor([[0.3, 0.5], [0.5, 0.5], [0.0, 0.0], [0.1, 0.0]]))
