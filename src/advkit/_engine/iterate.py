"""The loop of an iterative attack: one look at the model a step, a rule for the step, and what is kept of it all."""

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

from advkit import losses
from advkit._engine.classifier import Classifier
from advkit._engine.keeps import Keep, Last
from advkit._engine.looks import Look, Seeking
from advkit.losses import Loss

__all__ = ["iterate"]

Stepping = TypeVar("Stepping", bound=Seeking)


def iterate(
    model: Classifier,
    rows: Stepping,
    step: Callable[[Stepping, Look], Tensor],
    *,
    steps: int,
    loss: str | Loss,
    keep: Keep | None = None,
    early_stop: bool = False,
    inputs: Callable[[Tensor], Tensor] | None = None,
    draws: int = 1,
) -> Tensor:
    """Take ``steps`` steps, each one forward and one backward, and return the images that ``keep`` selects: (N, ...).

    With ``early_stop``, a row leaves as soon as its goal is reached. That is read
    off the forward that the next step needs anyway, and when no row is left there is no backward. After the last step
    there is one more forward only if its result may be the one that is kept. A step may retire rows by a rule of
    its own, and drop them with `Look.compact`, or with `Rows.compact` from what it computed; when none is left, the
    loop ends.

    Args:
        model: pixels to logits.
        rows: the batch.
        step: a function of the rows and of a look at the model that returns where the rows go, (n, ...).
        steps: the number of steps.
        loss: the loss to maximise, as `advkit.losses.get` takes it.
        keep: which points are returned; the last if None.
        early_stop: whether rows leave when they fool the model.
        inputs: what the model is shown in place of rows (n, ...), differentiable, such as random resizes of them; the
            gradient passes back through it. None for the rows themselves.
        draws: how many times a random model, or random ``inputs``, are run in one look. What the look then
            shows are means: of the logits, of the loss and of its gradient.

    Examples:
        >>> from advkit.parts import Ball, Classifier, Climb, Untargeted, iterate
        >>> rows = Climb(images, Untargeted(labels), Ball.of("linf", images, 8 / 255, (0, 1)), alpha=2 / 255)
        >>> step = lambda rows, look: rows.stepped(look.gradient.sign())
        >>> adversarials = iterate(Classifier(model), rows, step, steps=10, loss="ce")  # PGD without its start
        >>> int((model(adversarials).argmax(1) != labels).sum())
        12
    """
    keep, climbed = keep or Last(), losses.get(loss)
    for count in range(steps):
        x = rows.x.detach().requires_grad_()
        if draws == 1:
            logits = model.of(rows.goal).logits(x if inputs is None else inputs(x))
        else:
            logits, values, gradient = _means(model, rows, x, inputs, climbed, draws)
        if early_stop:
            fooled = rows.goal.success(logits)
            keep.leave(rows, fooled)
            if not rows.retire(fooled):
                break
        if draws == 1:
            values = rows.climbed(climbed, logits)
            gradient = model.gradient(values, x)
        look = Look(count, rows.x, logits, values, gradient, rows.goal)
        del x, logits, values, gradient  # and with them the graph, before the step makes tensors of its own
        keep.see(rows, look)
        if early_stop:
            look.compact(rows)
        rows.move(step(rows, look).to(rows.x.dtype))  # a model may answer in a wider one
        del look  # before the next graph is built
        if rows.finished:  # a step may have retired the last of them
            break
    else:
        if keep.looks_back:
            with torch.no_grad():
                logits, values, nothing = _means(model, rows, rows.x, inputs, climbed, draws)
            keep.see(rows, Look(steps, rows.x, logits, values, nothing, rows.goal))
    return keep.answer(rows)


def _means(
    model: Classifier, rows: Seeking, x: Tensor, inputs: Callable[[Tensor], Tensor] | None, climbed: Loss, draws: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The means over some draws of the logits (n, K), the loss (n,) and its gradient (n, ...), without a graph.

    The gradient is of no size where ``x`` asks for none. One graph lives at a time.
    """
    sums: list[Tensor] = []
    for _ in range(draws):
        logits = model.of(rows.goal).logits(x if inputs is None else inputs(x))
        values = rows.climbed(climbed, logits)
        gradient = model.gradient(values, x) if x.requires_grad else x.new_empty(0)
        drawn = [logits.detach(), values.detach(), gradient]
        del logits, values, gradient
        sums = [each + one for each, one in zip(sums, drawn, strict=True)] if sums else drawn
    said, loss, slope = (each / draws for each in sums)
    return said, loss, slope
