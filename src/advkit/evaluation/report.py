"""The results of an evaluation."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from typing_extensions import Self

from advkit._io.files import written
from advkit.errors import InputError
from advkit.evaluation import formats, stored
from advkit.evaluation.flags import Flag
from advkit.evaluation.flat import as_dataframe, as_dict
from advkit.evaluation.keepsakes import Picture
from advkit.evaluation.page import page
from advkit.evaluation.plan import TRANSFERRED
from advkit.evaluation.scores import BARE, AttackScore, DefenseScore, Failure, Score, WorstCase
from advkit.evaluation.versus import Comparison, compare

if TYPE_CHECKING:
    from pandas import DataFrame

    from advkit.evaluation.security import SecurityCurve

__all__ = ["BARE", "AttackScore", "DefenseScore", "Failure", "RobustnessReport", "Score", "WorstCase"]


@dataclass(frozen=True, kw_only=True)
class RobustnessReport:
    """The results of `advkit.evaluate`: prints as a table, exports to Markdown, CSV, HTML and JSON, and reads JSON.

    ``report["FGSM"]`` is the bare model's score under the attack of that name; `score` returns any other.

    Attributes:
        images: how many images were evaluated.
        defenses: the bare model, named "none", and each defense, without an attack.
        scores: one for each defense, attack and protocol, in the order in which they were given.
        worst: the worst case over all attacks, for each defense under each protocol.
        flags: reasons to doubt the numbers, a sentence each.
        failures: the images lost to errors, which are in none of the numbers.
        standing: for each image, in the loader's order, whether the bare model is right on it under every attack; see
            `robust`.
        proved: likewise, whether it is proved that no attack within the budget can fool the model; empty without
            ``certify=True``. See `verified`.
        labels: the class of each image, in the same order.
        surrogates: the models that images were transferred from, by name: the class of each, and a digest of its
            weights.
        pictures: a few images before and after an attack; see ``pictures`` of `advkit.evaluate`.
        verdict: "standard" or "autoattack", if the attacks were given by that name; else None.
        not_tried: the kinds of attacks that are missing, as parts of a sentence.
        stop_when_fooled: whether each attack was only tried on what those before it left; its accuracy is then what
            it and those before it leave together.
        seed: the seed of the random numbers; None if they were not seeded.
        device: where the models were, such as "cpu" or "cuda:0".
        hardware: the name of that device.
        data_digest: a digest of the images and labels.
        advkit_version: the version of advkit that measured.
        torch_version: the version of torch that it ran on.
        python_version: the version of Python.

    Examples:
        >>> report = advkit.evaluate(model, loader, [advkit.FGSM(model), advkit.PGD(model)])
        >>> report.clean_accuracy, report["FGSM"].success_rate, report.worst[0].accuracy
        (1.0, 1.0, 0.0)
        >>> [(score.name, score.accuracy) for score in report.attacks]
        [('FGSM', 0.0), ('PGD', 0.0)]
        >>> others = {"other": advkit.Normalized(net, mean=0.5, std=0.5)}  # to make images on as well
        >>> attack, defenses = advkit.PGD(model, eps=0.5 / 255), [advkit.defenses.FeatureSmoothing()]
        >>> more = {"transfer_from": others, "certify": True, "flags": False}
        >>> report = advkit.evaluate(model, loader, [attack], defenses, **more)
        >>> report.protocols, [score.surrogate for score in report.transferred]
        (('oblivious', 'naive', 'adaptive', 'transferred'), ['other'])
        >>> report.verified_accuracy <= report.robust_accuracy
        True
        >>> undecided = report.robust & ~report.verified  # neither fooled nor proved, image by image
    """

    images: int
    defenses: tuple[DefenseScore, ...]
    scores: tuple[AttackScore, ...]
    worst: tuple[WorstCase, ...]
    flags: tuple[Flag, ...] = ()
    failures: tuple[Failure, ...] = ()
    standing: tuple[bool, ...] = ()
    proved: tuple[bool, ...] = ()
    labels: tuple[int, ...] = ()
    surrogates: Mapping[str, Any] = field(default_factory=dict)
    pictures: tuple[Picture, ...] = ()
    verdict: str | None = None
    not_tried: tuple[str, ...] = ()
    stop_when_fooled: bool = False
    seed: int | None = 0
    device: str
    hardware: str
    data_digest: str
    advkit_version: str
    torch_version: str
    python_version: str

    @property
    def clean_accuracy(self) -> float:
        """The share of images that the bare model gets right without an attack, in [0, 1]."""
        return self.defenses[0].accuracy

    @property
    def robust_accuracy(self) -> float:
        """The share of images on which the bare model is right under every attack within the budget, in [0, 1].

        With "standard", this is the number to report. It is an upper bound: another attack may find more.
        """
        return next((worst.accuracy for worst in self.worst if worst.defense == BARE), self.clean_accuracy)

    @property
    def robust(self) -> Tensor:
        """On which images the bare model is right under every attack: bool (N,), on the CPU, in the loader's order.

        For a random model, those where most of its predictions are. False for an image that was lost to an error.
        """
        return torch.tensor(self.standing, dtype=torch.bool, device="cpu")

    @property
    def verified_accuracy(self) -> float:
        """The share of images on which it is proved that no attack within the budget can fool the bare model.

        A lower bound on what `robust_accuracy` bounds from above. NaN without ``certify=True``.
        """
        images = next((worst.images for worst in self.worst if worst.defense == BARE), self.defenses[0].images)
        return sum(self.proved) / images if self.proved and images else math.nan

    @property
    def verified(self) -> Tensor:
        """For which images that is proved: bool (N,), on the CPU, in the loader's order; (0,) without certificates."""
        return torch.tensor(self.proved, dtype=torch.bool, device="cpu")

    @property
    def attacks(self) -> tuple[AttackScore, ...]:
        """The bare model's score under each attack on it; see `transferred` for those on other models."""
        return tuple(score for score in self.scores if score.defense == BARE and score.surrogate is None)

    @property
    def transferred(self) -> tuple[AttackScore, ...]:
        """The bare model's score on the images that each attack made on each surrogate."""
        return tuple(score for score in self.scores if score.defense == BARE and score.surrogate is not None)

    @property
    def protocols(self) -> tuple[str, ...]:
        """The protocols by which models were attacked; the transferred one last."""
        found = dict.fromkeys(score.protocol for score in self.scores if score.protocol)
        return tuple(sorted(found, key=TRANSFERRED.__eq__))

    def __getitem__(self, name: str) -> AttackScore:
        """The bare model's score under the attack of that name."""
        return self.score(name)

    def score(self, attack: str, defense: str = BARE, protocol: str | None = None) -> AttackScore:
        """The score of one attack on one defense.

        Args:
            attack: the name of the attack in the report.
            defense: the name of the defense in the report; "none" for the bare model.
            protocol: "oblivious", "naive" or "adaptive"; adaptive if None. For the bare model they are the same. Or
                "transferred", for the bare model too; of several surrogates it is the one that leaves least.

        Raises:
            KeyError: there is no such score.

        Examples:
            >>> report = advkit.evaluate(model, loader, [advkit.FGSM(model)], [advkit.defenses.FeatureSmoothing()])
            >>> report.score("FGSM", "FeatureSmoothing", "oblivious").protocol
            'oblivious'
        """
        wanted = None if defense == BARE and protocol != TRANSFERRED else protocol or "adaptive"
        found = [one for one in self.scores if (one.name, one.defense, one.protocol) == (attack, defense, wanted)]
        if found:
            return min(found, key=lambda one: (math.isnan(one.accuracy), one.accuracy))
        if attack not in [score.name for score in self.attacks]:
            raise KeyError(f"no attack is called {attack!r}; the report has {[score.name for score in self.attacks]}")
        if defense not in [one.name for one in self.defenses]:
            raise KeyError(f"no defense is called {defense!r}; the report has {[one.name for one in self.defenses]}")
        if wanted in self.protocols:
            raise KeyError(f"{attack!r} was not tried on {defense!r} as a {wanted} attack")
        raise KeyError(f"the report has no protocol {wanted!r}; it has {list(self.protocols)}")

    def __str__(self) -> str:
        """A table that fits 80 columns; names wrap where they have to. Remarks follow beneath it."""
        return formats.text(self)

    def to_markdown(self, path: str | PathLike[str] | None = None) -> str:
        """The table and its remarks in Markdown, written to ``path`` as well if there is one.

        Examples:
            >>> print(advkit.evaluate(model, loader, [advkit.FGSM(model)]).to_markdown("table.md"))
            | attack | accuracy | 95 % interval | success | L2 | Linf | ms/image |
            ...
        """
        return written(formats.markdown(self), path)

    def to_csv(self, path: str | PathLike[str] | None = None) -> str:
        """All the numbers, written to ``path`` as well if there is one: a line for each score.

        A line without an attack is about the model without an attack, and one whose attack is "all together" about
        the worst case over attacks. ``class`` is the attack's, or the defense's, and ``flags`` names the flags that
        concern the line. A number for which nothing was measured is left empty.

        Examples:
            >>> lines = advkit.evaluate(model, loader, [advkit.FGSM(model)]).to_csv("table.csv").splitlines()
            >>> lines[2].split(",")[:2]  # beneath the names, and the model without an attack
            ['none', 'FGSM']
        """
        return written(formats.as_csv(self), path)

    def to_json(self, path: str | PathLike[str] | None = None) -> str:
        """Everything in JSON, written to ``path`` as well if there is one. NaN becomes null.

        Examples:
            >>> import json
            >>> text = advkit.evaluate(model, loader, [advkit.FGSM(model)]).to_json("report.json")
            >>> json.loads(text)["seed"]
            0
        """
        return written(stored.as_json(asdict(self)), path)

    def to_html(
        self,
        path: str | PathLike[str] | None = None,
        *,
        title: str | None = None,
        class_names: Sequence[str] | None = None,
        curves: "SecurityCurve | Sequence[SecurityCurve] | Mapping[str, SecurityCurve]" = (),
    ) -> str:
        """A page for people: one self-contained file, for a screen, a phone and print.

        At the top are the verdict with its interval, and the flags; below them what each attack found, security curves,
        images before and after an attack, and costs. The page loads nothing from elsewhere, runs no script, and
        follows the reader's light or dark setting.

        Args:
            path: a file to write it to as well.
            title: the title of the page; "Robustness of" and the class of the model if None.
            class_names: a name for each class, for pictures and tables; their indices if None.
            curves: results of `advkit.evaluation.security_curve`, one or several, or a dict of them by name.

        Raises:
            InputError: ``class_names`` are fewer than the classes in the report, or the curves are in several norms.

        Examples:
            >>> report = advkit.evaluate(model, loader, "standard", eps=8 / 255, pictures=4)
            >>> curve = advkit.evaluation.security_curve(advkit.PGD(model), loader, eps=[0, 2 / 255, 8 / 255])
            >>> page = report.to_html("report.html", curves={"PGD": curve})
            >>> page.startswith("<!DOCTYPE html>"), "http:" in page
            (True, False)
        """
        return written(page(self, title=title, class_names=class_names, curves=curves), path)

    def to_dict(self) -> dict[str, float | int | bool | str]:
        """The numbers as one flat dict, for TensorBoard, W&B, MLflow and the like.

        The keys are stable from one version to the next, though more may be added. For the bare model: ``images``,
        ``clean_accuracy``, ``robust_accuracy`` (each also with ``_low`` and ``_high``, the ends of its 95 % interval),
        ``verified_accuracy`` if the report has one, ``flags`` and ``failures`` (how many), ``eps_linf`` and so on (the
        budgets), ``verdict`` ("" if there is none), ``stop_when_fooled``, ``seed``, ``device``, ``hardware``,
        ``data_digest``, ``advkit_version``, ``torch_version`` and ``python_version``. For each attack, after its name
        and a slash, ``accuracy`` with its ends, ``success_rate``, ``attacked``, ``first_to_fool``, ``precision``,
        ``recall``, ``f1``, ``median_l0`` to ``median_linf``, ``seconds_per_image``, ``forwards_per_image`` and
        ``backwards_per_image``. For a defense, after its name, ``clean_accuracy``, ``precision``, ``recall`` and
        ``f1``; after its name and a protocol's, ``robust_accuracy``; and after the attack's as well, the numbers of an
        attack. For transferred images the surrogate's name follows the protocol; for the bare model, both come first.

        Whatever is not a letter, digit, dot or dash in a name becomes ``_``: ``PGD_eps_8_255_steps_40/accuracy``. A
        number for which nothing was measured is NaN, and what is None is left out.

        Examples:
            >>> report = advkit.evaluate(model, loader, [advkit.PGD(model, steps=5)])
            >>> numbers = report.to_dict()
            >>> numbers["robust_accuracy"], numbers["PGD_steps_5/success_rate"]
            (0.0, 1.0)
            >>> metrics = {name: value for name, value in numbers.items() if not isinstance(value, str)}
        """
        return as_dict(self)

    def to_dataframe(self) -> "DataFrame":
        """The lines of `to_csv` as a pandas `DataFrame`: numbers as floats, NaN where nothing was measured.

        Raises:
            MissingExtraError: pandas is not installed.

        Examples:
            >>> frame = advkit.evaluate(model, loader, [advkit.FGSM(model)]).to_dataframe()
            >>> list(frame["attack"]), float(frame["accuracy"].iloc[-1])
            (['', 'FGSM', 'all together'], 0.0)
        """
        return as_dataframe(self)

    def compare(self, other: "RobustnessReport") -> Comparison:
        """Compare this report with another on the same images, image by image.

        For each image, each of the two models is right under every attack or not; McNemar's exact test says whether
        the difference may be chance. Two accuracies alone do not tell: their intervals may overlap although one model
        is right wherever the other is, and on more images.

        Args:
            other: the second report.

        Returns:
            The comparison, which can be printed.

        Raises:
            InputError: the reports are about different images, or one of them comes from an advkit that did not keep a
                verdict for each image.

        Examples:
            >>> before = advkit.evaluate(model, loader, [advkit.PGD(model)])
            >>> after = advkit.evaluate(model, loader, [advkit.PGD(model)])
            >>> before.compare(after).p_value
            1.0
        """
        return compare(self, other)

    @classmethod
    def from_json(cls, source: str | PathLike[str]) -> Self:
        """The report that `to_json` wrote.

        Args:
            source: the JSON text itself, or the path of a JSON file.

        Raises:
            InputError: it is not a report, or one with another version of the schema.

        Examples:
            >>> text = advkit.evaluate(model, loader, [advkit.FGSM(model)]).to_json("report.json")
            >>> advkit.RobustnessReport.from_json("report.json").to_json() == text
            True
        """
        text = fspath(source)
        if not text.lstrip().startswith("{"):
            if "\n" in text:
                raise InputError("this is neither the JSON of a report nor the path of a JSON file")
            text = Path(text).read_text(encoding="utf-8", errors="replace")
        try:
            return cls(**stored.from_json(text))
        except (KeyError, TypeError) as error:
            raise InputError(f"this is not a report that advkit wrote: {error}") from error
