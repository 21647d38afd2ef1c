"""All that needs a GPU, checked and measured by one command in nine minutes.

    python benchmarks/gpu.py --data cifar10.npz --out runs/gpu      # on a GPU; shapes are drawn without --data
    python benchmarks/gpu.py --device cpu --tiny --out runs/gpu     # a rehearsal, wherever you are

The parts run in the order of what matters most. Each leaves ``PART.json`` in the folder, row by row, so that a stop
loses nothing that was measured, and the same command goes on with the part that was under way; ``gpu.md`` has the
tables of all that are there. It needs torch, torchvision, pytest and hypothesis, and measures the peers (torchattacks,
foolbox, adv-lib, autoattack) that are installed. Times are medians, by CUDA events.
"""

import argparse
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent / "src"), str(HERE)]
sys.path.append(str(HERE.parent / "tests"))

from contests import CONTESTS, Contender, Contest, seed  # noqa: E402
from passes import Counted  # noqa: E402
from stage import Row, Stage  # noqa: E402
from verdicts import VERDICTS  # noqa: E402

import advkit  # noqa: E402, this checkout's
from contracts.waits import host_waits  # noqa: E402

SPEED = ("FGSM", "MIFGSM", "PGD", "DeepFool", "CW")
TOO_SLOW = {("CW", "foolbox"), ("CW", "adv_lib")}  # nine searches of a thousand steps
NO_WAITS = {"IFGSM", "MIFGSM", "PGD", "SparseL1Descent", "TPGD", "NIFGSM", "DIFGSM", "TIFGSM", "VMIFGSM", "SINIFGSM"}
REHEARSED = ("MIFGSM", "DDN")


def tests(stage: Stage) -> Iterator[Row]:
    """The tests that are marked ``cuda``, for at most half of the time that is left."""
    log = Path(tempfile.mkdtemp()) / "outcomes"
    log.touch()
    command = [sys.executable, "-m", "pytest", "-q", "-m", "cuda", "-p", "no:cacheprovider", "-p", "outcomes"]
    command += ["-n", "0", "-k", "test_evaluate"] if stage.tiny else ["-n", str(min(6, os.cpu_count() or 1))]
    place = "cuda" if stage.device.type == "cuda" else "cpu"
    paths = os.pathsep.join([str(HERE.parent / "src"), str(HERE), os.environ.get("PYTHONPATH", "")])
    # Not all files: each process would take half a minute to collect them.
    files = [str(path) for path in (HERE.parent / "tests").rglob("test_*.py") if "pytest.mark.cuda" in path.read_text()]
    process = subprocess.Popen(
        [*command, *files],
        cwd=HERE.parent,
        env={**os.environ, "PYTHONPATH": paths, "ADVKIT_TEST_DEVICE": place, "ADVKIT_OUTCOMES": str(log)},
        stdout=sys.stderr,
    )
    end = time.monotonic() + max(60.0, (stage.until - time.monotonic()) / 2)
    with log.open(encoding="utf-8") as stream:
        while True:
            done = process.poll() is not None
            for line in stream:
                yield json.loads(line)
            if done:
                break
            if time.monotonic() > end:
                process.terminate()
                process.wait()
                yield {"test": "all that come after these", "outcome": "cut short", "text": ""}
                break
            time.sleep(0.5)
    if process.returncode not in (0, 1, -signal.SIGTERM):  # 1 says that some failed
        yield {"test": "pytest itself", "outcome": "failed", "text": f"it ended with {process.returncode}"}
    shutil.rmtree(log.parent)


def waits(stage: Stage) -> Iterator[Row]:
    """How often the host waits for the GPU in a call of three steps, and in each step more; and how often it may.

    Attacks whose images leave as they finish have to learn which: once a step. The others may not wait at all.
    """
    model, images, labels = stage.batch("cnn", 32)
    for name in REHEARSED if stage.tiny else advkit.attacks.__all__:
        kind = getattr(advkit.attacks, name)
        steps = getattr(kind, "__dataclass_fields__", {}).get("steps")
        if steps is None or not steps.init or kind.access != "gradient" or time.monotonic() > stage.until:
            continue
        more = 2 if stage.tiny else 20
        row: Row = {"attack": name, "3 steps": None, "each more": None, "allowed": 0 if name in NO_WAITS else 1}
        try:
            few, many = (_waits(stage, kind(model, steps=3 + extra), images, labels) for extra in (0, more))
        except Exception as error:  # such as one that has to be fitted, or needs more than a model
            yield {**row, "failed": f"{type(error).__name__}: {error}"[:200]}
            continue
        each = (many - few) / more
        yield {**row, "3 steps": few, "each more": each, "kept": each <= row["allowed"]}


def _waits(stage: Stage, attack: advkit.Attack, images: Tensor, labels: Tensor) -> int:
    """Waits of one call: by torch's debug mode; on a CPU, operations that would have to wait on a GPU."""
    torch.manual_seed(0)
    if stage.device.type == "cpu":
        with Waiting() as waiting:
            attack(images, labels)
        return waiting.count
    attack(images, labels)
    torch.manual_seed(0)
    return host_waits(lambda: attack(images, labels))


class Waiting(TorchDispatchMode):
    """Counts operations whose result a GPU's host has to wait for: numbers to read, and shapes made of them."""

    NAMES = ("_local_scalar_dense", "nonzero", "masked_select", "equal", "_unique2")

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        by_mask = name in ("index", "index_put", "index_put_") and any(
            part is not None and part.dtype == torch.bool for part in args[1]
        )
        self.count += name in self.NAMES or by_mask
        return func(*args, **(kwargs or {}))


def speed(stage: Stage) -> Iterator[Row]:
    """Attacks beside their peers', and the most memory that each takes."""
    for network, counts, names in (
        ("cnn", (256, 1024), SPEED),
        ("resnet18", (256, 1024), ("MIFGSM", "PGD", "DeepFool")),
        ("resnet50", (256, 1024), ("MIFGSM", "PGD")),
    ):
        for count in counts[:1] if stage.tiny else counts:
            model, images, labels = stage.batch(network, count)
            for contest in (each for each in CONTESTS if each.name in names):
                for contender in contest.contenders:
                    if contender.installed and contender.library != "ART":
                        row = {"network": network, "images": len(images), "attack": contest.name}
                        yield {**row, **_contended(stage, contest, contender, model, images, labels)}


def _contended(
    stage: Stage, contest: Contest, contender: Contender, model: nn.Module, images: Tensor, labels: Tensor
) -> Row:
    if (contest.name, contender.library) in TOO_SLOW or time.monotonic() > stage.until:
        return {"library": str(contender), "ms": None}
    count = min(contender.most or len(images), len(images))
    images, labels = images[:count], labels[:count]
    row: Row = {"library": str(contender), "given": count, "ms": None}
    seed()
    try:
        run = contender.start(model)
        with stage.peak(row):
            found = run(images, labels)
        with torch.no_grad():
            said = torch.cat([model(part) for part in found.split(256)])
        row["success"] = round(contest.success(said, labels).float().mean().item(), 3)
        row["ms"], row["rounds"] = stage.milliseconds(lambda: run(images, labels))
    except Exception as error:  # a library that cannot, or memory that is not there, costs no other row
        row["failed"] = f"{type(error).__name__}: {error}"[:200]
    if stage.device.type == "cuda":
        torch.cuda.empty_cache()
    return row


def verdicts(stage: Stage) -> Iterator[Row]:
    """What "standard" leaves of a CNN with some adversarial training, on 1,000 images, beside AutoAttack."""
    model, images, labels = stage.robust(1000)
    for name, (package, verdict) in VERDICTS.items():
        if find_spec(package) is None or package == "art":
            continue
        row: Row = {"verdict": name, "images": len(images), "seconds": None}
        if time.monotonic() < stage.until and not (stage.tiny and "standard" not in name):
            counted = Counted(model)
            begin = time.perf_counter()
            with stage.peak(row):
                left = verdict(counted, images, labels, "linf", 8 / 255)
            row["seconds"] = round(time.perf_counter() - begin, 2)
            row["left"] = round(left.float().mean().item(), 4)
            row["passes"] = round(sum(one.rows * (1 + one.backwards) for one in counted.passes) / len(images), 1)
        yield row


def overhead(stage: Stage) -> Iterator[Row]:
    """What a step costs over the forward and backward that it must make, and where the GPU waits for the host."""
    for network in ("cnn", "resnet18"):
        model, images, labels = stage.batch(network, 256)

        def passes(model: nn.Module = model, images: Tensor = images, labels: Tensor = labels) -> None:
            for _ in range(10):
                x = images.detach().requires_grad_()
                torch.autograd.grad(nn.functional.cross_entropy(model(x), labels, reduction="sum"), x)

        for parameter in model.parameters():
            parameter.requires_grad_(False)
        alone, _ = stage.milliseconds(passes)
        for make in (advkit.IFGSM, advkit.MIFGSM, advkit.PGD):
            attack = make(model, steps=10)
            whole, rounds = stage.milliseconds(lambda: attack(images, labels))  # noqa: B023, called at once
            yield {
                "network": network,
                "images": len(images),
                "attack": make.__name__,
                "ms": whole,
                "passes alone, ms": alone,
                "ratio": round(whole / alone, 3),
                "rounds": rounds,
                "GPU busy": _busy(stage, lambda: attack(images, labels)),  # noqa: B023, called at once
            }


def graphs(stage: Stage) -> Iterator[Row]:
    """Attacks as they are, and as `advkit.Attack.compile` makes them."""
    for count in (1, 256):
        model, images, labels = stage.batch("cnn", count)
        one_graph = (advkit.FGSM, advkit.IFGSM, advkit.MIFGSM, advkit.PGD, advkit.SparseL1Descent)
        for make in one_graph if count == 1 else (*one_graph, advkit.CW):
            attack = make(model)
            plain, rounds = stage.milliseconds(lambda: attack(images, labels))  # noqa: B023, called at once
            row: Row = {"network": "cnn", "images": len(images), "attack": str(attack), "ms": plain, "rounds": rounds}
            if stage.device.type == "cuda":
                with _kept_buffers():
                    faster = attack.compile()
                    for _ in range(2):
                        faster(images, labels)
                    row["recorded, ms"], _ = stage.milliseconds(lambda: faster(images, labels))  # noqa: B023
                row["ratio"] = round(plain / row["recorded, ms"], 2)
                if make is advkit.MIFGSM and count > 1:  # the compiler takes a while
                    compiled = attack.compile(mode="default")
                    compiled(images, labels)
                    row["torch.compile, ms"], _ = stage.milliseconds(lambda: compiled(images, labels))  # noqa: B023
            yield row


def _kept_buffers() -> AbstractContextManager[Any]:
    """Torch's compiler keeps what a backward needs, for attacks that take several; torch 2.4 knows nothing else."""
    config: Any = import_module("torch._functorch.config")
    return config.patch(donated_buffer=False) if hasattr(config, "donated_buffer") else nullcontext()


def _busy(stage: Stage, call: Callable[[], object]) -> float | None:
    """The share of a call in which a kernel runs."""
    if stage.device.type == "cpu":
        return None
    from torch.profiler import ProfilerActivity, profile

    call()
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA]) as found:
        begin = time.perf_counter()
        call()
        torch.cuda.synchronize()
        wall = time.perf_counter() - begin
    return round(sum(each.self_device_time_total for each in found.key_averages()) / 1e6 / wall, 3)


PARTS = {part.__name__: part for part in (tests, waits, graphs, verdicts, speed, overhead)}


def tables(out: Path) -> str:
    """All that was measured, as Markdown."""
    lines = []
    for path in sorted(out.glob("*.json"), key=lambda path: [*PARTS].index(path.stem)):
        found = json.loads(path.read_text())
        lines += [
            f"## {path.stem}",
            "",
            f"{found['on']}; {found['seconds']:.0f} s{'' if found['whole'] else ', cut short'}",
            "",
        ]
        rows = found["rows"]
        if path.stem == "tests":
            outcomes = [row["outcome"] for row in rows]
            lines.append(", ".join(f"{outcomes.count(each)} {each}" for each in dict.fromkeys(outcomes)))
            rows = [{"not passed": row["test"]} for row in rows if row["outcome"] not in ("passed", "skipped")]
        columns = list(dict.fromkeys(name for row in rows for name in row))
        if rows:
            lines += [""] if path.stem == "tests" else []  # after a sentence
            lines += [f"| {' | '.join(columns)} |", f"|{' --- |' * len(columns)}"]
        lines += [f"| {' | '.join(_cell(row.get(name)) for name in columns)} |" for row in rows]
        lines.append("")
    return "\n".join(lines)


def _cell(value: object) -> str:
    return "not measured" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def write(path: Path, found: object) -> None:
    """A file that is there as a whole or not at all."""
    path.with_suffix(".tmp").write_text(json.dumps(found, indent=1))
    path.with_suffix(".tmp").replace(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="a rehearsal: a few images, once each")
    parser.add_argument("--data", help="an .npz file as examples/quickstart.py takes it; shapes are drawn without one")
    parser.add_argument("--out", type=Path, default=Path("runs/gpu"), help="where the results go (%(default)s)")
    parser.add_argument("--only", default=",".join(PARTS), help="parts, with commas between (%(default)s)")
    parser.add_argument("--minutes", type=float, default=9.0, help="after which nothing more is begun (%(default)s)")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    device = torch.device(options.device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or "a CPU"
    on = f"{name}, torch {torch.__version__}, Python {platform.python_version()}"
    stage = Stage(device, options.tiny, options.data, time.monotonic() + 60 * options.minutes)
    for part in options.only.split(","):
        path = options.out / f"{part}.json"
        if (path.exists() and json.loads(path.read_text())["whole"]) or time.monotonic() > stage.until:
            continue
        found: dict[str, Any] = {"whole": False, "on": on, "seconds": 0.0, "rows": []}
        begin = time.monotonic()
        for row in PARTS[part](stage):
            found["rows"].append(row)
            found["seconds"] = time.monotonic() - begin
            write(path, found)
            if part != "tests":
                print(part, row, file=sys.stderr, flush=True)
        found |= {"whole": True, "seconds": time.monotonic() - begin}
        write(path, found)
        (options.out / "gpu.md").write_text(tables(options.out))
    print(tables(options.out))


if __name__ == "__main__":
    main()
