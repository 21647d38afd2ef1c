"""What advkit raises and warns of: sentences that say what was wrong, what was seen and what to do."""

__all__ = ["AdvkitError", "AdvkitWarning", "DtypeError", "InputError", "MissingExtraError", "ModelError"]


class AdvkitError(Exception):
    """Everything that advkit raises on purpose."""


class InputError(AdvkitError, ValueError):
    """An argument of the caller's is wrong. Raised before any work is done."""


class DtypeError(InputError, TypeError):
    """An argument is of a type or dtype that cannot be used."""


class ModelError(AdvkitError, RuntimeError):
    """The model under attack, or in training, returned something that nobody can work with."""


class MissingExtraError(AdvkitError, ImportError):
    """A library that only this feature needs is missing or broken."""


class AdvkitWarning(UserWarning):
    """Something that advkit went on in spite of, and that may make its results worse than they could be."""
