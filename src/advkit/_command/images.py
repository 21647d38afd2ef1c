"""The images that a command line names: a folder of class folders, a file of arrays, a data set of torchvision's."""

import inspect
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset, default_collate

from advkit._command.loading import called, named
from advkit.errors import AdvkitError, InputError

__all__ = ["Images", "images_named", "left_behind"]

_FILES = (".png", ".jpg", ".jpeg", ".bmp", ".ppm", ".pgm", ".tif", ".tiff", ".webp")
_SIZES = (
    "the images are of several sizes; unify them with --resize 256 --crop 224, or the size the model was trained on"
)


@dataclass(frozen=True)
class Images:
    """Images and labels in batches, and what is known of them.

    Attributes:
        loader: batches (images, labels): floating (N, C, H, W) in [0, 1], and int64 (N,).
        classes: the names of the classes, if they have some.
        files: what each image was read from, in order, if from files.
    """

    loader: Any
    classes: list[str] | None = None
    files: list[str] | None = None


def images_named(
    name: str,
    *,
    count: int | None = None,
    batch_size: int,
    workers: int = 0,
    resize: int | None = None,
    crop: int | None = None,
    grey: bool = False,
    split: str = "test",
    root: str = "data",
    download: bool = False,
) -> Images:
    """The images of ``--data``.

    Args:
        name: a folder, a file ``.npz``, ``torchvision:NAME``, or a function ``my.module:make`` that returns a data set.
        count: how many, evenly spaced over all; all if None.
        batch_size: of the loader.
        workers: of the loader.
        resize: the shorter side becomes so long; for files and for torchvision's data sets.
        crop: the middle is cut out, a square so wide; likewise.
        grey: whether images are read with one channel; likewise.
        split: of a data set of torchvision's.
        root: where torchvision keeps its data.
        download: whether it may fetch them.

    Raises:
        InputError: there is nothing of that name, or something in it cannot be used.
    """
    prepare = _Prepare(resize, crop, grey)
    path = Path(name)
    files, classes = None, None
    if path.is_dir():
        dataset: Any = _Folder(path, prepare)
        files, classes = dataset.files, dataset.classes
    elif path.suffix == ".npz":
        dataset = _Arrays(path)
        classes = dataset.classes
    elif name.startswith("torchvision:"):
        dataset = _of_torchvision(name.partition(":")[2], prepare, split, root, download)
        classes = getattr(dataset, "classes", None)
    elif ":" in name and not path.exists():
        dataset = called(named(name, "--data"), name)
        if not isinstance(dataset, DataLoader) and not all(hasattr(dataset, one) for one in ("__len__", "__getitem__")):
            kind = type(dataset).__name__
            raise InputError(f"{name} returned a {kind}; images come from a data set with a length, or a DataLoader")
        classes = getattr(dataset, "classes", None)
    else:
        raise InputError(
            f"{name} is neither a folder of class folders nor an .npz file; --data also takes "
            "torchvision:CIFAR10, or my.module:make, a function that returns a data set"
        )
    if isinstance(dataset, DataLoader):
        return Images(dataset, _texts(classes))
    if not len(dataset):
        raise InputError(f"{name} has no images")
    if count is not None and count < len(dataset):
        places = [place * len(dataset) // count for place in range(count)]
        dataset, files = Subset(dataset, places), [files[place] for place in places] if files else None
    loader = DataLoader(dataset, batch_size=batch_size, num_workers=workers, collate_fn=_together)
    return Images(loader, _texts(classes), files)


@dataclass(frozen=True)
class _Prepare:
    """From a picture to a tensor: the shorter side is scaled, the middle cut out, and pixels are in [0, 1]."""

    resize: int | None
    crop: int | None
    grey: bool

    def __call__(self, picture: Any) -> Tensor:
        from PIL import Image

        picture = _eight_bits(picture).convert("L" if self.grey else "RGB")
        if self.resize is not None:
            scale = self.resize / min(picture.size)
            wide, high = (max(1, round(side * scale)) for side in picture.size)
            picture = picture.resize((wide, high), Image.Resampling.BILINEAR)
        if self.crop is not None:
            if self.crop > min(picture.size):
                raise InputError(f"--crop {self.crop} is larger than an image of {picture.size}; use --resize first")
            left, top = ((side - self.crop) // 2 for side in picture.size)
            picture = picture.crop((left, top, left + self.crop, top + self.crop))
        pixels = torch.from_numpy(np.array(picture))
        pixels = pixels[None] if pixels.ndim == 2 else pixels.permute(2, 0, 1)
        return pixels.float() / 255


def _eight_bits(picture: Any) -> Any:
    """A picture whose values are bytes. Pillow would clip those of a grey picture of 16 bits."""
    from PIL import Image

    if picture.mode.startswith("I"):
        values = np.asarray(picture)
        if values.min() >= 0 and values.max() <= 65535:
            return Image.fromarray((values / 257).round().astype(np.uint8))
    if picture.mode.startswith(("I", "F")):
        raise InputError(f"its values have neither 8 nor 16 bits (Pillow's mode {picture.mode})")
    return picture


def left_behind(path: Path) -> bool:
    """Whether a system or an archiver put it there: such as ``.DS_Store``, ``._cat.png`` and ``__MACOSX``."""
    return path.name.startswith(".") or path.name == "__MACOSX"


class _Folder(Dataset[tuple[Tensor, int]]):
    """A folder for each class; the classes are numbered by the order of their names."""

    def __init__(self, path: Path, prepare: _Prepare) -> None:
        self.classes = sorted(one.name for one in path.iterdir() if one.is_dir() and not left_behind(one))
        if not self.classes:
            raise InputError(f"{path} has no folders; it needs one for each class, with the images of the class in it")
        self._items = [
            (file, label)
            for label, name in enumerate(self.classes)
            for file in sorted((path / name).rglob("*"))
            if file.suffix.lower() in _FILES and file.is_file() and not left_behind(file)
        ]
        self.files = [str(file.relative_to(path)) for file, _ in self._items]
        self._prepare = prepare

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        from PIL import Image, UnidentifiedImageError

        file, label = self._items[index]
        try:
            with Image.open(file) as picture:
                return self._prepare(picture), label
        except (UnidentifiedImageError, OSError, Image.DecompressionBombError) as error:
            raise InputError(f"{file} cannot be read as an image: {error}") from error


class _Arrays(Dataset[tuple[Tensor, int]]):
    """``images`` and ``labels`` of a file .npz: uint8 (N, H, W, C) or (N, H, W), or floating (N, C, H, W) in [0, 1]."""

    def __init__(self, path: Path) -> None:
        try:
            with path.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
                found = {name: arrays[name] for name in arrays.files}
        except (OSError, ValueError, EOFError, BadZipFile, zlib.error) as error:
            raise InputError(f"{path} cannot be read as arrays of numbers: {error}") from error
        if not {"images", "labels"} <= found.keys():
            raise InputError(f"{path} must have the arrays `images` and `labels`; it has {', '.join(found) or 'none'}")
        images, labels = found["images"], found["labels"].reshape(-1)
        if len(images) != len(labels) or not np.issubdtype(labels.dtype, np.integer):
            raise InputError(
                f"{path} has {len(images)} images and {len(labels)} labels of type {labels.dtype}; it needs an integer "
                "for each image"
            )
        self._images, self._labels = self._pixels(images, path), labels
        self.classes = found["classes"].tolist() if "classes" in found else None

    def _pixels(self, images: Any, path: Path) -> Any:
        """(N, C, H, W), as they are stored."""
        if images.dtype == np.uint8 and images.ndim == 3:
            return images[:, None]
        if images.dtype == np.uint8 and images.ndim == 4 and images.shape[3] in (1, 3):
            return images.transpose(0, 3, 1, 2)
        last = images.ndim == 4 and images.shape[3] in (1, 3) and images.shape[1] not in (1, 3)
        if np.issubdtype(images.dtype, np.floating) and images.ndim == 4 and not last:
            return images
        raise InputError(
            f"`images` in {path} are {images.dtype} of shape {images.shape}; they must be uint8 (N, H, W, C) with C "
            "of 1 or 3, uint8 (N, H, W), or floating (N, C, H, W) in [0, 1]"
        )

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        pixels = torch.from_numpy(np.ascontiguousarray(self._images[index]))
        image = pixels.float() / 255 if pixels.dtype == torch.uint8 else pixels.float()
        return image, int(self._labels[index])


def _of_torchvision(name: str, prepare: Callable[[Any], Tensor], split: str, root: str, download: bool) -> Any:
    """A data set of torchvision's, its test images unless another split is named."""
    try:
        from torchvision import datasets
    except (ImportError, RuntimeError) as error:
        raise AdvkitError(f"torchvision cannot be imported: {error}") from error
    if name not in datasets.__all__:
        raise InputError(f"torchvision has no data set {name!r}; it has {', '.join(sorted(datasets.__all__))}")
    kind = getattr(datasets, name)
    known = inspect.signature(kind).parameters
    offered = {"root": root, "train": split == "train", "split": split, "download": download, "transform": prepare}
    try:
        return kind(**{option: value for option, value in offered.items() if option in known})
    except (RuntimeError, ValueError, OSError, TypeError) as error:
        hint = "" if download else "; --download fetches it, and --root says where it is"
        raise InputError(f"torchvision's {name} cannot be loaded ({error}){hint}") from error


def _together(items: Sequence[Any]) -> Any:
    """A batch of items, or a sentence where they are of several sizes."""
    try:
        return default_collate(list(items))
    except RuntimeError as error:
        if len({tuple(item[0].shape) for item in items if isinstance(item[0], Tensor)}) > 1:
            raise InputError(_SIZES) from error
        raise


def _texts(names: Any) -> list[str] | None:
    return [str(name) for name in names] if isinstance(names, (list, tuple)) and names else None
