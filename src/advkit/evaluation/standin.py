"""What attackers differentiate in place of a model that stands alone and has no useful gradient."""

import torch
from torch import Tensor, nn

from advkit._base.answers import found_in
from advkit._engine.checks import check_model
from advkit.model import Defended, Model

__all__ = ["with_stand_in"]


def with_stand_in(model: nn.Module, surrogate: Model | None) -> nn.Module:
    """A model whose gradient, for an adaptive attacker, is that of a surrogate; the model itself for None."""
    if surrogate is None:
        return model
    check_model(surrogate)
    return Defended(model, _StandIn(surrogate), model)


class _StandIn:
    """A defense in name only, which says what to differentiate."""

    differentiable = False
    stochastic = False

    def __init__(self, surrogate: Model) -> None:
        self._surrogate = surrogate

    def surrogate(self, model: Model) -> Model:
        return _Through(model, self._surrogate)


class _Through(nn.Module):
    """The logits of one model with the gradient of another (BPDA; Athalye, Carlini & Wagner 2018, section 4.1)."""

    def __init__(self, model: Model, surrogate: Model) -> None:
        super().__init__()
        self.model, self.surrogate = model, surrogate

    def forward(self, images: Tensor) -> Tensor:
        with torch.no_grad():
            logits: Tensor = found_in(self.model(images))
        if not (torch.is_grad_enabled() and images.requires_grad):
            return logits
        smooth: Tensor = found_in(self.surrogate(images))
        return logits + (smooth - smooth.detach()).nan_to_num()  # of logits that are masked with -inf
