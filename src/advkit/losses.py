"""Per-sample losses of logits: one number an image, never an average over the batch.

Every function takes ``logits`` of shape (N, K), floating, and ``labels`` of shape (N,), int64, and returns
a tensor of shape (N,) in the dtype of the logits.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from advkit._engine.scale import contenders

__all__ = ["best_other", "cross_entropy", "dlr", "margin"]


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of each image, -log softmax(logits)[label]. Shape (N,), in nats."""
    return F.cross_entropy(logits, labels, reduction="none")


def best_other(logits: Tensor, labels: Tensor) -> Tensor:
    """The largest logit of a class other than the label, max_{i != y} Z_i. Shape (N,).

    The label's own logit is masked with -inf: a mask of zero would be the largest of logits that are all
    negative, such as log-probabilities.
    """
    return logits.scatter(1, labels[:, None], -torch.inf).amax(1)


def margin(logits: Tensor, labels: Tensor) -> Tensor:
    """How far the label leads, Z_y - max_{i != y} Z_i: positive where the model says the label. Shape (N,)."""
    return logits.gather(1, labels[:, None]).squeeze(1) - best_other(logits, labels)


def dlr(logits: Tensor, labels: Tensor) -> Tensor:
    """Difference of logits ratio, the margin in units of the logits' own spread. Shape (N,).

    -(Z_y - max_{i != y} Z_i) / (Z_(1) - Z_(3)), with Z_(k) the k-th largest logit: positive where the model
    errs, and the same for logits that are shifted or scaled. Croce & Hein, "Reliable evaluation of
    adversarial robustness with an ensemble of diverse parameter-free attacks", ICML 2020, eq. (7). Two
    classes have no third logit; for them it is minus the margin, without a scale. So it is where the third largest
    logit is out of the race, such as one that is masked with -inf.
    """
    if logits.shape[1] < 3:
        return -margin(logits, labels)
    top = logits.topk(3, dim=1).values
    third = contenders(top)[:, 2]
    spread = (top[:, 0] - top[:, 2].where(third, 0)).clamp_min(torch.finfo(logits.dtype).tiny)
    return -margin(logits, labels) / spread.where(third, 1)
