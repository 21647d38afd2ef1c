"""Randomized smoothing: the class predicted most often under noise, which no small perturbation can change."""

import math
import os
from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from advkit._base.answers import found_in
from advkit._base.random import normal_like
from advkit._data.samples import LabelsGetter
from advkit._engine.checks import check_generator, check_images, check_model, check_number
from advkit._engine.classifier import Classifier, own
from advkit._io.progress import Bar, ticking
from advkit.defenses.certifying.binomial import fair_coin, lower_bound
from advkit.defenses.certifying.certificates import Certificates, certified
from advkit.defenses.training.base import TrainingDefense
from advkit.defenses.training.loop import Training
from advkit.defenses.training.network import Network
from advkit.defenses.training.recipe import Batch
from advkit.errors import InputError
from advkit.model import Defended, Model, attacking

__all__ = ["RandomizedSmoothing"]

ABSTAIN = -1
_NUMBERS = 2**21  # of the images in a batch of noise, where the caller names no size
_ANY = (-float("inf"), float("inf"))


class RandomizedSmoothing(TrainingDefense):
    """The class that a model predicts most often for an image under Gaussian noise, with a certified radius.

    Cohen, Rosenfeld & Kolter, "Certified adversarial robustness via randomized smoothing", ICML 2019: if the model
    predicts class A for the image with noise N(0, sigma^2) with a probability of at least p > 1/2, then the smoothed
    classifier predicts A for every image within sigma * Phi^-1(p) of it in L2 (theorem 1, with 1 - p for the
    runner-up). The probability is not known, but bounded from draws: `certify` errs with a probability of at most
    ``alpha``, for each image. `predict` needs no radius, and takes fewer draws.

    `fit` trains the model under noise of the same size, as in the paper; otherwise it would face images unlike any that
    it has seen. `wrap` returns the smoothed classifier as a model: the logarithms of the shares of ``samples`` votes,
    drawn anew for each call. Votes have no gradient. An attacker who knows that uses the logarithm of the mean
    probabilities over ``eot_samples`` draws (Salman et al., "Provably robust deep learning via adversarially trained
    smoothed classifiers", NeurIPS 2019).

    Each vote on each image has its own noise, which is not clipped: the proof is for Gaussian noise.

    Args:
        sigma: the standard deviation of the noise, in units of pixels, greater than 0.
        samples: the number of votes of the wrapped model per image, at least 1.
        eot_samples: the number of draws over which an attacker averages, at least 1.
        batch_size: how many noisy images the model sees at a time; None for as many as have some two million values.
        generator: random generator for noise; torch's default if None.

    Raises:
        InputError: a number is out of its range.

    Examples:
        >>> smoothing = advkit.defenses.RandomizedSmoothing(sigma=0.25)
        >>> smoothed = smoothing.fit(model, loader, torch.optim.Adam(model.parameters()), epochs=1)
        >>> classes, radii = smoothing.certify(smoothed, images, n=1000)
        >>> bool((radii[classes == -1] == 0).all())  # where it abstains
        True
        >>> adversarials = advkit.PGD(smoothed, norm="l2", eps=0.25, steps=3)(images, labels)  # knows the noise
    """

    differentiable = False  # votes are counts
    stochastic = True

    def __init__(
        self,
        sigma: float,
        *,
        samples: int = 30,
        eot_samples: int = 10,
        batch_size: int | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        check_number("sigma", sigma, above=0)
        check_number("samples", samples, at_least=1, integer=True)
        check_number("eot_samples", eot_samples, at_least=1, integer=True)
        if batch_size is not None:
            check_number("batch_size", batch_size, at_least=1, integer=True)
        self.sigma = float(sigma)
        self.samples = samples
        self.eot_samples = eot_samples
        self.batch_size = batch_size
        check_generator(generator)
        self.generator = generator

    def __repr__(self) -> str:
        return f"{type(self).__name__}(sigma={self.sigma:g})"

    def wrap(self, model: Model) -> nn.Module:
        """The smoothed classifier, whose outputs are votes; see `Defense.wrap`."""
        return _Votes(model, self)

    def surrogate(self, model: Model) -> Model:
        """The logarithm of the mean probabilities over draws, which has a gradient; see `Defense.surrogate`."""
        return _Mean(model, self)

    def generators(self) -> list[torch.Generator | None]:
        """The generator of the noise."""
        return [self.generator]

    def loss(self, network: Network, batch: Batch) -> Tensor:
        """The cross-entropy on the images of a batch, each with its own noise."""
        return F.cross_entropy(network(self.noisy(batch.images)), batch.labels)

    def noisy(self, images: Tensor) -> Tensor:
        """Images with noise, a draw for each: (N, ...)."""
        return images + self.sigma * normal_like(images, self.generator)

    def _train(self, training: Training, loader: Iterable[Any], epochs: int) -> nn.Module:
        return self.wrap(super()._train(training, loader, epochs))

    def certify(
        self, model: Model, images: Tensor, n0: int = 100, n: int = 100_000, alpha: float = 0.001
    ) -> tuple[Tensor, Tensor]:
        """The class of each image, and its certified radius.

        ``n0`` draws select the class; the fraction of ``n`` further draws with the same prediction is bounded from
        below, exactly (Clopper & Pearson) and with confidence 1 - alpha. Where the bound p is below 1/2 the class is
        -1: the procedure abstains. Cohen et al. 2019, CERTIFY.

        Args:
            model: pixels (N, ...) to logits (N, K), or what `wrap` or `fit` made of it.
            images: floating (N, ...), on any device.
            n0: the number of draws that select the class, at least 1.
            n: the number of draws that certify it, at least 1. If all agree, the radius is that of
                p = alpha ** (1 / n): 3.8 sigma for 100,000 draws.
            alpha: the largest probability of an error, for each image; above 0, and at most 1/2.

        Returns:
            The classes, int64 (N,), with -1 where it abstains; and the radii (N,) in L2, in units of pixels: floating
            like the images but float32 or better, and 0 where it abstains. Both are on the images' device.

        Raises:
            InputError: a number is out of its range, or the images are not a batch.
            ModelError: the model returned NaN, or something that is not a batch of logits.
        """
        return self._certify(model, images, n0, n, alpha, Bar())

    def predict(self, model: Model, images: Tensor, n: int = 100_000, alpha: float = 0.001) -> Tensor:
        """The class that the smoothed classifier predicts for each image, with confidence 1 - alpha.

        The counts of the two classes that came up most often in n draws are tested against tosses of a fair coin,
        two-sided. Where such a lead has a probability above alpha, the class is -1: the procedure abstains. Otherwise
        the class differs from that of the smoothed classifier with a probability of at most alpha. Cohen et al. 2019,
        PREDICT.

        Args:
            model: as for `certify`.
            images: likewise.
            n: the number of draws, at least 1.
            alpha: the largest probability of an error, for each image; above 0 and below 1.

        Returns:
            The classes, int64 (N,), on the images' device, with -1 where it abstains.

        Raises:
            InputError: as for `certify`.
            ModelError: likewise.
        """
        check_number("n", n, at_least=1, integer=True)
        check_number("alpha", alpha, above=0, at_most=1)
        check_images(images, _ANY)
        if not len(images):
            return torch.zeros(0, dtype=torch.int64, device=images.device)
        counts = self._counts(self._base(model), images, [n], Bar())[0]
        (most, second), classes = (part.unbind(1) for part in counts.topk(2))
        sure = fair_coin(most, most + second) <= alpha
        return torch.where(sure, classes[0], ABSTAIN).to(images.device)

    def certify_loader(
        self,
        model: Model,
        loader: Iterable[Any],
        n0: int = 100,
        n: int = 100_000,
        alpha: float = 0.001,
        *,
        run_folder: str | os.PathLike[str] | None = None,
        seed: int | None = 0,
        progress: bool | None = None,
        labels: LabelsGetter = None,
    ) -> Certificates:
        """Certify a whole data set, resumably and with a progress bar.

        Args:
            model: as for `certify`.
            loader: batches of images and labels, such as a `DataLoader`. To resume, it has to yield the same again.
            n0: as for `certify`.
            n: as for `certify`.
            alpha: as for `certify`.
            run_folder: a folder for the results of each batch, written as they come. The same call resumes a run that
                was interrupted. Another model, other arguments or other images are refused.
            seed: the seed of the noise of each batch, so that results are reproducible; None to use the ``generator``.
            progress: True for a bar, False for none, None for one if stderr is a terminal and tqdm is installed.
            labels: where the label is in a batch, as for `advkit.AttackTransform`.

        Returns:
            The classes, radii and labels of all images, in the loader's order.

        Raises:
            InputError: as for `certify`; or the folder holds something else.
            ModelError: as for `certify`.
        """
        self._check(n0, n, alpha)
        base, how = self._base(model), {"sigma": self.sigma, "n0": n0, "n": n, "alpha": alpha, "seed": seed}
        images = getattr(getattr(loader, "dataset", None), "__len__", None)
        total = None if images is None else images() * (n0 + n)
        with ticking(total, "certify", unit="draw", progress=progress) as tick:

            def work(images: Tensor) -> tuple[Tensor, Tensor]:
                return self._certify(base, images, n0, n, alpha, tick, own_generator=seed is None)

            return certified(work, base, loader, how, run_folder=run_folder, seed=seed, labels=labels)

    def _certify(
        self, model: Model, images: Tensor, n0: int, n: int, alpha: float, tick: Bar, *, own_generator: bool = True
    ) -> tuple[Tensor, Tensor]:
        self._check(n0, n, alpha)
        check_images(images, _ANY)
        dtype = torch.promote_types(images.dtype, torch.float32)
        if not len(images):
            nothing = torch.zeros(0, device=images.device)
            return nothing.long(), nothing.to(dtype)
        first, second = self._counts(self._base(model), images, [n0, n], tick, own_generator=own_generator)
        classes = first.argmax(1)
        p = lower_bound(second.gather(1, classes[:, None]).squeeze(1), n, alpha)
        radii = (self.sigma * torch.special.ndtri(p)).where(p >= 0.5, 0)
        classes = classes.where(p >= 0.5, ABSTAIN)
        return classes.to(images.device), _rounded_down(radii, dtype).to(images.device)

    def _counts(
        self, model: Model, images: Tensor, draws: list[int], tick: Bar, *, own_generator: bool = True
    ) -> list[Tensor]:
        """How often each class came up for each image, in so many draws: int64 (N, K) on the CPU, for each number."""
        classifier = Classifier(model)
        generator = self.generator if own_generator else None
        size = self.batch_size or max(1, _NUMBERS // images[0].numel())
        found = []
        with attacking(model), torch.no_grad():
            pixels = own(images, *classifier.workplace(images))
            for n in draws:
                counts = None
                for begin in range(0, n * len(pixels), size):
                    rows = torch.arange(begin, min(begin + size, n * len(pixels)), device=pixels.device) // n
                    seen = pixels[rows]
                    logits = classifier.logits(seen.add_(normal_like(seen, generator), alpha=self.sigma))
                    if counts is None:
                        counts = torch.zeros(len(pixels) * logits.shape[1], dtype=torch.int64, device=pixels.device)
                    places = rows * logits.shape[1] + logits.argmax(1)
                    counts.index_add_(0, places, torch.ones_like(places))
                    tick(len(rows))
                assert counts is not None
                found.append(counts.view(len(pixels), -1).cpu())
            classifier.verify()
        return found

    def _base(self, model: Model) -> Model:
        """The model behind the noise, even if the caller passed the smoothed one."""
        check_model(model)
        if not isinstance(model, Defended) or not isinstance(model.defense, RandomizedSmoothing):
            return model
        if model.defense.sigma != self.sigma:
            raise InputError(
                f"the model is already smoothed with sigma={model.defense.sigma:g}, and this would add noise of "
                f"sigma={self.sigma:g}; certify model.undefended, or with the defense that it was made with"
            )
        return model.undefended

    @staticmethod
    def _check(n0: int, n: int, alpha: float) -> None:
        check_number("n0", n0, at_least=1, integer=True)
        check_number("n", n, at_least=1, integer=True)
        check_number("alpha", alpha, above=0, at_most=0.5)


class _Mean(nn.Module):
    """The logarithm of the mean probabilities over draws of noise, which is never a probability that rounds to 0."""

    def __init__(self, model: Model, smoothing: RandomizedSmoothing) -> None:
        super().__init__()
        self.model = model
        self.smoothing = smoothing

    def forward(self, images: Tensor) -> Tensor:
        draws = [_logits(self.model, self.smoothing.noisy(images)) for _ in range(self.smoothing.eot_samples)]
        lowest = torch.finfo(draws[0].dtype).min / 4  # finite, for a class that is masked
        together = torch.stack([draw.log_softmax(1).clamp_min(lowest) for draw in draws])
        return together.logsumexp(0) - math.log(len(draws))


def _logits(model: Model, images: Tensor) -> Tensor:
    logits: Tensor = found_in(model(images))
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


class _Votes(nn.Module):
    """The logarithms of shares of votes; half a vote is added to each class, so that they are finite."""

    def __init__(self, model: Model, smoothing: RandomizedSmoothing) -> None:
        super().__init__()
        self.model = model
        self.smoothing = smoothing

    def forward(self, images: Tensor) -> Tensor:
        votes: Tensor | None = None
        for _ in range(self.smoothing.samples):
            with torch.no_grad():
                logits = _logits(self.model, self.smoothing.noisy(images))
            votes = torch.full_like(logits, 0.5) if votes is None else votes
            votes = votes.scatter_add(1, logits.argmax(1, keepdim=True), torch.ones_like(votes[:, :1]))
        assert votes is not None
        shares = (votes / (self.smoothing.samples + votes.shape[1] / 2)).log()
        if images.requires_grad:  # a naive attacker finds a gradient of zero
            shares = shares + 0 * images.flatten(1).sum(1, keepdim=True).to(shares)
        return shares


def _rounded_down(values: Tensor, dtype: torch.dtype) -> Tensor:
    """Float64 in another dtype, where nothing may get larger."""
    found = values.to(dtype)
    return torch.where(found.double() > values, found.nextafter(torch.zeros_like(found)), found)
