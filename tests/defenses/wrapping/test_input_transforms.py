import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from advkit.defenses import (
    BitDepthReduction,
    ImageQuilting,
    JPEGCompression,
    RandomCropRescale,
    TotalVarianceMinimization,
)
from advkit.errors import InputError
from contracts.scenes import conv_net, draw


def smooth(count: int, channels: int = 3, height: int = 16, width: int = 16) -> Tensor:
    """Images with structure: noise at a low resolution, enlarged."""
    return interpolate(draw(count, channels, 4, 4), (height, width), mode="bicubic").clamp(0, 1)


@pytest.mark.parametrize("bits", [1, 2, 3, 8])
def test_bit_depth(bits: int) -> None:
    levels = np.linspace(0, 1, 2**bits)
    images = draw(2, 3, 8, 8)
    nearest = levels[np.abs(images.numpy()[..., None] - levels).argmin(-1)]
    torch.testing.assert_close(BitDepthReduction(bits)(images).double(), torch.from_numpy(nearest), rtol=0, atol=1e-6)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("quality", [10, 75, 100])
@pytest.mark.filterwarnings("ignore:The image decoding and encoding:DeprecationWarning")
def test_jpeg_is_torchvisions_for_each_image(channels: int, quality: int) -> None:
    from torchvision.io import decode_jpeg, encode_jpeg

    images = smooth(3, channels, 16, 11)
    for image, found in zip(images, JPEGCompression(quality)(images), strict=True):
        expected = decode_jpeg(encode_jpeg((image * 255).round().byte(), quality)).float() / 255
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_jpeg_of_good_quality_changes_little_and_of_bad_quality_much() -> None:
    images = smooth(4, height=64, width=64)
    good, bad = ((JPEGCompression(quality)(images) - images).abs().mean() for quality in (95, 5))
    assert good < 0.02 < bad


def test_crops_are_of_every_place_and_each_is_scaled_back() -> None:
    """Each image that comes out is, resized by torch, one of the crops there are."""
    images = draw(1, 2, 6, 8).expand(300, 2, 6, 8)
    found = RandomCropRescale(0.5, generator=torch.Generator().manual_seed(0))(images)
    crops = [images[:1, :, i : i + 3, j : j + 4] for i in range(4) for j in range(5)]
    scaled = torch.cat([interpolate(crop, (6, 8), mode="bilinear", antialias=True) for crop in crops])
    distance = (found[:, None] - scaled).abs().flatten(2).amax(2)
    assert float(distance.amin(1).max()) < 1e-6
    counts = distance.argmin(1).bincount(minlength=20)
    assert counts.min() > 0
    assert counts.max() < 40  # 15 each on average


def test_a_crop_of_the_whole_image_is_the_image() -> None:
    images = draw(3, 3, 5, 7)
    torch.testing.assert_close(RandomCropRescale(1.0)(images), images)
    assert RandomCropRescale(0.01)(images).shape == images.shape


def cartoon() -> Tensor:
    """Images of 16 flat squares."""
    return draw(8, 3, 4, 4).repeat_interleave(8, 2).repeat_interleave(8, 3)


def test_total_variance_fills_in_what_was_dropped() -> None:
    clean = cartoon()
    found = TotalVarianceMinimization(0.5, 0.01, generator=torch.Generator().manual_seed(0))(clean)
    assert (found - clean).square().mean() < 0.05 * clean.square().mean() / 2  # half of it was dropped


def test_total_variance_takes_noise_away() -> None:
    clean = cartoon()
    noisy = (clean + 0.1 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(1))).clamp(0, 1)
    found = TotalVarianceMinimization(0.0, 0.1)(noisy)
    assert (found - clean).square().mean() < 0.3 * (noisy - clean).square().mean()


def test_total_variance_keeps_a_flat_image() -> None:
    flat = torch.full((2, 3, 8, 8), 0.3)
    found = TotalVarianceMinimization(0.9, generator=torch.Generator().manual_seed(0))(flat)
    torch.testing.assert_close(found, flat)


def reference_quilt(image: np.ndarray, patches: np.ndarray, overlap: int) -> np.ndarray:
    """Guo et al.'s quilting as one would write it down: pixel by pixel, (C, H, W)."""
    size = patches.shape[-1]
    stride = size - overlap
    _, height, width = image.shape
    quilt = np.zeros_like(image)
    for top in range(0, height - size + 1, stride):
        for left in range(0, width - size + 1, stride):
            here = np.s_[:, top : top + size, left : left + size]
            distances = [((patch - image[here]) ** 2).sum() for patch in patches]
            patch = patches[int(np.argmin(distances))]
            error = ((quilt[here] - patch) ** 2).sum(0)
            first_col = cut(error[:, :overlap]) if left else [0] * size
            first_row = cut(error[:overlap].T) if top else [0] * size
            for y in range(size):
                for x in range(size):
                    if x >= first_col[y] and y >= first_row[x]:
                        quilt[:, top + y, left + x] = patch[:, y, x]
    return quilt


def cut(error: np.ndarray) -> list[int]:
    """The path of least error down a strip, by trying all of them."""
    length, width = error.shape

    def best(y: int, x: int) -> tuple[float, list[int]]:
        if y == 0:
            return float(error[0, x]), [x]
        cost, path = min(best(y - 1, before) for before in range(max(0, x - 1), min(width, x + 2)))
        return cost + float(error[y, x]), [*path, x]

    return min((best(length - 1, x) for x in range(width)), key=lambda found: found[0])[1]


@pytest.mark.parametrize(("size", "overlap", "height", "width"), [(5, 2, 14, 11), (4, 1, 10, 7), (6, 3, 9, 12)])
def test_quilting_is_the_slow_one_for_each_image(size: int, overlap: int, height: int, width: int) -> None:
    images, patches = draw(3, 2, height, width), draw(30, 2, size, size, seed=1)
    found = ImageQuilting(patches, overlap)(images)
    for image, quilt in zip(images, found, strict=True):
        expected = reference_quilt(image.double().numpy(), patches.double().numpy(), overlap)
        torch.testing.assert_close(quilt.double(), torch.from_numpy(expected), rtol=0, atol=1e-6)


def test_quilts_of_a_models_own_patches_are_the_image() -> None:
    images = draw(2, 3, 11, 8)
    patches = images.unfold(2, 5, 3).unfold(3, 5, 3).movedim(1, 3).reshape(-1, 3, 5, 5)
    torch.testing.assert_close(ImageQuilting(patches)(images), images, rtol=0, atol=0)


def test_images_that_the_grid_does_not_fit_are_mirrored() -> None:
    images, patches = draw(2, 3, 9, 12), draw(30, 3, 5, 5, seed=1)
    padded = torch.nn.functional.pad(images, (0, 2, 0, 2), mode="reflect")
    quilting = ImageQuilting(patches)
    assert quilting(images).equal(quilting(padded)[..., :9, :12])
    with pytest.raises(InputError, match="images of 2x12 pixels are too small for patches of 5x5"):
        quilting(images[..., :2, :])
    with pytest.raises(InputError, match="the patches have 3 channels, but the images have 1"):
        quilting(images[:, :1])


def test_random_neighbours_are_drawn_from_the_nearest_evenly() -> None:
    patches = torch.linspace(0, 1, 11).view(11, 1, 1, 1).expand(11, 1, 4, 4)
    quilting = ImageQuilting(patches, neighbors=3, generator=torch.Generator().manual_seed(0))
    assert quilting.stochastic
    assert not ImageQuilting(patches).stochastic
    found = quilting(torch.full((3000, 1, 4, 4), 0.52))
    values, counts = found[:, 0, 0, 0].unique(return_counts=True)
    torch.testing.assert_close(values, torch.tensor([0.4, 0.5, 0.6]))
    assert ((counts - 1000).abs() < 120).all()


def test_patches_come_from_everywhere_in_the_images() -> None:
    images = torch.arange(2 * 6 * 7).view(2, 1, 6, 7).float() / 100
    patches = ImageQuilting.from_images(images, 2000, 3, generator=torch.Generator().manual_seed(0)).patches
    assert patches.shape == (2000, 1, 3, 3)
    windows = images.unfold(2, 3, 1).unfold(3, 3, 1).reshape(-1, 1, 3, 3)
    assert patches.unique(dim=0).equal(windows.unique(dim=0))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"count": 0}, "count must be at least 1, got 0"),
        ({"size": 1}, "size must be at least 2 and at most 6, got 1"),
        ({"size": 7}, "size must be at least 2 and at most 6, got 7"),
        ({"images": draw(0, 1, 6, 7)}, "there are no images to cut patches from"),
        ({"images": draw(1, 6, 7)}, r"images must have shape \(N, C, H, W\), got \(1, 6, 7\)"),
    ],
)
def test_patches_that_cannot_be_cut(arguments: dict[str, object], words: str) -> None:
    with pytest.raises(InputError, match=words):
        ImageQuilting.from_images(**{"images": draw(2, 1, 6, 7), "size": 3, **arguments})


def test_the_gradient_of_quilting_points_to_other_patches() -> None:
    """Between two patches it runs along their difference, whatever the model asks for."""
    patches = torch.stack([torch.zeros(1, 4, 4), torch.eye(4)[None]])
    images = torch.full((1, 1, 4, 4), 0.1).requires_grad_()
    (gradient,) = torch.autograd.grad(ImageQuilting(patches).surrogate(torch.nn.Flatten())(images).sum(), images)
    scale = gradient[0, 0, 0, 0]
    assert scale > 0
    torch.testing.assert_close(gradient[0, 0], scale * torch.eye(4))


def test_quilting_in_parts_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    quilting, images = ImageQuilting(draw(30, 3, 4, 4)), draw(4, 3, 8, 8)
    expected = quilting(images)
    monkeypatch.setattr("advkit.defenses.wrapping.quilting._TABLE", 100)
    assert quilting(images).equal(expected)
    assert quilting.surrogate(conv_net())(images).shape == (4, 4)
