"""Gradients that floats can hold: those of float16 scaled, and infinite ones cut."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from advkit.norms import column

__all__ = ["Scaling", "finite", "looked_at", "passed"]

_BIAS, _MANTISSA = 127, 23  # of float32
_SCALED_TO = 6  # a row's largest cotangent is brought to 2 ** 6 to 2 ** 7: float16 then holds what a model makes 1,000
# times as large, and in full precision what it makes a millionth of it
_LOWERED_BY, _LOWERINGS = 5, 4  # where that was too much: down to 2 ** -14, the smallest normal number of float16


def passed(node: Any) -> set[torch.dtype | None]:
    """The dtypes that a gradient has on its way back from a node of autograd's graph; None where torch does not say."""
    found: set[torch.dtype | None] = set()
    seen, ahead = {node}, [node]
    while ahead:
        node = ahead.pop()
        outputs = getattr(node, "_input_metadata", None)
        found.update({None} if outputs is None else (output.dtype for output in outputs))
        if "Compiled" in type(node).__name__:  # all of the model, which only what it keeps for its backward gives away
            found.update(kept.dtype for kept in node.saved_tensors if isinstance(kept, Tensor))
        for parent, _ in node.next_functions:
            if parent is not None and parent not in seen:
                seen.add(parent)
                ahead.append(parent)
    return found


def _powers(cotangent: Tensor) -> Tensor:
    """The power of two that brings each row's largest number (n, K) to `_SCALED_TO`: its exponent in float32's bits.

    Taken from the bits, and put together from bits again, they are exact, so that scaling there and back is as well.
    """
    largest = cotangent.detach().abs().amax(1).float()
    return (2 * _BIAS + _SCALED_TO - (largest.view(torch.int32) >> _MANTISSA)).clamp(1, 2 * _BIAS - 1)


def _times(values: Tensor, powers: Tensor) -> Tensor:
    """Values (n, ...) times the powers of two (n,) of their rows."""
    return values * column((powers << _MANTISSA).view(torch.float32).to(values.dtype), values)


def _inverse(powers: Tensor) -> Tensor:
    return 2 * _BIAS - powers


class Scaling:
    """What keeps the gradient of one answer from underflowing in float16, as loss scaling does in training.

    Each row of the cotangent is multiplied by a power of two before it goes back through the model, and what comes
    back to the images is divided by it. Rows are scaled apart: an image that the model is sure of would be lost
    beside one that it is not. Whoever differentiates the answer sees nothing of it, also when it is done twice.
    """

    powers: Tensor

    def images(self, images: Tensor) -> Tensor:
        """The images (N, ...), as the model is to be asked about them."""
        scaled: Tensor = _Unscaled.apply(images, self)
        return scaled

    def logits(self, logits: Tensor) -> Tensor:
        """The model's answer (N, K) to these, float32 or better."""
        scaled: Tensor = _Scaled.apply(logits, self)
        return scaled


class _Unscaled(torch.autograd.Function):
    """Images on their way in; their gradient on its way out."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, scaling: Scaling) -> Tensor:
        ctx.scaling = scaling
        return images.clone()  # models may write into it

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return _times(gradient, _inverse(ctx.scaling.powers)), None


class _Scaled(torch.autograd.Function):
    """Logits on their way out; their cotangent on its way in."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, scaling: Scaling) -> Tensor:
        ctx.scaling = scaling
        return logits.view_as(logits)

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor, None]:
        ctx.scaling.powers = _powers(cotangent)
        return _times(cotangent, ctx.scaling.powers), None


def finite(gradient: Tensor) -> Tensor:
    """The gradient (n, ...) with the largest finite magnitude of its row in place of what is infinite; NaN stays.

    An infinite entry says which way, and not how far. Where a row has nothing else it is 1.
    """
    sizes = gradient.abs().where(gradient.isfinite(), 0).flatten(1).amax(1)
    return torch.where(gradient.isinf(), gradient.sign() * column(sizes.where(sizes > 0, 1), gradient), gradient)


def looked_at(
    images: Tensor, model: Callable[[Tensor], Tensor], is_half: Callable[[Tensor], bool], note: Callable[[Tensor], None]
) -> Tensor:
    """Logits (N, K) of images (N, ...), each gradient of which is looked at on its way back, and made `finite`.

    Where it is not finite, and float16 may be the reason, it is asked for again with less scaling. Whatever is not
    finite in the end is given to ``note``, as it was.

    Args:
        images: with ``requires_grad``.
        model: to logits, float32 or better.
        is_half: whether the gradients of these logits are in float16 anywhere.
        note: takes gradients (N, ...).
    """
    logits: Tensor = _LookedAt.apply(images, model, is_half, note)
    return logits


class _LookedAt(torch.autograd.Function):
    """The whole model as one function, with a graph of its own that can be gone back through again."""

    @staticmethod
    def forward(
        ctx: Any,
        images: Tensor,
        model: Callable[[Tensor], Tensor],
        is_half: Callable[[Tensor], bool],
        note: Callable[[Tensor], None],
    ) -> Tensor:
        leaf = images.detach().requires_grad_()
        with torch.enable_grad():
            logits = model(leaf)
        ctx.leaf, ctx.logits, ctx.note = leaf, logits, note
        ctx.halves = logits.requires_grad and is_half(logits)
        answer = logits.detach()
        if not logits.requires_grad:
            ctx.mark_non_differentiable(answer)
        return answer

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor | None, None, None, None]:
        gradient = _in_halves(ctx, cotangent) if ctx.halves else _pulled(ctx, cotangent)
        if gradient is None:
            return None, None, None, None
        # Where nothing is asked for nothing comes back, though zero times an infinite slope is NaN.
        gradient = gradient.where(column((cotangent != 0).any(1), gradient), 0)
        ctx.note(gradient)
        return finite(gradient), None, None, None


def _pulled(ctx: Any, cotangent: Tensor) -> Tensor | None:
    """The cotangent (n, K), pulled back to the images: (n, ...), or None where nothing leads there."""
    gradient: Tensor | None
    (gradient,) = torch.autograd.grad(ctx.logits, ctx.leaf, cotangent, retain_graph=True, allow_unused=True)
    return gradient


def _in_halves(ctx: Any, cotangent: Tensor) -> Tensor | None:
    """The same by way of float16: for each row with the largest scale that leaves the fewest entries without a value.

    What is infinite whatever the scale is the model's own doing.
    """
    powers, best, fewest = _powers(cotangent), None, None
    for _ in range(1 + _LOWERINGS):
        gradient = _pulled(ctx, _times(cotangent, powers))
        if gradient is None:
            return None
        gradient = _times(gradient, _inverse(powers))
        lost = (~gradient.isfinite()).flatten(1).sum(1)
        if best is None or fewest is None:
            best, fewest = gradient, lost
        else:
            better = lost < fewest
            best, fewest = torch.where(column(better, best), gradient, best), torch.where(better, lost, fewest)
        if not bool(fewest.any()):
            break
        powers = torch.where(fewest > 0, powers - _LOWERED_BY, powers).clamp_min(1)
    return best
