"""Loaders whose batches are attacked as they come, and that survive being rebuilt by Lightning and others."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_map_only
from torch.utils.data import DataLoader, get_worker_info

from advkit._data.attacking import attack_sample, check_attack
from advkit._data.samples import Choice, LabelsGetter, Sample, check_labels_getter, check_loader
from advkit._engine.checks import check_number
from advkit.attack import Attack
from advkit.errors import InputError
from advkit.model import placement

__all__ = ["AttackedLoader", "attacked"]


@dataclass(frozen=True)
class _How:
    """How batches are attacked."""

    attack: Attack
    p: float
    labels: LabelsGetter
    choice: Choice = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "choice", Choice(self.attack.model))

    def __call__(self, batch: Any) -> Any:
        sample = Sample(batch, batched=True, where=self.labels, choice=self.choice)
        return attack_sample(sample, self.attack, self.p)


class AttackedLoader:
    """The batches of a loader, attacked: what `attacked` returns. It can be iterated over repeatedly.

    If the loader is a `DataLoader`, this is one too, of a class that carries the attack: code that rebuilds it, by its
    class or from its data set, sampler and collate function, gets attacked batches.

    Attributes:
        loader: the loader, without the attack.
        attack: the attack.
        p: the probability that an image is attacked.
        labels: where the label is, as given.

    Examples:
        >>> under_attack = advkit.data.attacked(loader, advkit.FGSM(model), p=0.5)
        >>> under_attack.p, len(under_attack) == len(loader)
        (0.5, True)
    """

    loader: Iterable[Any]
    _how: _How

    @property
    def attack(self) -> Attack:
        """The attack and, inside it, its model."""
        return self._how.attack

    @property
    def p(self) -> float:
        """The probability that an image is attacked."""
        return self._how.p

    @property
    def labels(self) -> LabelsGetter:
        """Where the label is, as given."""
        return self._how.labels

    def __iter__(self) -> Iterator[Any]:
        """The batches, in the loader's own structure, on the model's device."""
        device = placement(self.attack.model)[0]
        for batch in self.loader:
            yield self._how(batch if device is None else tree_map_only(Tensor, lambda one: one.to(device), batch))


def attacked(loader: Iterable[Any], attack: Attack, p: float = 1.0, *, labels: LabelsGetter = None) -> AttackedLoader:
    """The batches of a loader, each attacked as a whole on the model's device: the fast way to train on them.

    Images and labels are found by the rules of `advkit.AttackTransform`, except that the first dimension of a
    tensor is always the batch. Each tensor of a batch is moved to the device of the model.

    For a `DataLoader` it returns a `DataLoader`, with the same data set, sampler and settings, so that Lightning and
    others can give it a sampler for each process. A plain `DataLoader` built from its parts gets the attack
    through its ``collate_fn``, which works in this process only (``num_workers=0``), on the current model.

    Args:
        loader: a `DataLoader`, or any other iterable of batches.
        attack: the attack and, inside it, its model.
        p: the probability that an image is attacked, drawn for each image from torch's default generator.
        labels: where the label is in a batch, as for `advkit.AttackTransform`.

    Raises:
        InputError: ``p`` is outside [0, 1], or the attack has a separate budget for each image of some batch.
        DtypeError: ``attack`` is not an `Attack`, ``loader`` is a data set, or ``labels`` is not a key, an index or a
            function.

    Examples:
        >>> for adversarials, labels in advkit.data.attacked(loader, advkit.FGSM(model)):
        ...     print(adversarials.shape)
        torch.Size([8, 3, 16, 16])
        torch.Size([4, 3, 16, 16])
    """
    check_attack(attack)
    check_number("p", p, at_least=0, at_most=1)
    check_labels_getter(labels)
    check_loader(loader)
    how = _How(attack, p, labels)
    return _attacked_data_loader(loader, how) if isinstance(loader, DataLoader) else _AttackedBatches(loader, how)


class _AttackedBatches(AttackedLoader):
    """Batches from anything else, attacked."""

    def __init__(self, loader: Iterable[Any], how: _How) -> None:
        self.loader, self._how = loader, how

    def __len__(self) -> int:
        """The number of batches."""
        return len(self.loader)  # type: ignore[arg-type]  # if it has no length, the error is its own

    def __getattr__(self, name: str) -> Any:
        """What others look for in a loader, such as ``set_epoch``."""
        if name.startswith("__") or "loader" not in vars(self):
            raise AttributeError(name)
        return getattr(self.loader, name)


class _AttackedDataLoader(AttackedLoader):
    """A `DataLoader`, attacked; `_attacked_data_loader` makes a class for each attack and class of loaders.

    Lightning makes a loader anew by its class, and others by a `DataLoader` of its parts. So the class has the attack,
    and the ``collate_fn`` that others see has it too. The loader's own does not: it may run in a worker, which knows
    nothing of the model as it is.
    """

    _kind: type[DataLoader[Any]]

    @property
    def loader(self) -> DataLoader[Any]:  # type: ignore[override]
        """The loader without the attack, which shares all of its attributes."""
        plain = object.__new__(self._kind)
        object.__setattr__(plain, "__dict__", self.__dict__)
        return plain

    @property
    def collate_fn(self) -> Callable[[list[Any]], Any]:
        """From items to an attacked batch, for whoever builds a loader from the parts of this one."""
        return _Collate(self.loader.collate_fn, self._how)

    @collate_fn.setter
    def collate_fn(self, collate: Callable[[list[Any]], Any]) -> None:
        while isinstance(collate, _Collate):
            collate = collate.collate
        self.__dict__["collate_fn"] = collate

    def __reduce__(self) -> Any:
        return _again, (self.loader, self.attack, self.p, self.labels)


@dataclass(frozen=True)
class _Collate:
    """A collate function that attacks, in the process that has the model."""

    collate: Callable[[list[Any]], Any]
    how: _How

    def __call__(self, items: list[Any]) -> Any:
        if get_worker_info() is not None:
            raise InputError(
                "a DataLoader that was rebuilt from the parts of an attacked one attacks in its workers, which have an "
                "old copy of the model. Prepare the plain loader and attack its batches, attacked(prepared, attack) "
                "with prepared = accelerator.prepare(loader); or give it num_workers=0"
            )
        return self.how(self.collate(items))


def _attacked_data_loader(loader: DataLoader[Any], how: _How) -> AttackedLoader:
    """A loader that shares the other's data set, sampler and settings, and whose batches are attacked."""
    kind = type(loader)
    bases = (kind,) if issubclass(kind, AttackedLoader) else (_AttackedDataLoader, kind)
    namespace = {"_how": how, "_kind": kind, "__module__": __name__, "__doc__": AttackedLoader.__doc__}
    other: AttackedLoader = object.__new__(type("AttackedDataLoader", bases, namespace))
    other.__dict__.update(vars(loader))
    if "_iterator" in other.__dict__:
        other.__dict__["_iterator"] = None  # persistent workers belong to one loader
    return other


def _again(loader: Iterable[Any], attack: Attack, p: float, labels: LabelsGetter) -> AttackedLoader:
    """What `attacked` makes, for pickle, which knows no keywords."""
    return attacked(loader, attack, p, labels=labels)
