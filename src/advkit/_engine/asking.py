"""How a model has to be asked: most of them just so, and some with more care."""

import re
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from advkit._base.answers import found_in
from advkit._base.behind import modules_behind
from advkit.errors import AdvkitError, ModelError
from advkit.model import Model, placement

__all__ = ["Asker", "LookAgain", "plain"]

_MOST_SIZES = 6  # sizes of batches that are tried on a model that refuses the one at hand
_LARGEST_SIZE = 2**16
_ABOUT_SIZES = re.compile(r"size\(\)\[0\]|shape\[0\]|batch|dimension", re.IGNORECASE)
_OUT_OF_MEMORY = re.compile("out of memory|alloc", re.IGNORECASE)
_LEAF = "leaf Variable that requires grad"  # torch's words for an in-place write that autograd forbids
_NO_AUTOCAST = nullcontext()


class LookAgain(ModelError):
    """A search has to be done again with more care, which `Classifier.verified` does."""


@dataclass(frozen=True)
class _Way:
    """A way to ask.

    Args:
        dtype: of the images that the model gets; None for theirs.
        size: how many images it gets at a time; None for all of them.
        copies: whether it gets copies, since it writes into them.
    """

    dtype: torch.dtype | None
    size: int | None = None
    copies: bool = False


class Asker:
    """A model and the way to ask it, which is found out as it is asked.

    A model that writes into its images, as preprocessing in place does, gets copies from then on. At its first answer
    a comparison tells; later, torch's count of writes does, of which ``.data`` knows nothing.

    A model that refuses a batch is tried with what it may have been made for: the dtype of the caller's images, or
    another number of them, as modules exported for one size want. It is taken for such a model if it takes that, and
    refuses the batch a second time; otherwise its error is its own.

    What it answers without a graph may be a buffer that it answers into again, and is copied.

    Args:
        model: images (N, ...) to logits (N, K).
        autocast: the dtype of `torch.autocast` around it; None for none.
        batch: how many images the caller has, of which attacks may ask about some.

    Attributes:
        device: the model's, as `placement` finds it.
        dtype: likewise.
        given: the dtype of the caller's images, where it is known.
    """

    def __init__(self, model: Model, autocast: torch.dtype | None = None, batch: int = 0) -> None:
        self.model = model
        self.device, self.dtype = placement(model)
        self.given: torch.dtype | None = None
        self._autocast = autocast
        self._sizes = [batch]  # that the model may have been made for
        self._seen = False
        self._settle(_Way(self.dtype))

    def __call__(self, images: Tensor) -> object:
        """What the model returns for images (N, ...), which stay as they are."""
        if not self._seen:
            self._seen = True
            return self._first(images)
        version = images._version
        try:
            output = _kept(self.model(images)) if images.dtype == self._direct else self._ask(images, self._way)
        except Exception as error:
            return self._otherwise(images, error)
        if images._version != version:
            self._settle(replace(self._way, copies=True))
            if images.requires_grad:
                raise LookAgain("the model wrote into its images, which it did not when it was first asked")
        return output

    def _settle(self, way: _Way) -> None:
        """Ask in this way from now on."""
        self._way = way
        # The dtype of images that the model can be given as they are: a step of an attack is a matter of microseconds.
        as_is = self._autocast is None and way.size is None and not way.copies
        self._direct = way.dtype if as_is else None

    def _first(self, images: Tensor) -> object:
        """The first answer, which shows whether the model leaves its images alone."""
        # What is written into images that were computed stands in their graph for good: those are shown as a copy.
        given = images if images.grad_fn is None else images.clone()
        before, version = images.detach().clone(), given._version
        try:
            output = self._ask(given, self._way)
        except Exception as error:
            images.data.copy_(before)  # by way of data, which torch does not count as a write
            output = self._otherwise(images, error)
        self._sizes.append(len(images))
        if given._version != version or not torch.equal(given.detach(), before):
            images.data.copy_(before)
            self._settle(replace(self._way, copies=True))
            if given is images:
                output = self._ask(images, self._way)
        return output

    def _otherwise(self, images: Tensor, error: Exception) -> object:
        """What the model returns in another way, in which it is asked from now on; or else its error is raised."""
        if isinstance(error, (AdvkitError, MemoryError, torch.cuda.OutOfMemoryError)):
            raise error
        text = str(error)
        way = replace(self._way, copies=True)  # who knows what it did before it failed
        if _LEAF in text:
            self._settle(way)
            return self._ask(images, way)
        sizes = self._other_sizes(len(images), text)
        others = [replace(way, size=size) for size in sizes]
        if self.given not in (None, way.dtype or images.dtype):
            others.insert(0, replace(way, dtype=self.given))
        for other in others:
            answered, output = self._attempt(images, other)
            if answered:
                if self._attempt(images, way)[0]:  # it failed by chance
                    raise error
                self._settle(other)
                return output
        if sizes and _ABOUT_SIZES.search(text):
            tried = ", ".join(map(str, [len(images), *sizes]))
            raise ModelError(
                f"the model rejects a batch of this size: {text}. Batches of {tried} images were tried, padded with "
                "repeats; export the model with a dynamic batch dimension, or wrap it in a function that cuts batches "
                "to its size"
            ) from error
        raise error

    def _attempt(self, images: Tensor, way: _Way) -> tuple[bool, object]:
        try:
            return True, self._ask(images, way)
        except Exception:
            return False, None

    def _other_sizes(self, count: int, error: str) -> list[int]:
        """The sizes of batches to try: those that an exported module names, then its error, then the caller's."""
        if not count or _OUT_OF_MEMORY.search(error):
            return []
        named = [int(number) for number in re.findall(r"\b\d{1,5}\b", error)]
        sizes = dict.fromkeys([*_exported_for(self.model), *named, *self._sizes])
        return [size for size in sizes if 0 < size <= _LARGEST_SIZE and size != count][:_MOST_SIZES]

    def _ask(self, images: Tensor, way: _Way) -> object:
        if way.copies:
            images = images.clone()
        with _NO_AUTOCAST if self._autocast is None else torch.autocast(images.device.type, self._autocast):
            if way.dtype is not None and images.dtype != way.dtype:
                images = images.to(way.dtype)
            if way.size is None or len(images) in (0, way.size):
                return _kept(self.model(images))
            # Not views of one tensor, into which autograd would let nobody write.
            padded = torch.arange(len(images) + -len(images) % way.size, device=images.device) % len(images)
            outputs = [_kept(self.model(images[rows])) for rows in padded.split(way.size)]
        answers = [output for output in outputs if isinstance(output, Tensor) and output.shape[:1] == (way.size,)]
        return torch.cat(answers)[: len(images)] if len(answers) == len(outputs) else outputs[0]


def _kept(output: object) -> object:
    """The logits that a model returned, as a plain tensor, and as one that its next answer leaves alone."""
    if not isinstance(output, Tensor):
        output = found_in(output)
        if not isinstance(output, Tensor):
            return output
    output = plain(output)
    return output if output.grad_fn is not None else output.clone()


def plain(tensor: Tensor) -> Tensor:
    """The tensor without its subclass; whole, where it was spread over several processes."""
    if type(tensor) is Tensor:
        return tensor
    whole: Tensor = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
    return whole.as_subclass(Tensor)


def _exported_for(model: Model) -> Iterator[int]:
    """The sizes of batches that modules in the model were exported for."""
    for module in modules_behind(model):
        if isinstance(module, torch.fx.GraphModule):
            inputs = (node.meta.get("val") for node in module.graph.nodes if node.op == "placeholder")
            first = next(inputs, None)
            if isinstance(first, Tensor) and first.ndim and isinstance(first.shape[0], int):
                yield first.shape[0]
