"""The command `advkit`: evaluate a model, write adversarial images, list attacks, compare reports."""

import os
import sys
import traceback
from argparse import ArgumentParser, ArgumentTypeError, RawDescriptionHelpFormatter, _SubParsersAction
from collections.abc import Callable, Sequence
from typing import Any

from advkit._command import verbs
from advkit._version import __version__
from advkit.errors import AdvkitError

__all__ = ["main"]

_ABOUT = """\
Adversarial attacks on PyTorch image classifiers, from the command line.

See `advkit evaluate --help` and so on for details and examples.
"""
_CODES = "exit codes: 0 success; 1 --fail-under, --fail-on-flags or --fail-if-worse triggered; 2 error"

_EVALUATE = """\
Measure how much of a model's accuracy is left under attack.

Without --attacks that is "standard", the number to report: the share of images on which the model is right whatever a
strong attacker does to them within --eps. With --out the report is written there as a page (report.html), as JSON,
Markdown and CSV, and work in progress is kept there: the same command resumes where it was stopped.
"""
_EVALUATE_EXAMPLES = f"""\
examples:
  a model made by make() in my_project/nets.py, its weights, and a folder of PNGs with a folder for each class:
    advkit evaluate --model my_project.nets:make --weights net.safetensors --data photos/ --out report/

  a timm network that expects normalised inputs, on 500 images of a large folder:
    advkit evaluate --model timm:create_model --model-args "'resnet18', pretrained=True" --own-normalisation \\
      --data imagenet/val --resize 256 --crop 224 --images 500 --eps 4/255 --out report/

  attacks of your choice, within one budget:
    advkit evaluate --model nets:make --data cifar.npz --eps 8/255 --attacks "FGSM, PGD(steps=40), Square, CW"

  also with images made on another network, which can expose misleading gradients:
    advkit evaluate --model nets:make --weights net.pt --data cifar.npz --transfer-from nets:plain plain.pt

  in CI: fail if less than 40 % is left
    advkit evaluate --model nets:make --weights net.pt --data torchvision:CIFAR10 --fail-under 40 --json

{_CODES}
"""
_ATTACK = """\
Attack images and write the results: PNGs in a folder for each class, with an index.csv that says what became of each
one, or an .npz file of arrays. PNGs have 8 bits: images are rounded in such a way that they still fool the model, and
the report is about the files as they are written. `advkit evaluate --data` can read both.
"""
_ATTACK_EXAMPLES = f"""\
examples:
  advkit attack --model nets:make --weights net.pt --data photos/ --attack "PGD(eps=8/255, steps=40)" --out adversarial/
  advkit attack --model nets:make --data test.npz --attack CW --images 200 --out adversarial.npz

{_CODES}
"""
_LIST = """\
List the attacks: what they see of the model, what they look for, in which norms, and the paper. With names, all of
their arguments too.
"""
_COMPARE = """\
Compare two reports (report.json) about the same images, image by image, with McNemar's exact test: which model is right
on more of them under attack, whether that may be chance, and in which classes.
"""
_HELP = {
    "evaluate": "measure how robust a model is",
    "attack": "write adversarial images, as PNGs that still fool the model or as arrays",
    "list": "list the attacks and their arguments",
    "compare": "compare two reports: which model is better, and whether that may be chance",
}
_DATA = (
    "a folder with a folder for each class, numbered in the order of their names; an .npz file with `images`, uint8 "
    "(N, H, W, C) or (N, H, W), or floating (N, C, H, W) in [0, 1], and `labels`, integers (N,); torchvision:NAME; or "
    "module:function that returns a data set of (image, label)"
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        argv: its arguments; those of the process if None.

    Returns:
        The exit code: 0 for success, 1 if a ``--fail-`` option was triggered, 2 for an error.

    Examples:
        >>> from advkit.cli import main
        >>> main(["list", "FGSM", "--json"]) == 0
        [
        ...
        True
    """
    parser = _parser()
    try:
        given = parser.parse_args(argv)
    except SystemExit as stopped:  # after --help, or after what is wrong was said
        return stopped.code if isinstance(stopped.code, int) else verbs.UNUSABLE
    if not hasattr(given, "verb"):
        parser.print_help()
        return verbs.UNUSABLE
    try:
        code: int = given.verb(given)
    except BrokenPipeError:  # whoever read has read enough, as `head` does
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115  # where what is left to be written goes at the end
        return verbs.UNUSABLE
    except (AdvkitError, OSError) as error:
        print(f"advkit: {error}", file=sys.stderr)
        return verbs.UNUSABLE
    except KeyboardInterrupt:
        again = "; the same command resumes from here" if getattr(given, "out", None) else ""
        print(f"\nadvkit: stopped{again}", file=sys.stderr)
        return 130
    except Exception:
        traceback.print_exc()  # of the model's own code, or a mistake of advkit's
        return verbs.UNUSABLE
    return code


def _parser() -> ArgumentParser:
    parser = ArgumentParser("advkit", description=_ABOUT, epilog=_CODES, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("--version", action="version", version=f"advkit {__version__}")
    several = parser.add_subparsers(title="commands", metavar="")
    evaluate = _command(several, "evaluate", verbs.judge, _EVALUATE, _EVALUATE_EXAMPLES)
    _add_inputs(evaluate)
    _add_budget(evaluate, 'for "standard" and "autoattack", and for attacks that are not given their own')
    evaluate.add_argument(
        "--attacks",
        default="standard",
        help='"standard" (the default) or "autoattack", or a list such as "PGD(eps=8/255, steps=40), CW"',
    )
    evaluate.add_argument(
        "--transfer-from",
        nargs="+",
        action="append",
        metavar=("MODULE:NAME", "FILE"),
        help="also show the model images that were made on this one, such as a network trained on the same data, with "
        "weights from FILE; arguments go in parentheses, \"timm:create_model('resnet18')\"; normalised as --model is, "
        "unless it is an advkit.Normalized already; may be repeated",
    )
    evaluate.add_argument("--out", metavar="DIR", help="folder for the report, and for work in progress")
    evaluate.add_argument("--curve", metavar="EPS,EPS", help="also accuracies at these budgets, by PGD: 0,2/255,8/255")
    evaluate.add_argument("--pictures", type=int, default=6, metavar="N", help="images to show on the page (6)")
    evaluate.add_argument(
        "--stop-when-fooled", action="store_true", help="try each attack only on images not fooled by those before it"
    )
    evaluate.add_argument("--seed", type=int, default=0, help="seed of the random numbers (0)")
    evaluate.add_argument("--fail-under", metavar="PERCENT", help="exit with 1 if robust accuracy is lower")
    evaluate.add_argument("--fail-on-flags", action="store_true", help="exit with 1 if a red flag was raised")
    attack = _command(several, "attack", verbs.attack, _ATTACK, _ATTACK_EXAMPLES)
    _add_inputs(attack)
    _add_budget(attack, "for the attack, if it is not given its own")
    attack.add_argument("--attack", required=True, help='such as "PGD(eps=8/255, steps=40)"')
    attack.add_argument(
        "--out", required=True, metavar="DIR|FILE.npz", help="a new folder for PNGs, or a file of arrays"
    )
    attack.add_argument("--seed", type=int, default=0, help="seed of the random numbers (0)")
    listing = _command(several, "list", verbs.listing, _LIST, "example:\n  advkit list PGD Square")
    listing.add_argument("names", nargs="*", metavar="NAME", help="attacks; all of them, in a table, if none is named")
    compare = _command(
        several,
        "compare",
        verbs.compare,
        _COMPARE,
        f"example:\n  advkit compare a/report.json b/report.json\n\n{_CODES}",
    )
    compare.add_argument("first", help="a report.json, or the folder that it is in")
    compare.add_argument("second", help="another")
    compare.add_argument(
        "--data", metavar="DIR|FILE.npz", help="the images of both, if the classes should be called by their names"
    )
    compare.add_argument(
        "--fail-if-worse", action="store_true", help="exit with 1 if the second is worse by more than chance"
    )
    return parser


def _command(several: "_SubParsersAction[Any]", name: str, verb: Callable[..., int], about: str, examples: str) -> Any:
    parser = several.add_parser(
        name,
        help=_HELP[name],
        description=about,
        epilog=examples,
        formatter_class=RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", action="store_true", help="print JSON, for scripts")
    parser.set_defaults(verb=verb)
    return parser


def _add_inputs(parser: ArgumentParser) -> None:
    model = parser.add_argument_group("the model")
    model.add_argument(
        "--model",
        required=True,
        metavar="MODULE:NAME",
        help="a name that Python can import, also from the current directory: a function that makes the model, or the "
        "model",
    )
    model.add_argument(
        "--model-args", default="", metavar="ARGS", help="for the function: \"'resnet18', num_classes=10\""
    )
    model.add_argument(
        "--weights",
        metavar="FILE",
        help="a state_dict: .safetensors, or torch's .pt and .pth; only tensors are read, and no code is run",
    )
    model.add_argument(
        "--mean", metavar="M,M,M", help="the network expects inputs normalised by these: (pixel - mean) / std"
    )
    model.add_argument("--std", metavar="S,S,S", help="pixels are in [0, 1]; one number, or one for each channel")
    model.add_argument(
        "--own-normalisation", action="store_true", help="read mean and std from the model itself (timm)"
    )
    model.add_argument("--device", help="such as cuda:1; the first GPU if there is one, or the CPU")
    data = parser.add_argument_group("the images")
    data.add_argument("--data", required=True, metavar="DATA", help=_DATA)
    data.add_argument("--images", type=_count, metavar="N", help="use this many, evenly spaced; all if not given")
    data.add_argument("--batch-size", type=_count, default=128, metavar="N", help="how many at once (128)")
    data.add_argument("--workers", type=_count_or_none, default=0, metavar="N", help="processes that read images (0)")
    data.add_argument("--resize", type=_count, metavar="N", help="scale the shorter side to this many pixels")
    data.add_argument("--crop", type=_count, metavar="N", help="then crop a square of this size from the centre")
    data.add_argument("--grey", action="store_true", help="read images with one channel")
    data.add_argument("--split", default="test", help='of a torchvision data set ("test")')
    data.add_argument("--root", default="data", help='where torchvision stores its data ("data")')
    data.add_argument("--download", action="store_true", help="let torchvision fetch what is missing")


def _add_budget(parser: ArgumentParser, what: str) -> None:
    budget = parser.add_argument_group("the budget", what)
    budget.add_argument("--norm", choices=("linf", "l2", "l1"), help="linf if not given")
    budget.add_argument("--eps", help="such as 8/255 or 0.5; 8/255 in Linf if not given")


def _count(text: str, least: int = 1) -> int:
    value = int(text) if text.removeprefix("-").isdecimal() else None
    if value is None or value < least:
        raise ArgumentTypeError(f"must be an integer, at least {least}; got {text}")
    return value


def _count_or_none(text: str) -> int:
    return _count(text, 0)
