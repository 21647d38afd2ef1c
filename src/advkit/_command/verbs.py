"""What the command does, from its arguments to an exit code."""

import json
import math
import sys
from argparse import Namespace
from collections.abc import Mapping
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import torch

from advkit._command import facts
from advkit._command.images import Images, images_named
from advkit._command.loading import model_named
from advkit._command.saving import save_arrays, save_pngs
from advkit._command.written import made, number
from advkit._io.files import write_atomic
from advkit.attack import Attack
from advkit.attacks import PGD
from advkit.errors import InputError
from advkit.evaluation import RobustnessReport, SecurityCurve, evaluate, security_curve
from advkit.evaluation.flags import balls
from advkit.evaluation.verdict import VERDICTS, check_reach
from advkit.norms import Linf, get

__all__ = ["FINDING", "FINE", "UNUSABLE", "attack", "compare", "judge", "listing"]

FINE, FINDING, UNUSABLE = 0, 1, 2


def judge(given: Namespace) -> int:
    """``advkit evaluate``."""
    least = None if given.fail_under is None else _percent(given.fail_under)
    model, data = _model(given), _data(given)
    surrogates = _surrogates(given)
    eps = None if given.eps is None else number(given.eps)
    attacks: str | dict[str, Attack] | list[Attack] = given.attacks
    verdict = given.attacks in VERDICTS
    if not verdict:
        attacks = _attacks(given, given.attacks, model, eps)
    out = None if given.out is None else Path(given.out)
    if out is not None:
        _folder(out)
    report = evaluate(
        model,
        data.loader,
        attacks,
        **({"norm": given.norm} if verdict and given.norm else {}),
        eps=eps if verdict else None,
        transfer_from=surrogates,
        stop_when_fooled=given.stop_when_fooled,
        seed=given.seed,
        run_folder=None if out is None else out / "run",
        pictures=given.pictures,
    )
    curves = _curves(given, model, data)
    files = {} if out is None else _write(report, out, given, data, curves)
    if given.json:
        flags = [{"name": flag.name, "sentence": str(flag)} for flag in report.flags]
        _print_json({**report.to_dict(), "red_flags": flags, "files": files})
    else:
        print(report)
        for curve in curves.values():
            print(f"\n{curve}")
        print("".join(f"\nwrote {file}" for file in files.values()))
    _hint(report, data)
    too_low = least is not None and not report.robust_accuracy >= least
    if too_low:
        print(f"advkit: robust accuracy {report.robust_accuracy:.1%} is below {least:.1%}", file=sys.stderr)
    return FINDING if too_low or (given.fail_on_flags and report.flags) else FINE


def attack(given: Namespace) -> int:
    """``advkit attack``."""
    model, data = _model(given), _data(given)
    eps = None if given.eps is None else number(given.eps)
    found = _attacks(given, given.attack, model, eps)
    if len(found) != 1:
        raise InputError(f"--attack takes one attack, but got {len(found)}; WorstOf([...]) makes one of several")
    one = found[0]._with(generator=torch.Generator(_place(given)).manual_seed(given.seed))
    out = Path(given.out)
    saved = save_arrays(one, data, out) if out.suffix == ".npz" else save_pngs(one, data, out)
    if given.json:
        _print_json({"attack": str(one), **saved.to_dict(), "out": str(out)})
    else:
        print(f"{one}: {saved}.\nwrote {saved.images} images to {out}")
    return FINE


def listing(given: Namespace) -> int:
    """``advkit list``."""
    known = {one.__name__: one for one in facts.listed()}
    wrong = [name for name in given.names if name not in known]
    if wrong:
        raise InputError(f"no attack is called {wrong[0]!r}; the attacks are {', '.join(known)}")
    chosen = [known[name] for name in given.names] or list(known.values())
    if given.json:
        _print_json([_described(one) for one in chosen])
    elif given.names:
        print("\n\n".join(map(_page, chosen)))
    else:
        rows = [("attack", "sees", "looks for", "norm", "paper")]
        rows += [
            (one.__name__, facts.sees(one), facts.aim(one), facts.norms_of(one), facts.paper(one)[0]) for one in chosen
        ]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for row in rows:
            print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
        print("\n`advkit list PGD` says what its arguments are.")
    return FINE


def compare(given: Namespace) -> int:
    """``advkit compare``."""
    files = [named / "report.json" if named.is_dir() else named for named in map(Path, (given.first, given.second))]
    first, second = map(RobustnessReport.from_json, files)
    found = first.compare(second)
    if given.data is not None:
        found = replace(found, class_names=images_named(given.data, batch_size=1).classes or ())
    if given.json:
        _print_json({**found.to_dict(), "remarks": list(found.remarks)})
    else:
        print(f"first:  {given.first}\nsecond: {given.second}\n\n{found}")
    return FINDING if given.fail_if_worse and found.better == "first" else FINE


def _model(given: Namespace) -> torch.nn.Module:
    return _made(given, given.model, given.model_args, given.weights)


def _made(
    given: Namespace, name: str, arguments: str, weights: str | None = None, *, surrogate: bool = False
) -> torch.nn.Module:
    mean, std = (
        None if each is None else [number(part) for part in each.split(",")] for each in (given.mean, given.std)
    )
    return model_named(
        name,
        arguments,
        weights=weights,
        mean=mean,
        std=std,
        own_normalisation=given.own_normalisation,
        device=_place(given),
        surrogate=surrogate,
    )


def _attacks(given: Namespace, named: str, model: torch.nn.Module, eps: float | None) -> list[Attack]:
    """The attacks of a list, each within a budget that the pixels of a picture have room for."""
    found = made(named, model, {"eps": eps, "norm": given.norm})
    for ball in balls(found):
        check_reach(*ball, (0.0, 1.0))
    return found


def _surrogates(given: Namespace) -> dict[str, torch.nn.Module] | None:
    """The models to transfer images from, by what a report calls them: their names, and those of their weights."""
    found: dict[str, torch.nn.Module] = {}
    for name, *files in given.transfer_from or ():
        if len(files) > 1:
            raise InputError(
                f"--transfer-from takes a model and a file of weights, but got {len(files)} files for {name}; write "
                "--transfer-from again for another model"
            )
        maker, _, rest = name.partition("(")
        called = " ".join([name, *(Path(file).name for file in files)])
        if called in found:
            raise InputError(f"--transfer-from names {called} twice")
        found[called] = _made(given, maker, rest.removesuffix(")"), *files, surrogate=True)
    return found or None


def _place(given: Namespace) -> torch.device:
    if given.device is not None:
        try:
            return torch.device(given.device)
        except RuntimeError as error:
            raise InputError(f"there is no device {given.device!r}: {error}") from error
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _data(given: Namespace) -> Images:
    return images_named(
        given.data,
        count=given.images,
        batch_size=given.batch_size,
        workers=given.workers,
        resize=given.resize,
        crop=given.crop,
        grey=given.grey,
        split=given.split,
        root=given.root,
        download=given.download,
    )


def _folder(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise InputError(f"--out {out} is a file; give a folder") from error


def _curves(given: Namespace, model: torch.nn.Module, data: Images) -> Mapping[str, SecurityCurve]:
    """The curve of PGD over the budgets that were asked for, if any were."""
    if given.curve is None:
        return {}
    budgets = [number(part) for part in given.curve.split(",")]
    norm = get(given.norm or "linf")
    if norm is not Linf and norm is not get("l2"):
        raise InputError(f"--curve uses PGD, which supports Linf and L2, but --norm is {norm}")
    largest = max(budgets)
    if largest <= 0:
        raise InputError("--curve needs a budget above 0, such as --curve 0,2/255,4/255,8/255")
    attack = PGD(model, eps=largest, norm=norm.name, steps=20)
    return {f"PGD in {norm}, 20 steps": security_curve(attack, data.loader, eps=budgets)}


def _save(content: bytes, stream: BinaryIO) -> None:
    stream.write(content)


def _write(
    report: RobustnessReport, out: Path, given: Namespace, data: Images, curves: Mapping[str, SecurityCurve]
) -> dict[str, str]:
    """The report's files, each whole or absent."""
    arguments = f"({given.model_args})" if given.model_args else ""
    title = f"Robustness of {given.model}{arguments}"
    page = report.to_html(title=title, class_names=_names(report, data), curves=curves)
    texts = {"json": report.to_json(), "html": page, "md": report.to_markdown(), "csv": report.to_csv()}
    files = {}
    for suffix, text in texts.items():
        file = out / f"report.{suffix}"
        write_atomic(file, partial(_save, text.encode()))
        files[suffix] = str(file)
    return files


def _names(report: RobustnessReport, data: Images) -> list[str] | None:
    """Names for all classes in the report: the model may have more of them than the data."""
    if data.classes is None:
        return None
    seen = {index for score in report.defenses + report.scores for row in score.confusion for index in row[:2]}
    seen |= {index for one in report.pictures for index, _ in (*one.before, *one.after)}
    return [*data.classes, *(f"class {index}" for index in range(len(data.classes), max(seen, default=0) + 1))]


def _hint(report: RobustnessReport, data: Images) -> None:
    """A hint if the labels may be numbered differently from the model's classes."""
    classes = len(set(report.labels))
    if classes > 1 and report.images >= 50 and report.clean_accuracy < 2 / classes:
        print(
            f"advkit: the model is right on only {report.clean_accuracy:.1%} of the images without an attack. Does "
            "it expect normalised inputs (--mean, --std) or other sizes (--resize, --crop), or are the classes "
            "numbered differently? Folders are numbered in the order of their names.",
            file=sys.stderr,
        )


def _percent(text: str) -> float:
    share = number(text.removesuffix("%"))
    if not 0 <= share <= 100:
        raise InputError(f"--fail-under takes percent, 0 to 100, such as 40; got {text}")
    return share / 100


def _described(one: type[Attack]) -> dict[str, Any]:
    said, link = facts.paper(one)
    facts_of = {"sees": facts.sees(one), "looks_for": facts.aim(one), "norms": facts.norms_of(one)}
    return {
        "name": one.__name__,
        **facts_of,
        "paper": said,
        "link": link,
        "arguments": [asdict(each) for each in facts.arguments_of(one)],
    }


def _page(one: type[Attack]) -> str:
    """All that is known of an attack."""
    said, link = facts.paper(one)
    lines = [
        one.__name__,
        "",
        facts.doc_of(one),
        "",
        f"Sees {facts.sees(one)}; looks for {facts.aim(one)}; {facts.norms_of(one)}.",
    ]
    lines += [f"Paper: {said} {link}".rstrip(), "", "Arguments:"]
    for each in facts.arguments_of(one):
        default = f" = {each.default}" if each.default else ""
        lines += [f"  {each.name}{default}", f"      {each.may_be}", *([f"      {each.says}"] if each.says else [])]
    return "\n".join(lines)


def _print_json(content: Any) -> None:
    print(json.dumps(_plain(content), indent=2, allow_nan=False))


def _plain(value: Any) -> Any:
    """The same with null for what is not finite."""
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_plain(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
