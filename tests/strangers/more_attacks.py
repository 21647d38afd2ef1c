"""More attacks as somebody outside the house would write them: the closest image, a loss of one's own, decisions."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from advkit import norms
from advkit.losses import Loss
from advkit.model import Model
from advkit.parts import (
    Attack,
    Ball,
    BlackBox,
    Classifier,
    Climb,
    Goal,
    LinfBall,
    Look,
    OfEps,
    OfRange,
    Oracle,
    OutOfQueries,
    Seeking,
    Smallest,
    Untargeted,
    attacking,
    column,
    iterate,
    loss,
    norm,
    number,
    tensor,
    uniform_like,
)


@dataclass
class _OnSphere(Seeking):
    originals: Tensor  # (n, ...)
    change: Tensor  # (n, ...)
    radius: Tensor  # (n,)


@dataclass(frozen=True, eq=False)
class DDN(Attack):
    """The direction of the step from the gradient, its length from success (L2).

    Rony, Hafemann, Oliveira, Ben Ayed, Sabourin & Granger, "Decoupling direction and norm for efficient gradient-based
    L2 adversarial attacks and defenses", CVPR 2019, algorithm 1, without its quantisation.
    """

    aim = "minimal"
    norm = norms.L2
    steps: int = number(100, at_least=1, integer=True)
    gamma: float = number(0.05, above=0, at_most=0.999)

    def _perturb(self, images: Tensor, goal: Goal) -> Tensor:
        rows = _OnSphere(images, goal, images, 0 * images, torch.ones_like(images.flatten(1)[:, 0]))
        kept = Smallest(images, norms.L2)
        return iterate(self.classifier, rows, self._step, steps=self.steps, loss="ce", keep=kept)

    def _step(self, rows: _OnSphere, look: Look) -> Tensor:
        alpha = 0.01 + 0.99 * (1 + math.cos(math.pi * look.step / self.steps)) / 2
        rows.change = rows.change + alpha * norms.L2.steepest(look.gradient)
        rows.radius = rows.radius * torch.where(look.success, 1 - self.gamma, 1 + self.gamma)
        onto = rows.radius / norms.L2.size(rows.change).clamp_min(1e-12)
        moved = (rows.originals + column(onto, look.x) * rows.change).clamp(*self.bounds)
        rows.change = moved - rows.originals
        return moved


@dataclass
class _InBall(Seeking):
    originals: Tensor  # (n, ...)
    eps: Tensor  # (n,)
    best: Tensor  # (n,), the smallest change that fools so far


@dataclass(frozen=True, eq=False)
class FMN(Attack):
    """Ascent inside a ball that shrinks where the model is fooled and grows where it is not (L2, L1, Linf).

    Pintor, Roli, Brendel & Biggio, "Fast minimum-norm adversarial attacks through adaptive norm constraints", NeurIPS
    2021, algorithm 1.
    """

    aim = "minimal"
    norm: str = norm("l2", "l1", "linf")
    steps: int = number(100, at_least=1, integer=True)
    alpha: float = number(1.0, above=0)
    gamma: float = number(0.05, above=0, at_most=0.999)

    def _perturb(self, images: Tensor, goal: Goal) -> Tensor:
        unknown = torch.full_like(images.flatten(1)[:, 0], torch.inf)
        rows, kept = _InBall(images, goal, images, unknown, unknown), Smallest(images, norms.get(self.norm))
        return iterate(self.classifier, rows, self._step, steps=self.steps, loss="margin", keep=kept)

    def _step(self, rows: _InBall, look: Look) -> Tensor:
        norm, falling = norms.get(self.norm), (1 + math.cos(math.pi * look.step / self.steps)) / 2
        length, gamma = norm.distance(look.x, rows.originals), self.gamma * falling
        outside = torch.where(look.gradient > 0, look.x >= self.bounds[1], look.x <= self.bounds[0])
        gradient = look.gradient.where(~outside, 0)  # or nothing comes of steps from black and white pixels
        rows.best = torch.where(look.success, rows.best.minimum(length), rows.best)
        slope = norm.dual.size(gradient)
        gap = (look.loss.abs() + 2 * look.edge).to(look.x)
        across = length + gap / slope.where(slope > 0, torch.inf)
        outwards = torch.where(rows.best < torch.inf, rows.eps, across) * (1 + gamma)
        rows.eps = torch.where(look.success, rows.best.minimum(rows.eps * (1 - gamma)), outwards)
        ahead = look.x + self.alpha * (0.01 + 0.99 * falling) * norms.L2.steepest(gradient)
        return Ball.of(norm, rows.originals, rows.eps, self.bounds).project(ahead)


def soft_margin(logits: Tensor, classes: Tensor) -> Tensor:
    """How far the other logits, softly the largest of them, are above that of the class: (N,)."""
    others = logits.scatter(1, classes[:, None], -torch.inf)
    return (2 * others).logsumexp(1) / 2 - logits.gather(1, classes[:, None]).squeeze(1)


@dataclass
class _WithMomentum(Climb):
    momentum: Tensor  # (n, ...)


@dataclass(frozen=True, eq=False)
class MIM(Attack):
    """The momentum method on a loss of one's own (Linf).

    Dong et al., "Boosting adversarial attacks with momentum", CVPR 2018, algorithm 1.
    """

    norm: ClassVar[norms.Norm] = norms.Linf
    eps: float | Tensor = number(OfRange(8 / 255), at_least=0, per_image=True)
    alpha: float | Tensor = number(OfEps(2 / 255, 1 / 4), above=0, per_image=True)
    steps: int = number(10, at_least=1, integer=True)
    decay: float = number(1.0, at_least=0)
    loss: str | Loss = loss("ce")

    def _perturb(self, images: Tensor, goal: Goal) -> Tensor:
        ball = LinfBall(images, self.eps, self.bounds)
        rows = _WithMomentum(images, goal, ball, self.alpha, torch.zeros_like(images))
        return iterate(self.classifier, rows, self._step, steps=self.steps, loss=self.loss)

    def _step(self, rows: _WithMomentum, look: Look) -> Tensor:
        size = norms.L1.size(look.gradient).clamp_min(torch.finfo(look.gradient.dtype).tiny)
        rows.momentum = self.decay * rows.momentum + look.gradient / column(size, look.x)
        return rows.stepped(rows.momentum.sign())


@dataclass(frozen=True, eq=False)
class Bisection(BlackBox):
    """Noise that fools, brought as close to the image as it goes on fooling, a few times over; decisions alone."""

    access = "decisions"
    norm = norms.L2
    tries: int = number(5, at_least=1, integer=True)
    halvings: int = number(6, at_least=1, integer=True)
    max_queries: int = number(100, at_least=1, integer=True)

    def _search(self, ask: Oracle, images: Tensor, heights: Tensor) -> Tensor:
        closest, rows = images.clone(), torch.arange(len(images), device=images.device)
        best, (lowest, highest) = torch.full_like(heights, torch.inf), self.bounds
        try:
            for _ in range(self.tries):
                noise = lowest + (highest - lowest) * uniform_like(images, self.generator)
                near, far = torch.zeros_like(heights), torch.ones_like(heights)
                for halving in range(self.halvings + 1):
                    share = (near + far) / 2 if halving else far
                    tried = images + column(share, images) * (noise - images)
                    fooled = ask(tried, rows) == torch.inf
                    near, far = torch.where(fooled, near, share), torch.where(fooled, share, far)
                    length = norms.L2.distance(tried, images)
                    better = fooled & (length < best)
                    best = length.where(better, best)
                    closest = tried.where(column(better, tried), closest)
        except OutOfQueries:
            pass
        return closest


@dataclass(frozen=True, eq=False)
class Overlay(Attack):
    """One pattern for all images, mixed into them."""

    pattern: Tensor = tensor()
    share: float = number(0.2, at_least=0, at_most=1)

    def _perturb(self, images: Tensor, goal: Goal) -> Tensor:
        return images + self.share * (self.pattern.to(images) - images)


@dataclass(frozen=True)
class Worst:
    """The images of a loader, mixed into others, and the one among the first of them that fools most of the rest."""

    model: Model
    share: float = 0.2
    among: int = 8

    def fit(self, loader: Iterable[tuple[Tensor, Tensor]]) -> Overlay:
        model, batches = Classifier(self.model), list(loader)
        patterns = torch.cat([images for images, _ in batches])[: self.among]
        fooled = torch.zeros(len(patterns))
        with attacking(self.model), torch.no_grad():
            for images, labels in batches:
                images = images.to(*model.workplace(images))
                goal = Untargeted(labels.to(images.device))
                for place, pattern in enumerate(patterns.to(images)):
                    mixed = images + self.share * (pattern - images)
                    fooled[place] += int(goal.success(model.logits(mixed)).sum())
            model.verify()
        return Overlay(self.model, patterns[int(fooled.argmax())], self.share)
