"""Per-sample losses of logits: one number per image, never an average over the batch.

Every function takes ``logits`` of shape (N, K), floating, and ``labels`` of shape (N,), int64, and returns
a tensor of shape (N,) in the dtype of the logits.

Examples:
    >>> attack = advkit.PGD(model, loss="margin")  # by name
    >>> attack = advkit.PGD(model, loss=advkit.losses.dlr)  # or as a function
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from advkit._base.scale import contenders
from advkit.errors import InputError

__all__ = ["Loss", "best_other", "cross_entropy", "dlr", "get", "log_odds", "logit", "margin", "targeted_dlr"]

Loss = Callable[[Tensor, Tensor], Tensor]
"""What an attack maximises: logits (N, K) and classes int64 (N,) to one number per image, (N,), that is large where the
model does not predict the class. With targets, an attack minimises it instead."""


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of each image, -log softmax(logits)[label]. Shape (N,), in nats.

    Examples:
        >>> advkit.losses.cross_entropy(torch.tensor([[0.0, 0.0], [0.0, 9.0]]), torch.tensor([0, 0]))
        tensor([0.6931, 9.0001])
    """
    return F.cross_entropy(logits, labels, reduction="none")


def best_other(logits: Tensor, labels: Tensor) -> Tensor:
    """The largest logit of a class other than the label, max_{i != y} Z_i. Shape (N,).

    The label's own logit is masked with -inf: a mask of zero would be the largest of logits that are all
    negative, such as log-probabilities.

    Examples:
        >>> advkit.losses.best_other(torch.tensor([[-1.0, -2.0, -3.0]]), torch.tensor([0]))
        tensor([-2.])
    """
    return logits.scatter(1, labels[:, None], -torch.inf).amax(1)


def margin(logits: Tensor, labels: Tensor) -> Tensor:
    """How far the label leads, Z_y - max_{i != y} Z_i: positive where the model predicts the label. Shape (N,).

    Examples:
        >>> advkit.losses.margin(torch.tensor([[3.0, 1.0, 0.0], [1.0, 3.0, 0.0]]), torch.tensor([0, 0]))
        tensor([ 2., -2.])
    """
    return logits.gather(1, labels[:, None]).squeeze(1) - best_other(logits, labels)


def dlr(logits: Tensor, labels: Tensor) -> Tensor:
    """Difference of logits ratio (DLR): minus the margin, in units of the spread of the logits. Shape (N,).

    -(Z_y - max_{i != y} Z_i) / (Z_(1) - Z_(3)), with Z_(k) the k-th largest logit: positive where the model
    errs, and the same when the logits are shifted or scaled. Croce & Hein, "Reliable evaluation of
    adversarial robustness with an ensemble of diverse parameter-free attacks", ICML 2020, section 4. Two
    classes have no third logit; for them it is minus the margin, unscaled. The same holds if the third largest
    logit does not count, for example because it is masked with -inf.

    Examples:
        >>> logits = torch.tensor([[4.0, 2.0, 0.0], [4.0, 2.0, 0.0]])
        >>> advkit.losses.dlr(logits, torch.tensor([0, 1]))
        tensor([-0.5000,  0.5000])
        >>> advkit.losses.dlr(10 * logits + 3, torch.tensor([0, 1]))
        tensor([-0.5000,  0.5000])
    """
    return _ratio(-margin(logits, labels), logits, 3)


def targeted_dlr(logits: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
    """Targeted difference of logits ratio, between the label and another class, the target. Shape (N,).

    -(Z_y - Z_t) / (Z_(1) - (Z_(3) + Z_(4)) / 2), with Z_(k) the k-th largest logit: positive where the target leads
    the label. Croce & Hein, as for `dlr`. Fewer than four classes have no fourth logit; for them it is minus
    the difference, unscaled. Z_(1) - Z_(3) would not do: for the last of three it is that difference itself. The same
    holds if the fourth largest logit does not count, for example because it is masked with -inf.

    Examples:
        >>> logits = torch.tensor([[4.0, 2.0, 1.0, -1.0, -5.0]])
        >>> advkit.losses.targeted_dlr(logits, torch.tensor([0]), torch.tensor([1]))
        tensor([-0.5000])
        >>> advkit.losses.targeted_dlr(logits[:, :3], torch.tensor([0]), torch.tensor([1]))
        tensor([-2.])
    """
    lead = logits.gather(1, targets[:, None]) - logits.gather(1, labels[:, None])
    return _ratio(lead.squeeze(1), logits, 4)


def _ratio(lead: Tensor, logits: Tensor, rank: int) -> Tensor:
    """A lead (N,) over how far the largest logit is from the mean of the third to the ``rank``-th, if there are such.

    A lead that is infinite, or nearly, since a class is masked with -inf or the smallest of floats, is that with its
    own gradient: that of the ratio would overflow.
    """
    if logits.shape[1] < rank:
        return lead
    top = logits.topk(rank, dim=1).values
    scaled = contenders(top)[:, -1] & (lead.abs() < torch.finfo(logits.dtype).max ** 0.5)
    below = top[:, 2:].where(scaled[:, None], 0).mean(1)
    spread = (top[:, 0] - below).clamp_min(torch.finfo(logits.dtype).tiny)
    return lead / spread.where(scaled, 1)


def log_odds(logits: Tensor, labels: Tensor) -> Tensor:
    """The odds against the label, log sum_{i != y} exp Z_i - Z_y. Shape (N,), in nats.

    Cross-entropy is its softplus: both rise in the same direction, but the gradient of this one does not underflow
    where the model is so confident of the label that its cross-entropy is rounded to zero.

    Examples:
        >>> logits, labels = torch.tensor([[200.0, 0.0]]), torch.tensor([0])
        >>> advkit.losses.cross_entropy(logits, labels) == 0, advkit.losses.log_odds(logits, labels)
        (tensor([True]), tensor([-200.]))
    """
    label = labels[:, None]
    return logits.scatter(1, label, -torch.inf).logsumexp(1) - logits.gather(1, label).squeeze(1)


def _negative_margin(logits: Tensor, labels: Tensor) -> Tensor:
    return -margin(logits, labels)


def logit(logits: Tensor, labels: Tensor) -> Tensor:
    """Minus the logit of the label, -Z_y. Shape (N,).

    With targets, for which the loss is minimised, this raises their logits, and never saturates: Zhao, Liu &
    Larson, "On success and simplicity: a second look at transferable targeted attacks", NeurIPS 2021.

    Examples:
        >>> advkit.losses.logit(torch.tensor([[3.0, 1.0], [1.0, 3.0]]), torch.tensor([0, 0]))
        tensor([-3., -1.])
    """
    return -logits.gather(1, labels[:, None]).squeeze(1)


_BY_NAME: dict[str, Loss] = {
    "ce": cross_entropy,
    "margin": _negative_margin,
    "dlr": dlr,
    "log_odds": log_odds,
    "logit": logit,
}


def get(loss: str | Loss) -> Loss:
    """The loss of that name, to be maximised, or the function itself.

    Args:
        loss: "ce" for the cross-entropy, "margin" for max_{i != y} Z_i - Z_y, "dlr", "log_odds", "logit"; or a function
            of logits (N, K) and classes (N,) that returns one number per image, (N,).

    Raises:
        InputError: there is no loss of that name.

    Examples:
        >>> advkit.losses.get("ce") is advkit.losses.cross_entropy
        True
        >>> advkit.losses.get("margin")(torch.tensor([[3.0, 1.0]]), torch.tensor([0]))  # to be maximised
        tensor([-2.])
    """
    if callable(loss):
        return loss
    if loss not in _BY_NAME:
        raise InputError(
            f"there is no loss {loss!r}; the losses are {', '.join(map(repr, _BY_NAME))}, or a function of logits "
            "(N, K) and classes (N,) that returns one number per image, (N,)"
        )
    return _BY_NAME[loss]
