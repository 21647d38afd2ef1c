"""Linearised distances: of a linear model they are the true ones."""

import pytest
import torch
from torch import Tensor

from advkit import norms
from advkit._engine.boundaries import nearest_boundaries
from advkit._engine.classifier import Classifier
from contracts.scenes import Passes, draw, linear_net


@pytest.mark.parametrize(("norm", "dual"), [(norms.L2, 2.0), (norms.Linf, 1.0), (norms.L1, torch.inf)])
def test_the_distances_of_a_linear_model(norm: norms.Norm, dual: float) -> None:
    network = linear_net(4)
    model, weight = Passes(network), network[-1].weight.detach()
    x = draw(6, 3, 8, 8).requires_grad_()
    logits = Classifier(model, {}).logits(x)
    leads = torch.stack([logits[:, 0] - logits[:, rival] for rival in (1, 2, 3)], 1)
    gaps = leads.abs().unbind(1)  # from either side
    found = nearest_boundaries(Classifier(model, {}), x, gaps, norm)
    lengths = torch.stack([(weight[0] - weight[rival]).norm(dual) for rival in (1, 2, 3)])
    expected = torch.stack(gaps, 1).detach() / lengths
    torch.testing.assert_close(found.distances, expected)
    torch.testing.assert_close(found.slopes, lengths.expand(6, 3))
    torch.testing.assert_close(found.distance, expected.amin(1))
    which = expected.argmin(1)
    sign = leads.detach().sign().gather(1, which[:, None])
    torch.testing.assert_close(found.gradient.flatten(1), sign * (weight[0] - weight[1 + which]))
    assert len(set(which.tolist())) > 1
    assert (model.forwards, model.backwards) == ([6], [6, 6, 6])


def test_what_has_no_slope_or_no_gap_leads_nowhere() -> None:
    x = torch.tensor([[1.0, 2.0], [1.0, 2.0]]).requires_grad_()
    flat, far, near = 0 * x[:, 0] + 1, x[:, 0] + torch.tensor([torch.inf, 9.0]), x[:, 1]
    model = Classifier(lambda images: images, {})
    found = nearest_boundaries(model, x, [flat, far, near], norms.L2)
    assert found.distances.tolist() == [[torch.inf, torch.inf, 2.0], [torch.inf, 10.0, 2.0]]
    assert found.gradient.tolist() == [[0.0, 1.0], [0.0, 1.0]]
    found = nearest_boundaries(model, x, [0 * x[:, 0] + 1], norms.L2)
    assert found.distance.isinf().all()
    assert not found.gradient.any()


def test_another_length() -> None:
    x = torch.tensor([[1.0, 2.0]]).requires_grad_()

    def length(gap: Tensor, gradient: Tensor) -> Tensor:
        return 10 - gap

    model = Classifier(lambda images: images, {})
    found = nearest_boundaries(model, x, [x[:, 0], x[:, 1], 0 * x[:, 0]], norms.L2, length)
    assert found.distances.tolist() == [[9.0, 8.0, torch.inf]]
    assert found.gradient.tolist() == [[0.0, 1.0]]
