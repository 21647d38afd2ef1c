"""What advkit raises and warns about: sentences that say what was wrong, what was seen and what to do.

Examples:
    >>> try:
    ...     advkit.FGSM(model)(255 * images, labels)
    ... except advkit.errors.InputError as error:
    ...     print(error)
    images lie in [...], outside bounds=(0, 1). If a filter ...
"""

__all__ = [
    "AdvkitError",
    "AdvkitWarning",
    "DtypeError",
    "InputError",
    "MissingExtraError",
    "ModelError",
    "NoGradientError",
]


class AdvkitError(Exception):
    """Base of all errors that advkit raises on purpose.

    Examples:
        >>> try:
        ...     advkit.PGD(model, steps=0)
        ... except advkit.errors.AdvkitError as error:
        ...     print(error)
        steps must be at least 1, got 0
    """


class InputError(AdvkitError, ValueError):
    """An argument is wrong. Raised before any work is done, wherever that can be known.

    Examples:
        >>> advkit.FGSM(model, eps=-1)
        Traceback (most recent call last):
            ...
        advkit.errors.InputError: eps must be at least 0, got -1
    """


class DtypeError(InputError, TypeError):
    """An argument is of a type or dtype that cannot be used.

    Examples:
        >>> advkit.FGSM(model)((255 * images).byte(), labels)
        Traceback (most recent call last):
            ...
        advkit.errors.DtypeError: images must be floating, got torch.uint8; scale integer pixels first, such as ...
    """


class ModelError(AdvkitError, RuntimeError):
    """The model under attack, or in training, returned something unusable.

    Examples:
        >>> broken = lambda pixels: model(pixels) * torch.nan
        >>> advkit.FGSM(broken)(images, labels)
        Traceback (most recent call last):
            ...
        advkit.errors.ModelError: the model returned NaN logits; check its weights, and its inputs' normalisation
    """


class NoGradientError(ModelError):
    """The model under attack has no gradient to follow: nothing in it is differentiable, or a defense has no surrogate.

    `advkit.evaluate` goes on without the attack if others see only outputs.

    Examples:
        >>> silent = lambda pixels: model(pixels.detach())
        >>> advkit.FGSM(silent)(images, labels)
        Traceback (most recent call last):
            ...
        advkit.errors.NoGradientError: no gradient flows from the model's logits back to its images: somewhere ...
    """


class MissingExtraError(AdvkitError, ImportError):
    """A library that only this feature needs is missing or broken.

    Examples:
        >>> import unittest.mock
        >>> report = advkit.evaluate(model, loader, [advkit.FGSM(model)])
        >>> with unittest.mock.patch.dict("sys.modules", {"matplotlib.figure": None}):  # as where it is not installed
        ...     advkit.evaluation.accuracy_bars(report)
        Traceback (most recent call last):
            ...
        advkit.errors.MissingExtraError: pictures need matplotlib, which cannot be imported; run pip install ...
    """


class AdvkitWarning(UserWarning):
    """Something that does not stop advkit, but may make its results worse than they could be.

    Examples:
        >>> import warnings
        >>> linear = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(768, 10))
        >>> rooted = lambda pixels: linear(pixels.sqrt())  # whose gradient at a black pixel is infinite
        >>> with warnings.catch_warnings():
        ...     warnings.simplefilter("error", advkit.errors.AdvkitWarning)  # where that is not to go unnoticed
        ...     advkit.FGSM(rooted)(torch.zeros_like(images), labels)
        Traceback (most recent call last):
            ...
        advkit.errors.AdvkitWarning: the gradient of the model's logits with respect to its images was infinite, on ...
    """
