"""Attacks as torchvision transforms: one image or a batch, with a label or without, in a v1 or v2 `Compose`.

Examples:
    >>> from torchvision.transforms import v2
    >>> train = v2.Compose([v2.RandomHorizontalFlip(), advkit.transforms.FGSMTransform(model, p=0.5)])
    >>> image, label = train(images[0], int(labels[0]))
"""

import multiprocessing
from typing import Any

from torch import nn
from torch.utils.data import get_worker_info

from advkit._data.attacking import attack_sample, check_attack
from advkit._data.samples import Choice, LabelsGetter, Sample, check_labels_getter
from advkit._engine.checks import check_number
from advkit._engine.lengths import OfRange
from advkit._engine.wording import short
from advkit.attack import Attack
from advkit.attacks import FGSM
from advkit.errors import AdvkitError
from advkit.model import Model, placement

__all__ = ["AttackTransform", "FGSMTransform"]


class AttackTransform(nn.Module):
    """Any attack, as a transform for `torchvision.transforms.Compose` or `torchvision.transforms.v2.Compose`.

    Put it after the images have become tensors and before anything that takes them out of the bounds of the
    attack: the normalisation belongs inside the model, as `advkit.Normalized`. It is called with

    - one image (C, H, W), or a batch (N, C, H, W): floating within the attack's bounds, or uint8;
    - one such image among other values, as several arguments, a tuple, a list, a dict, or any nesting of them. As in
      torchvision's v2, the images are the ``tv_tensors.Image`` in it, or else the first tensor (of at least 3
      dimensions). They keep their type, and everything else passes through.

    The label is the integer, or tensor or array of integers of shape (N,) or (N, 1), under a key "label",
    "labels" or "target"; or else the one that follows the image in a tuple or list. Where there is none (soft labels
    do not count), it is the model's own prediction, for one more forward pass. Where several integers could be the
    label, one whose values are all different, and not all of them classes of the model, is taken to be an index of the
    images; if that does not settle it, say which it is with ``labels``.

    uint8 pixels are attacked as the bounds' 256 levels (eps=8/255 is 8 of them with bounds (0, 1)), with ``levels=256``
    if the attack has no ``levels`` of its own, which must be a subset of those 256: the result fools the model as
    bytes. With an attack that has a budget, the change stays within it; with any other attack, an image for which
    nothing on these levels was found to fool the model is returned unchanged.

    The model is not a submodule of this one, which has no parameters: `train`, `to` and `state_dict` leave the model
    alone. While it is attacked the model is in eval mode, and afterwards it is as it was.

    Args:
        attack: the attack and, inside it, its model.
        p: the probability that an image is attacked, drawn for each image from torch's default generator. With ``p=1``
            nothing is drawn.
        labels: where the label is: its key or field, its index in the tuple, list or arguments, or a function of the
            whole sample that returns it, or returns None for the model's own prediction. If None, the rules above.

    Raises:
        InputError: ``p`` is outside [0, 1], the attack has its own budget or starting point for each image of a batch,
            or levels that uint8 images do not have, or the sample has no image, no label where ``labels``
            points, or several that could be it; see `Attack` for the rest.
        DtypeError: ``attack`` is not an `Attack`, ``labels`` is neither a key, an index nor a function, or there is a
            PIL image in the sample.
        AdvkitError: it runs in a forked DataLoader worker that cannot use the model.

    Examples:
        >>> from torchvision.transforms import v2
        >>> attack = advkit.AttackTransform(advkit.PGD(model, steps=3), p=0.5)
        >>> transform = v2.Compose([v2.ToDtype(torch.float32, scale=True), attack])
        >>> image, label = transform(torch.zeros(3, 16, 16, dtype=torch.uint8), 4)
        >>> image.shape, label
        (torch.Size([3, 16, 16]), 4)
    """

    def __init__(self, attack: Attack, p: float = 1.0, *, labels: LabelsGetter = None) -> None:
        super().__init__()
        check_attack(attack)
        check_number("p", p, at_least=0, at_most=1)
        check_labels_getter(labels)
        self.attack = attack
        self.p = p
        self.labels = labels
        self._choice = Choice(attack.model)

    def forward(self, *inputs: Any) -> Any:
        """The sample, in its own structure, with the images attacked."""
        _check_worker(self.attack.model)
        try:
            sample = Sample(inputs if len(inputs) > 1 else inputs[0], where=self.labels, choice=self._choice)
            return attack_sample(sample, self.attack, self.p)
        except RuntimeError as error:
            if "fork-based multiprocessing" not in str(error):
                raise
            raise AdvkitError(
                "a DataLoader worker cannot attack, since it was forked after this process had run a backward pass on "
                "a machine with an accelerator. Attack whole batches after collate instead, with "
                "advkit.data.attacked(loader, attack); or start the workers differently, with "
                'DataLoader(..., multiprocessing_context="forkserver")'
            ) from error

    def extra_repr(self) -> str:
        """What `print` shows between the parentheses."""
        return f"{self.attack}, p={self.p}{self._where()}"

    def _where(self) -> str:
        return "" if self.labels is None else f", labels={getattr(self.labels, '__name__', repr(self.labels))}"


class FGSMTransform(AttackTransform):
    """`FGSM` as a transform: see `AttackTransform` for what it takes and where to put it.

    Args:
        model: pixels (N, C, H, W) to logits (N, K).
        eps: the size of the step in units of pixels, at least 0; 8/255 of the range of ``bounds`` if not given.
        p: the probability that an image is attacked.
        bounds: the lowest and the highest value of a pixel.
        labels: where the label is, as for `AttackTransform`.

    Examples:
        >>> transform = advkit.FGSMTransform(model, eps=8 / 255)
        >>> adversarial, label = transform(images[0], int(labels[0]))
        >>> bool((adversarial - images[0]).abs().max() <= 8 / 255 + 1e-6)
        True
    """

    attack: FGSM

    def __init__(
        self,
        model: Model,
        eps: float = OfRange(8 / 255),
        p: float = 1.0,
        *,
        bounds: tuple[float, float] = (0.0, 1.0),
        labels: LabelsGetter = None,
    ) -> None:
        super().__init__(FGSM(model, eps, bounds=bounds), p, labels=labels)

    def extra_repr(self) -> str:
        """What `print` shows between the parentheses."""
        return f"eps={short(self.attack.eps)}, p={self.p}{self._where()}"


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
