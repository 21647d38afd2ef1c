"""Attacks as torchvision transforms: one image or a batch, with a label or without, in a v1 or v2 `Compose`."""

import multiprocessing
import sys
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import KeyPath, MappingKey, tree_flatten_with_path, tree_unflatten
from torch.utils.data import get_worker_info

from advkit._engine.checks import check_classes, check_images, check_number
from advkit._engine.lengths import OfRange
from advkit._engine.wording import short
from advkit.attack import Attack
from advkit.attacks import FGSM
from advkit.errors import AdvkitError, DtypeError, InputError
from advkit.model import Model, placement

__all__ = ["AttackTransform", "FGSMTransform"]

LABEL_KEYS = ("label", "labels", "target")


class AttackTransform(nn.Module):
    """Any attack, as a transform for `torchvision.transforms.Compose` or `torchvision.transforms.v2.Compose`.

    It stands after the images have become tensors and before anything that takes them out of the bounds of the
    attack: the normalisation belongs inside the model, as `advkit.Normalized`. It is called with

    - one image (C, H, W), or a batch (N, C, H, W): floating within the attack's bounds, or uint8;
    - one such image and more, as several arguments, a tuple, a list, a dict, or any nesting of them. As in
      torchvision's v2, the images are the ``tv_tensors.Image`` in it, or else the first tensor (of 3 dimensions at
      least). They keep their type, and everything else passes through.

    The label is the first integer, or tensor of integers with at most one dimension, that stands under a key
    "label", "labels" or "target"; or else the first that follows the image in a tuple or list. Where there is
    none (soft labels are none), it is the model's own answer to the image, for one forward more.

    uint8 pixels are attacked as the bounds' 256 levels (eps=8/255 is 8 of them with bounds (0, 1)), and the change
    is rounded towards zero, so that it stays within a budget. A minimal attack may lose its effect that way.

    The model is none of this module's submodules: it has no parameters, and `train`, `to` and `state_dict` leave
    the model alone. While it is attacked the model is in eval mode, and afterwards it is as it was.

    Args:
        attack: the attack and, inside it, its model.
        p: the probability that an image is attacked, drawn for each image from torch's default RNG. With ``p=1``
            nothing is drawn.

    Raises:
        InputError: ``p`` is outside [0, 1], the attack has a budget for each image of some batch, or there is no
            image in the sample; see `Attack` for the rest.
        DtypeError: ``attack`` is no `Attack`, or the sample holds a PIL image.
        AdvkitError: it runs in a forked DataLoader worker that cannot use the model.
    """

    def __init__(self, attack: Attack, p: float = 1.0) -> None:
        super().__init__()
        check_attack(attack)
        check_number("p", p, at_least=0, at_most=1)
        self.attack = attack
        self.p = p

    def forward(self, *inputs: Any) -> Any:
        """The sample, in its own structure, with the images attacked."""
        _check_worker(self.attack.model)
        try:
            return Sample(inputs if len(inputs) > 1 else inputs[0]).attacked(self.attack, self.p)
        except RuntimeError as error:
            if "fork-based multiprocessing" not in str(error):
                raise
            raise AdvkitError(
                "a DataLoader worker cannot attack, since it was forked after this process had run a backward on "
                "a machine with an accelerator. Attack whole batches after collate instead, with "
                "advkit.data.attacked(loader, attack); or start the workers otherwise, with "
                'DataLoader(..., multiprocessing_context="forkserver")'
            ) from error

    def extra_repr(self) -> str:
        """What `print` shows between the brackets."""
        return f"{self.attack}, p={self.p}"


class FGSMTransform(AttackTransform):
    """`FGSM` as a transform: see `AttackTransform` for what it takes and where it stands.

    Args:
        model: pixels (N, C, H, W) to logits (N, K).
        eps: the size of the step in units of pixels, at least 0; 8/255 of the range of ``bounds`` if not given.
        p: the probability that an image is attacked.
        bounds: the lowest and the highest value of a pixel.
    """

    attack: FGSM

    def __init__(
        self,
        model: Model,
        eps: float = OfRange(8 / 255),
        p: float = 1.0,
        *,
        bounds: tuple[float, float] = (0.0, 1.0),
    ) -> None:
        super().__init__(FGSM(model, eps, bounds=bounds), p)

    def extra_repr(self) -> str:
        """What `print` shows between the brackets."""
        return f"eps={short(self.attack.eps)}, p={self.p}"


class Sample:
    """The images and the label in a structure of tuples, lists and dicts, by the rules of `AttackTransform`.

    Args:
        structure: what a data set or a loader gave.
        batched: whether its first dimension is known to be the batch. Then an image may have any shape; otherwise
            a tensor of 3 dimensions is one image and one of more is a batch.

    Raises:
        InputError: there is no image in it.
        DtypeError: there is a PIL image in it.
    """

    def __init__(self, structure: Any, *, batched: bool = False) -> None:
        leaves_by_path, self._spec = tree_flatten_with_path(structure)
        self._entries = [_entry(*leaf) for leaf in leaves_by_path]
        self._batched = batched
        leaves = [entry.value for entry in self._entries]
        if _instances(leaves, "PIL.Image", "Image"):
            raise DtypeError(f"attacks need tensors, and there is a PIL image in this sample; {TO_TENSOR}")
        explicit = _instances(leaves, "torchvision.tv_tensors", "Image")
        pure = (at for at, leaf in enumerate(leaves) if _is_pure(leaf) and leaf.ndim >= (2 if batched else 3))
        self._where = explicit or list(pure)[:1]
        if not self._where:
            shapes = "(N, ...)" if batched else "(C, H, W) or (N, C, H, W)"
            raise InputError(
                f"found no image of shape {shapes} among {', '.join(map(_describe, leaves)) or 'nothing'}; {TO_TENSOR}"
            )

    @property
    def images(self) -> Tensor:
        """The first image or batch of images, as a batch (N, ...)."""
        return self._batch(self._where[0])

    @property
    def labels(self) -> Tensor | None:
        """The label: an integer tensor (N,), or of another shape if it does not belong to the images; None if none."""
        named = (entry.value for entry in self._entries if entry.name in LABEL_KEYS)
        following = (entry.value for entry in self._entries[self._where[0] + 1 :] if entry.ordered)
        label = next((value for value in (*named, *following) if _is_label(value)), None)
        if label is None:
            return None
        labels = torch.as_tensor(int(label) if isinstance(label, Integral) else label)
        return labels.reshape(1) if labels.ndim == 0 and len(self.images) == 1 else labels

    def attacked(self, attack: Attack, p: float) -> Any:
        """The structure, with its images attacked, each with probability ``p``."""
        labels, values = self.labels, [entry.value for entry in self._entries]
        for at in self._where:
            image = values[at]
            found = _attack_some(attack, self._batch(at), labels, p).view(image.shape)
            values[at] = found if _is_pure(image) else found.as_subclass(type(image))
        return tree_unflatten(values, self._spec)

    def _batch(self, at: int) -> Tensor:
        pixels: Tensor = self._entries[at].value.detach().as_subclass(Tensor)
        return pixels if self._batched or pixels.ndim > 3 else pixels.unsqueeze(0)


def check_attack(attack: object) -> None:
    """Refuse what is no attack, or one that is made for the images of one batch."""
    if not isinstance(attack, Attack):
        raise DtypeError(f"attack must be an advkit attack, such as advkit.PGD(model); got {type(attack).__name__}")
    for name in attack._per_row():
        raise InputError(
            f"{type(attack).__name__} has one {name} for each image of a batch, and a pipeline has many batches; "
            f"give {name} as one number"
        )


TO_TENSOR = (
    "put ToTensor() before the attack in a torchvision.transforms Compose, or ToImage() and "
    "ToDtype(torch.float32, scale=True) in a v2 one"
)


@dataclass
class _Entry:
    """One leaf of a structure: what it is, the key or field it stands under, and whether it stands in an order."""

    value: Any
    name: Any
    ordered: bool


def _entry(path: KeyPath, value: Any) -> _Entry:
    last = path[-1] if path else None
    if isinstance(last, MappingKey):
        return _Entry(value, last.key, ordered=False)
    return _Entry(value, getattr(last, "name", None), ordered=True)  # the fields of a named tuple have both


def _instances(leaves: list[Any], module: str, name: str) -> list[int]:
    """Where there are instances of a class whose module may not have been imported; then there are none."""
    if module not in sys.modules:
        return []
    kind = getattr(sys.modules[module], name)
    return [at for at, leaf in enumerate(leaves) if isinstance(leaf, kind)]


def _is_pure(leaf: object) -> bool:
    """Whether this is a tensor, and none of torchvision's boxes, masks and so on."""
    return isinstance(leaf, Tensor) and not _instances([leaf], "torchvision.tv_tensors", "TVTensor")


def _is_label(leaf: Any) -> bool:
    if isinstance(leaf, Tensor):
        kind = leaf.dtype
        return (
            _is_pure(leaf) and leaf.ndim < 2 and not (kind.is_floating_point or kind.is_complex or kind == torch.bool)
        )
    return isinstance(leaf, Integral) and not isinstance(leaf, bool)


def _describe(leaf: object) -> str:
    kind = type(leaf).__name__
    return f"{kind} of shape {tuple(leaf.shape)}" if isinstance(leaf, Tensor) else kind


def _attack_some(attack: Attack, images: Tensor, labels: Tensor | None, p: float) -> Tensor:
    """A batch (N, ...) of which each image was attacked with probability ``p``."""
    if p == 1:
        return attack_batch(attack, images, labels)
    rows = (torch.rand(len(images)) < p).nonzero().squeeze(1)
    found = images.clone()
    if len(rows):
        if labels is not None:
            check_classes("labels", labels, images)
            labels = labels[rows]
        found[rows] = attack_batch(attack, images[rows], labels)
    return found


def attack_batch(attack: Attack, images: Tensor, labels: Tensor | None) -> Tensor:
    """The attack on floating or uint8 images (N, ...), with the model's own answer where there is no label."""
    low, high = attack.bounds
    levels = images.dtype == torch.uint8
    pixels = (low + images.float() / 255 * (high - low)).clamp(low, high) if levels else images
    if labels is None:
        check_images(pixels, attack.bounds)
        labels = attack._predict(pixels)
    found = attack(pixels, labels)
    if not levels:
        return found
    change = (found - pixels) * (255 / (high - low))
    # Towards zero, but for what float32 has lost of a whole level.
    return (images + change.sign() * (change.abs() + 1e-4).floor()).to(torch.uint8)


def _check_worker(model: Model) -> None:
    """Refuse a model that this process cannot use: a forked worker has no access to its parent's accelerator."""
    device = placement(model)[0]
    if device is None or device.type == "cpu" or get_worker_info() is None:
        return
    started = getattr(multiprocessing.current_process(), "_start_method", None) or multiprocessing.get_start_method()
    if started == "fork":
        raise AdvkitError(
            f"the model is on {device}, which a forked DataLoader worker cannot use. Attack whole batches after "
            "collate instead, with advkit.data.attacked(loader, attack); or give the transform a copy of the model "
            "on the CPU"
        )
