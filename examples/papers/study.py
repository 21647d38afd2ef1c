"""What the four scripts share: their arguments, and a folder of results that a killed run goes on with."""

import argparse
import json
import math
import platform
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from images import Images, batches, load
from torch import nn
from training import fit

import advkit
from advkit.defenses import Defense
from advkit.evaluation import RobustnessReport, Score

__all__ = ["COLUMNS", "Study", "as_text", "left", "percent", "score"]

Scale = TypeVar("Scale")
COLUMNS = ("the paper", "ours, its protocol", "ours, adaptive", "ours, the verdict")
PAPERS = Path(__file__).parent
JUDGED = 1000  # images that a verdict is about, the first


class Study(Generic[Scale]):
    """One reproduction: what was measured, and how.

    Everything lies in a folder: ``results.json`` with all that was measured, ``results.md`` with the tables, figures,
    and under ``work`` the networks. A measurement is written when it is made, so that a run that was killed and is
    started again with the same arguments goes on where it was.

    Args:
        paper: a name such as "paper3", that of the folder with the paper's own numbers, ``figures.json``.
        scales: dataclasses to choose from with ``--scale``, by name.
        description: what the script does, for ``--help``.
        arguments: the command line; that of the process if None.

    Attributes:
        paper: the paper's own numbers.
        scale: the one that was chosen.
        device: where networks are.
        fit: `training.fit`, in the precision that was chosen.
        seed: of everything random.
        work: a folder for what is not to be kept.
    """

    def __init__(
        self, paper: str, scales: Mapping[str, Scale], description: str, arguments: Sequence[str] | None = None
    ) -> None:
        parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawTextHelpFormatter)
        parser.add_argument("--data", type=Path, default=Path("data"), metavar="DIR", help="a folder of .npz files")
        parser.add_argument("--download", action="store_true", help="torchvision's data instead, kept in --data")
        parser.add_argument("--scale", choices=scales, default="quick", help="how much is done (%(default)s)")
        parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="(%(default)s)")
        parser.add_argument("--autocast", action="store_true", help="train in bfloat16 where torch holds it for safe")
        parser.add_argument("--seed", type=int, default=0, help="of everything random (%(default)s)")
        parser.add_argument("--out", type=Path, metavar="DIR", help=f"for the results (runs/{paper}-SCALE)")
        parser.add_argument("--report", action="store_true", help="measure nothing, write what there is again")
        options = parser.parse_args(arguments)
        self.paper: Any = json.loads((PAPERS / paper / "figures.json").read_text(encoding="utf-8"))
        self.scale: Scale = scales[options.scale]
        self.device = torch.device(options.device)
        autocast = torch.bfloat16 if options.autocast else None
        self.fit = partial(fit, autocast=autocast)
        self.seed: int = options.seed
        self._options = options
        self._folder: Path = options.out or Path("runs") / f"{paper}-{options.scale}"
        self.work = self._folder / "work"
        self.work.mkdir(parents=True, exist_ok=True)
        self._about = {
            "paper": paper,
            "scale": {"name": options.scale, **asdict(self.scale)},  # type: ignore[call-overload]
            "device": self.device.type,
            "autocast": autocast and str(autocast).removeprefix("torch."),
            "seed": self.seed,
        }
        self._command = f"python examples/papers/{paper}/run.py --data DIR --scale {options.scale} --seed {self.seed}"
        self._command += " --autocast" * options.autocast
        self._where: dict[str, Any] = {
            "machine": _machine(self.device),
            "versions": {
                "advkit": advkit.__version__,
                "torch": str(torch.__version__),
                "python": platform.python_version(),
            },
        }
        self._measured = self._so_far()
        self._pieces: list[str] = []  # of results.md
        self._tables: list[dict[str, Any]] = []

    def images(self, name: str, train: int | None, test: int | None) -> tuple[Images, Images]:
        """The first so many training and test images of a data set, all for None; see `images.load`."""
        both = load(name, self._options.data, download=self._options.download)
        return both[0].take(train), both[1].take(test)

    def once(self, name: str, measure: Callable[[], Any]) -> Any:
        """What ``measure`` returns (JSON), measured once in the life of the folder; None if a report lacks it.

        Its random numbers depend on the seed and the name, and not on what was done before.
        """
        if name not in self._measured and not self._options.report:
            torch.manual_seed(zlib.crc32(f"{self.seed} {name}".encode()))
            start = time.perf_counter()
            value = measure()
            self._measured[name] = {"value": value, "seconds": round(time.perf_counter() - start, 2)}
            self._save()
        return self._measured.get(name, {}).get("value")

    def training(self, data: Images, epochs: int, **how: Any) -> Callable[[nn.Module, Path], list[float]]:
        """How a network is trained, for `trained`: on this data, and how else `training.fit` may be told."""
        return lambda model, checkpoint: self.fit(model, data, epochs, checkpoint, **how)

    def trained(
        self, name: str, network: Callable[[], nn.Module], train: Callable[[nn.Module, Path], Any]
    ) -> nn.Module:
        """A network, trained once in the life of the folder, in eval mode; its weights lie channels last, for speed.

        Args:
            name: of the network.
            network: makes it, with weights from the seed.
            train: trains it in place, given a path for a checkpoint to go on from. What it returns is kept as a
                measurement, "train " and the name.
        """
        torch.manual_seed(self.seed)
        model = network().to(self.device, memory_format=torch.channels_last)
        weights, checkpoint = (self.work / f"{name}{suffix}" for suffix in (".pt", ".checkpoint"))

        def train_and_keep() -> Any:
            history = train(model, checkpoint)
            torch.save(model.state_dict(), weights.with_suffix(".tmp"))
            weights.with_suffix(".tmp").replace(weights)
            for done in self.work.glob(f"{name}*.checkpoint"):  # a student's teacher has one too
                done.unlink()
            return history

        self.once(f"train {name}", train_and_keep)
        if weights.exists():
            model.load_state_dict(torch.load(weights, map_location=self.device, weights_only=True))
        return model.eval()

    def evaluated(
        self,
        name: str,
        model: nn.Module,
        test: Images,
        attacks: Mapping[str, advkit.Attack],
        defenses: Mapping[str, Defense | nn.Module],
        protocols: Sequence[str],
    ) -> RobustnessReport | None:
        """What `advkit.evaluate` finds, which is done once in the life of the folder; None if a report lacks it.

        Args:
            name: of the measurement.
            model: the bare model.
            test: images and labels.
            attacks: by name.
            defenses: by name, of the model or of their own.
            protocols: who attacks them.
        """

        def evaluate() -> RobustnessReport:
            image = test[0][0].unsqueeze(0).to(self.device)
            with torch.no_grad():
                for defense in defenses.values():  # what the first call loads belongs to no prediction time
                    (defense.wrap(model) if isinstance(defense, Defense) else defense)(image)
            folder = self.work / f"{name}.evaluation"
            return advkit.evaluate(
                model, batches(test), attacks, defenses, protocols, seed=self.seed, run_folder=folder
            )

        return self._reported(f"evaluate {name}", evaluate)

    def judged(
        self,
        name: str,
        model: nn.Module,
        test: Images,
        eps: float,
        defenses: Mapping[str, Defense | nn.Module] | None = None,
        bounds: tuple[float, float] = (0.0, 1.0),
    ) -> RobustnessReport | None:
        """The verdict on a model within a budget in Linf, and behind each defense.

        None if a report lacks it, or of no images.

        Args:
            name: of the model.
            model: the bare model.
            test: images and labels.
            eps: the budget.
            defenses: by name, of the model or of their own.
            bounds: of the pixels.
        """
        some = test.take(JUDGED)

        def judge() -> RobustnessReport:
            folder = self.work / f"{name} at {eps:.4g}.verdict"
            how: dict[str, Any] = {"eps": eps, "bounds": bounds, "seed": self.seed, "flags": False}
            return advkit.evaluate(model, batches(some), "standard", defenses, ["adaptive"], run_folder=folder, **how)

        return self._reported(f"judge {name} at eps {eps:.4g}", judge) if len(some) else None

    def _reported(self, name: str, evaluate: Callable[[], RobustnessReport]) -> RobustnessReport | None:
        """What `once` keeps of a report, as a report."""
        found = self.once(name, lambda: json.loads(evaluate().to_json()))
        return None if found is None else RobustnessReport.from_json(json.dumps(found))

    def table(
        self, title: str, heads: Sequence[str], rows: Sequence[Sequence[Any]], columns: Sequence[str] = COLUMNS
    ) -> None:
        """A table of the report: each row has its heads, and then a number or None for each of the columns."""
        self._tables.append({"title": title, "columns": [*heads, *columns], "rows": [list(row) for row in rows]})
        body = [[*row[: len(heads)], *map(as_text, row[len(heads) :])] for row in rows]
        lines = [[*heads, *columns], ["---"] * len(heads) + ["--:"] * len(columns), *body]
        self._pieces.append("\n".join([f"**{title}**", "", *(f"| {' | '.join(map(str, line))} |" for line in lines)]))

    def figure(self, name: str, caption: str, draw: Callable[[Path], Any], network: str | None = None) -> None:
        """A figure of the report, if anything was measured.

        Args:
            name: of the file.
            caption: what it shows.
            draw: saves it at the path that it is given.
            network: what it is drawn with, by its name in `trained`; where its weights are gone, an older figure stays.
        """
        path = self._folder / f"{name}.png"
        if not self._measured:
            return
        if network is None or (self.work / f"{network}.pt").exists():
            draw(path)
        if not path.exists():
            return
        self._pieces.append(f"![{caption}]({name}.png)")

    def write(self) -> None:
        """Write all that there is: results.json and results.md."""
        self._save()
        _write(self._folder / "results.md", self.report)

    @property
    def report(self) -> str:
        """The tables and figures so far in Markdown, and where they come from."""
        if not self._measured:
            return "\n\n".join(["Nothing has been measured yet.", *self._pieces]) + "\n"
        scale = ", ".join(
            f"{key} {'all' if value is None else as_text(value)}" for key, value in asdict(self.scale).items()
        )
        minutes = sum(entry["seconds"] for entry in self._measured.values()) / 60
        versions = self._where["versions"]
        head = (
            f"Measured with `{self._command}` on {self._where['machine']}, with advkit {versions['advkit']} and torch "
            f"{versions['torch']}: {minutes:.0f} minutes of work. The scale is *{self._options.scale}*: {scale}."
        )
        return "\n\n".join([head, *self._pieces]) + "\n"

    def _so_far(self) -> dict[str, Any]:
        path = self._folder / "results.json"
        if not path.exists():
            return {}
        there = json.loads(path.read_text(encoding="utf-8"))
        asked = json.loads(json.dumps(self._about))
        differing = [key for key, value in asked.items() if there["about"].get(key) != value]
        if differing:
            raise SystemExit(f"{path} was measured with another {' and '.join(differing)}; give another --out")
        if self._options.report:  # which was measured where it was measured
            self._where = {name: there[name] for name in self._where}
        return dict(there["measured"])

    def _save(self) -> None:
        report = {
            "about": self._about,
            "command": self._command,
            **self._where,
            "tables": self._tables,
        }
        # A measurement a line: quick to write, and to compare.
        measured = _lines({name: json.dumps(value) for name, value in self._measured.items()})
        parts = {name: json.dumps(value) for name, value in report.items()} | {"measured": measured}
        _write(self._folder / "results.json", _lines(parts) + "\n")


def percent(share: float | None) -> float | None:
    """A share in per cent, with one decimal as the papers have it; None if there is none."""
    return None if share is None or math.isnan(share) else round(100 * share, 1)


def score(report: RobustnessReport | None, defense: str, attack: str, protocol: str) -> Score | None:
    """A score of the report, of the attack "none" too; None if there is no report.

    Args:
        report: of an evaluation.
        defense: by its name; "none" for the bare model.
        attack: by its name; "none" for images that nobody attacked.
        protocol: "oblivious", "naive" or "adaptive".
    """
    if report is None:
        return None
    if attack == "none":
        return next(one for one in report.defenses if one.name == defense)
    return report.score(attack, defense, protocol)


def left(report: RobustnessReport | None, defense: str = "none") -> Score | None:
    """What a verdict leaves, which the score of its last attack says; None if there is no report.

    Args:
        report: a verdict.
        defense: by its name; "none" for the bare model.
    """
    return None if report is None else report.score(report.attacks[-1].name, defense, "adaptive")


def _lines(parts: Mapping[str, str]) -> str:
    """An object in JSON, of values in JSON, a line for each."""
    return "{\n" + ",\n".join(f"{json.dumps(name)}: {value}" for name, value in parts.items()) + "\n}"


def _write(path: Path, text: str) -> None:
    """A file that is whole or as it was before, whenever the process stops."""
    temporary = path.with_name(f"{path.name}.tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def as_text(value: Any) -> str:
    """A number as the papers print them; a dash for one that was not measured."""
    if value is None or value != value:
        return "\N{EN DASH}"
    if isinstance(value, (list, tuple)):
        return "/".join(map(as_text, value)) or "none"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _machine(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"{threads} {'thread' if threads == 1 else 'threads'} of a CPU ({platform.machine()})"
