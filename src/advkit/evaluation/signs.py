"""What a look at a model's outputs and gradients reveals: a sentence for each sign that is more than chance."""

from dataclasses import dataclass

from torch import Tensor

from advkit.evaluation.flags import ATHALYE, CARLINI, DISTILLED, TEST_TIME, Flag, many
from advkit.evaluation.looks import Look

__all__ = ["FEW", "RANDOM", "STALE", "STEPS", "Sign", "signs"]

FEW = 0.02  # the share of images on which an honest model may look masked
STEPS = 10  # of the attack without a budget, each a quarter of the pixels' range


@dataclass(frozen=True, eq=False)
class Sign:
    """A flag, and where it was seen.

    Attributes:
        flag: the sentence; None where as much may be seen of an honest model.
        rows: bool (n,), on which of the images that were looked at.
        group: which images these are: 0 for those that the model gets right, and from 1 the groups of those that no
            attack fooled.
        fooled: whether a search fooled the rows: they are no longer robust.
    """

    flag: Flag | None
    rows: Tensor
    group: int = 0
    fooled: bool = False


RANDOM = (
    "{who} returns different outputs for the same images, so an attack follows one draw and is judged on another; "
    "attack the mean over draws (EOT, a defense that is `stochastic`), and judge by several outputs"
)
STALE = (
    "than when it was first run; its outputs depend on what it was run on before, or how often, so evaluate a fresh "
    "copy, and attack the model behind it"
)
_NOISE = (
    "the gradients of {who} differ from one call to the next, while its outputs do not; differentiate the model "
    "without whatever draws random numbers in its backward pass"
)
_MOSTLY_NOISE = (
    "the gradient of {who} is mostly noise, though it is a mean over draws of its random defense; "
    "raise that defense's eot_samples, which is 10 if its class does not say otherwise"
)
_SENTENCES = {
    "NaN gradients": (
        0.0,
        "the loss of {who} has a gradient that is NaN; look for a square root, a division or a logarithm of zero",
        CARLINI,
    ),
    "infinite gradients": (
        0.0,
        "the loss of {who} has a gradient that is infinite; look for the square root of zero, or for a division by it, "
        "whose slope is infinite where its value is not",
        CARLINI,
    ),
    "constant answers": (
        FEW,
        "{who} returns the same logits as for black, grey, white and noise; no attack can fool it, but it cannot tell "
        "the classes apart",
        CARLINI,
    ),
    "zero gradients": (
        FEW,
        "the logits of {who} have a gradient of zero, so an attack that follows it never moves; give "
        "attacks a differentiable stand-in for the operation that rounds or clips (BPDA, `surrogate` of a defense), or "
        "use black-box attacks",
        ATHALYE,
    ),
    "rounded logits": (
        FEW,
        "the logits of {who} share so large an offset that rounding leaves few digits to tell the classes apart, and "
        "ties pass for robustness; subtract the offset, or compute them in higher precision",
        CARLINI,
    ),
    "saturated softmax": (
        FEW,
        "the gradient of the cross-entropy of {who} underflows to zero in most or all of the pixels, while the logits, "
        "which are huge or computed in low precision, still have one; use attacks on the margin (CW, DeepFool), "
        "divide the logits by a temperature, or attack the model in float32",
        DISTILLED,
    ),
    "gradient noise": (FEW, "{noise}", ATHALYE),
    "random outputs": (FEW, RANDOM, ATHALYE),
    "answers under autograd": (
        FEW,
        "{who} returns different outputs while gradients are recorded, so attacks see one function and are judged "
        "by another; make them the same function",
        ATHALYE,
    ),
    "batch-dependent answers": (
        FEW,
        "{who} returns different outputs when the image is in another batch, so what fools it in one may not in "
        "the next; look for batch statistics in eval mode (BatchNorm with track_running_stats=False)",
        CARLINI,
    ),
    "answers that changed": (
        FEW,
        f"{{who}} predicts another class {STALE}",
        CARLINI,
    ),
    "gradient inside forward": (
        FEW,
        "{who} takes a gradient inside its forward pass; what attacks differentiate may leave that step out, or be "
        "useless behind it, so attack the model without the step as well, and give it a surrogate",
        TEST_TIME,
    ),
    "probabilities": (
        FEW,
        "{who} returns numbers that sum to 1 instead of logits, and a softmax of a softmax is nearly flat; "
        "return the logits, or the logarithms of the probabilities",
        CARLINI,
    ),
    "unbounded attack": (
        FEW,
        f"{{who}} is still right after {STEPS} steps of an attack that may set every pixel to any value, although "
        "it assigns other images to other classes; its gradients are misleading, so use a surrogate for what masks "
        "them, or black-box attacks",
        ATHALYE,
    ),
}


def signs(
    called: str, look: Look, constant: Tensor, standing: Tensor, changed: Tensor, *, averaged: bool
) -> list[Sign]:
    """A sign for each thing that is there more often than by chance.

    Args:
        called: what sentences call the model.
        look: at n images.
        constant: bool (n,), whether the model gives the same logits to everything.
        standing: bool (n,), whether an attack failed that may change every pixel to anything.
        changed: bool (n,), whether the model says another class than when it was first asked.
        averaged: whether the model is random, and its gradients are means over draws.
    """
    seen = {
        "NaN gradients": look.nan,
        "infinite gradients": look.infinite,
        "constant answers": constant,
        "zero gradients": look.flat,
        "rounded logits": look.coarse,
        "saturated softmax": look.saturated,
        "gradient noise": look.noisy,
        "random outputs": look.moody,
        "answers under autograd": look.recorded,
        "batch-dependent answers": look.batched,
        "answers that changed": changed & ~(look.moody | look.recorded | look.batched),
        "gradient inside forward": look.inside,
        "probabilities": look.probabilities & ~constant,
        "unbounded attack": standing,
    }
    found = []
    for name, rows in seen.items():
        (share, sentence, paper), count, n = _SENTENCES[name], int(rows.sum()), len(rows)
        text = sentence.replace("{noise}", _MOSTLY_NOISE if averaged else _NOISE).format(who=called)
        if many(count, n, share):
            found.append(Sign(Flag(name, f"on {count} of {n} images {text}.", paper), rows))
        elif name == "random outputs" and bool(look.wavering.any()):
            few = int(look.wavering.sum())
            found.append(
                Sign(
                    Flag(name, f"now and then, seen on {few} of {n} images that were asked often, {text}.", paper),
                    look.wavering,
                )
            )
    return found
