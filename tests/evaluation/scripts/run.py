"""An evaluation in processes of its own: of two attacks on three models, two of them random.

run.py killed FOLDER    # killed at ten points, and resumed
torchrun run.py ranks FOLDER
"""

import json
import os
import random
import signal
import sys
import warnings
from pathlib import Path

import torch
from torch import nn

import advkit
from advkit._io import files
from advkit.defenses import InputTransformation


class Rounding(InputTransformation):
    differentiable = False

    def forward(self, images):
        return (images * 7).round() / 7


class Jitter(InputTransformation):
    stochastic = True

    def forward(self, images):
        return images + 0.1 * torch.randn(images.shape)


def evaluated(transfer=False, **arguments):
    """The report as JSON has it, without what clocks say."""
    generator = torch.Generator().manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(48, 16), nn.Tanh(), nn.Linear(16, 5))
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    images = torch.rand(33, 3, 4, 4, generator=generator)
    labels = net(images).argmax(1)
    labels[::7] = 0
    loader = list(zip(images.split(4), labels.split(4), strict=True))
    attacks = [advkit.PGD(net, steps=3), advkit.DeepFool(net, steps=4)]
    if transfer:
        surrogate = nn.Sequential(nn.Flatten(), nn.Linear(48, 5))
        surrogate.load_state_dict({"1.weight": net[3].weight @ net[1].weight, "1.bias": net[3].bias})
        arguments["transfer_from"] = {"linear": surrogate.requires_grad_(False)}
    report = advkit.evaluate(net, loader, attacks, [Rounding(), Jitter()], draws=3, **arguments)
    return without_times(json.loads(report.to_json()))


def without_times(value):
    if isinstance(value, dict):
        return {name: without_times(part) for name, part in value.items() if "seconds" not in name}
    return [without_times(part) for part in value] if isinstance(value, list) else value


def forked(result, kill_at=None, **arguments):
    """A child that evaluates, and kills itself at an event; its exit status. The parent never evaluates: a process that
    has differentiated may not be forked.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it has no threads of its own to worry about either
        child = os.fork()
    if child:
        return os.waitpid(child, 0)[1]
    events = 0

    def happened(*_):
        nonlocal events
        events += 1
        if events == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    # A layer is asked, a file has been written under another name, or it has been given its own.
    torch.nn.modules.module.register_module_forward_hook(lambda module, inputs, output: happened())
    files.os.fsync = happened
    result.write_text(json.dumps({"report": evaluated(**arguments), "events": events}))
    os._exit(0)


def killed(folder):
    """Kill the evaluation at ten events, resume it each time, and compare whatever comes to its end."""
    assert forked(folder / "expected.json", run_folder=folder / "expected") == 0
    expected = json.loads((folder / "expected.json").read_text())
    draw = random.Random(0)
    kills = whole = partial = 0
    while kills < 10 or not whole:
        run, result = folder / f"run{whole}", folder / f"result{whole}.json"
        status = forked(result, draw.randint(1, expected["events"] // 2) if kills < 10 else None, run_folder=run)
        if os.WIFSIGNALED(status):
            assert os.WTERMSIG(status) == signal.SIGKILL
            kills += 1
            partial += 0 < len(list(run.glob("batches/*.json"))) < 9
        else:
            assert os.WEXITSTATUS(status) == 0
            assert json.loads(result.read_text())["report"] == expected["report"], (kills, whole)
            whole += 1
    print(json.dumps({"kills": kills, "whole": whole, "partial": partial}))


def main():
    torch.set_num_threads(1)
    what, folder = sys.argv[1], Path(sys.argv[2])
    if what == "killed":
        killed(folder)
    else:
        report = evaluated(transfer=True, run_folder=folder / "run")
        (folder / f"rank{os.environ['RANK']}.json").write_text(json.dumps(report))


if __name__ == "__main__":
    main()
