"""Attacks as somebody outside the house would write them: from their papers, on `advkit.parts` alone."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from advkit import norms
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
    Peak,
    Untargeted,
    Worst,
    as_pixels,
    attacking,
    column,
    iterate,
    loss,
    number,
    places,
    tensor,
    uniform_like,
)


@dataclass
class _Run(Climb):
    before: Tensor  # (n, ...), where the last step began
    peak: Peak
    mark: Tensor  # (n,), the highest loss at the last checkpoint
    last: Tensor  # (n,), the loss of the last look
    rises: Tensor  # (n,), since the last checkpoint
    halved: Tensor  # bool (n,), whether the step was halved there


@dataclass(frozen=True, eq=False)
class APGD(Attack):
    """Auto-PGD (Linf), with steps that are halved where the loss no longer rises.

    Croce & Hein, "Reliable evaluation of adversarial robustness with an ensemble of diverse parameter-free attacks",
    ICML 2020, algorithm 1.
    """

    norm: ClassVar[norms.Norm] = norms.Linf
    eps: float | Tensor = number(OfRange(8 / 255), at_least=0, per_image=True)
    steps: int = number(100, at_least=1, integer=True)
    rho: float = number(0.75, above=0, at_most=1)
    loss: str = loss("ce")

    def _perturb(self, images: Tensor, goal: Goal) -> Tensor:
        ball = Ball.of("linf", images, self.eps, self.bounds)
        x, none = ball.sample(self.generator), torch.zeros_like(images.flatten(1)[:, 0])
        rows = _Run(
            x, goal, ball, none + 2 * self.eps, x, Peak.of(x), none - torch.inf, none + torch.inf, none, none == 0
        )
        kept = Worst(images)
        return iterate(self.classifier, rows, self._step, steps=self.steps, loss=self.loss, keep=kept, early_stop=True)

    def _step(self, rows: _Run, look: Look) -> Tensor:
        rows.peak.see(look)
        rows.rises, rows.last = rows.rises + (look.loss > rows.last), look.loss
        x, gradient = look.x, look.gradient
        checks = [round(share * self.steps / 100) for share in (0, 22, 41, 57, 70, 80, 87, 93, 99)]
        if look.step in checks[1:]:
            window = look.step - max(check for check in checks if check < look.step)
            stuck = (rows.rises <= self.rho * window) | (~rows.halved & (rows.mark >= rows.peak.loss))
            rows.alpha = rows.alpha / (1 + stuck.int())
            rows.halved, rows.mark, rows.rises = stuck, rows.peak.loss, 0 * rows.rises
            x = rows.peak.x.where(column(stuck, x), x)
            gradient = rows.peak.gradient.where(column(stuck, x), gradient)
        z = rows.ball.project(x + column(rows.alpha, x) * gradient.sign())
        share = 0.75 if look.step else 1.0
        moved = rows.ball.project(x + share * (z - x) + (1 - share) * (x - rows.before))
        rows.before = x
        return moved


@dataclass(frozen=True, eq=False)
class Square(BlackBox):
    """Square attack (Linf): random squares of the image go to the edge of the ball, and stay there if that helps.

    Andriushchenko, Croce, Flammarion & Hein, "Square attack: a query-efficient black-box adversarial attack via random
    search", ECCV 2020, algorithms 1 and 2.
    """

    aim = "budget"
    norm: ClassVar[norms.Norm] = norms.Linf
    eps: float | Tensor = number(OfRange(8 / 255), at_least=0, per_image=True)
    p_init: float = number(0.8, above=0, at_most=1)
    max_queries: int = number(5000, at_least=1, integer=True)
    loss: str = loss("margin")

    def _search(self, ask: Oracle, images: Tensor, heights: Tensor) -> Tensor:
        ball, x, sizes = LinfBall(images, self.eps, self.bounds), images, places(images)
        rows = torch.arange(len(images), device=images.device)
        for turn in range(ask.limit):
            part, here = ball.rows(rows), x[rows]
            draws = uniform_like(as_pixels(here)[:, :, : 1 if turn else sizes[-1]], self.generator)
            signs = ((draws < 0.5) * 2 - 1).repeat(1, 1, sizes.numel() // draws.shape[2]).reshape(here.shape)
            tried = part.project(part.originals + column(part.eps, here) * signs)
            if turn:  # before that there are stripes all over
                share = self.p_init / 2 ** sum(turn > end for end in (10, 50, 200, 500, 1000, 2000, 4000))
                tried = tried.where(self._squares(here, share).expand_as(as_pixels(here)).reshape(here.shape), here)
            found = ask(tried, rows)
            better = (found > heights[rows]) | (turn == 0)
            heights[rows] = found.where(better, heights[rows])
            x = x.index_copy(0, rows, tried.where(column(better, here), here))
            if not len(rows := rows[heights[rows] < torch.inf]):
                break
        return x

    def _squares(self, images: Tensor, share: float) -> Tensor:
        """A square of each image, with this share of its pixels: bool (n, 1, P)."""
        inside = torch.ones(len(images), 1, dtype=torch.bool, device=images.device)
        for size in (sizes := places(images)):
            side = max(1, min(size - 1, round(share ** (1 / len(sizes)) * size)))
            first = (uniform_like(images.flatten(1)[:, :1], self.generator) * (size - side + 1)).long()
            at = torch.arange(size, device=images.device)
            inside = (inside[:, :, None] & ((at >= first) & (at < first + side))[:, None]).flatten(1)
        return inside[:, None]


@dataclass(frozen=True, eq=False)
class Shift(Attack):
    """One perturbation for all images."""

    perturbation: Tensor = tensor()

    def _perturb(self, images: Tensor, goal: Goal) -> Tensor:
        return images + self.perturbation.to(images)


@dataclass(frozen=True)
class Universal:
    """One perturbation for all images (Linf), fitted by steps along the sign of the gradients' sum.

    Shafahi, Najibi, Xu, Dickerson, Davis & Goldstein, "Universal adversarial training", AAAI 2020, algorithm 1: the
    cross-entropy is cut off, so that images that are fooled do not outweigh the others.
    """

    model: Model
    eps: float = 8 / 255
    alpha: float = 1 / 255
    most: float = 9.0
    epochs: int = 5

    def fit(self, loader: Iterable[tuple[Tensor, Tensor]]) -> Shift:
        model, change = Classifier(self.model), torch.zeros(())
        with attacking(self.model):
            for images, labels in (batch for _ in range(self.epochs) for batch in loader):
                images = images.to(*model.workplace(images))
                x = (images + change.to(images)).clamp(0, 1).requires_grad_()
                values = Untargeted(labels.to(x.device)).loss(model.logits(x)).clamp(max=self.most)
                step = self.alpha * model.gradient(values, x).sum(0).sign()
                change = (change.to(step) + step).clamp(-self.eps, self.eps)
            model.verify()
        return Shift(self.model, change)


@dataclass
class _WithMomentum(Climb):
    momentum: Tensor  # (n, ...)


@dataclass(frozen=True, eq=False)
class DITIMI(Attack):
    """Three parts of transfer attacks in one: diverse inputs, translation invariance and momentum.

    Xie et al., "Improving transferability of adversarial examples with input diversity", CVPR 2019; Dong et al.,
    "Evading defenses to transferable adversarial examples by translation-invariant attacks", CVPR 2019; Dong et al.,
    "Boosting adversarial attacks with momentum", CVPR 2018.
    """

    norm: ClassVar[norms.Norm] = norms.Linf
    eps: float | Tensor = number(OfRange(16 / 255), at_least=0, per_image=True)
    alpha: float | Tensor = number(OfEps(1.6 / 255, 1 / 10), above=0, per_image=True)
    steps: int = number(10, at_least=1, integer=True)
    sigma: float = number(3.0, above=0)
    loss: str = loss("ce")

    def _perturb(self, images: Tensor, goal: Goal) -> Tensor:
        ball, momentum = LinfBall(images, self.eps, self.bounds), torch.zeros_like(images)
        rows = _WithMomentum(images, goal, ball, self.alpha, momentum)
        return iterate(self.classifier, rows, self._step, steps=self.steps, loss=self.loss, inputs=self._diverse)

    def _diverse(self, x: Tensor) -> Tensor:
        """Half of the time x, and else x on a canvas of 1.1 times its sides, larger by chance, and brought back."""
        chance, size, top, left = uniform_like(x.new_empty(4), self.generator).tolist()
        if x.ndim != 4 or chance < 0.5:
            return x
        canvas = [max(side + 1, round(1.1 * side)) for side in x.shape[2:]]
        inner = [side + int(size * (large - side)) for side, large in zip(x.shape[2:], canvas, strict=True)]
        high, wide = (large - side for side, large in zip(inner, canvas, strict=True))
        up, before = int(top * (high + 1)), int(left * (wide + 1))
        resized = F.interpolate(x, inner, mode="bilinear", align_corners=False)
        padded = F.pad(resized, (before, wide - before, up, high - up))
        return F.interpolate(padded, x.shape[2:], mode="bilinear", align_corners=False)

    def _step(self, rows: _WithMomentum, look: Look) -> Tensor:
        gradient = look.gradient
        if gradient.ndim == 4:
            reach = max(1, round(7 / 3 * self.sigma))
            bell = torch.exp(-(torch.arange(-reach, reach + 1).to(gradient) ** 2) / (2 * self.sigma**2))
            kernel = (bell[:, None] * bell / bell.sum() ** 2).expand(gradient.shape[1], 1, -1, -1)
            gradient = F.conv2d(gradient, kernel, padding=reach, groups=gradient.shape[1])
        size = gradient.flatten(1).abs().mean(1).clamp_min(torch.finfo(gradient.dtype).tiny)
        rows.momentum = rows.momentum + gradient / column(size, gradient)
        return rows.stepped(rows.momentum.sign())
