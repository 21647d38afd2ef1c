"""Runs that are killed and go on, and runs in several processes."""

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import advkit
from advkit import errors
from advkit._io.progress import ticking
from advkit.evaluation import runs
from contracts.scenes import trained_net

SCRIPT = Path(__file__).parent / "scripts" / "run.py"
_spec = importlib.util.spec_from_file_location("run", SCRIPT)
script = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(script)


def execute(*command):
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, *map(str, command)], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills the children that it forks")
def test_a_run_killed_at_ten_random_points_ends_in_the_same_report(tmp_path):
    counts = json.loads(execute(SCRIPT, "killed", tmp_path))
    assert counts["kills"] == 10
    assert counts["whole"] >= 1
    assert counts["partial"] >= 4  # kills that left some batches, and not all


def test_two_processes_give_the_report_of_one(tmp_path):
    execute("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", 2, SCRIPT, "ranks", tmp_path)
    one = script.evaluated(transfer=True)
    for rank in range(2):
        assert json.loads((tmp_path / f"rank{rank}.json").read_text()) == one
    # What two have begun, one may end, or three.
    for path in sorted((tmp_path / "run" / "batches").glob("*.json"))[::2]:
        path.unlink()
    assert script.evaluated(transfer=True, run_folder=tmp_path / "run") == one


@pytest.fixture
def scene():
    net, images, labels = trained_net()
    return net, list(zip(images.split(3), labels.split(3), strict=True))


def test_what_is_done_is_not_done_again(scene, tmp_path):
    net, loader = scene
    attacks = [advkit.FGSM(net)]
    first = advkit.evaluate(net, loader[:2], attacks, run_folder=tmp_path / "deep" / "run")
    asked = []
    hook = net.register_forward_hook(lambda module, inputs, output: asked.append(len(output)))
    again = advkit.evaluate(net, loader[:2], attacks, run_folder=tmp_path / "deep" / "run")
    assert again == first  # with the times
    # Whether it is the same model, of each batch: twice for its answers, and twice for its gradients.
    assert asked == [3] * 8
    more = advkit.evaluate(net, loader, attacks, run_folder=tmp_path / "deep" / "run")
    hook.remove()
    assert len(asked) > 16
    assert more.images == 8


def test_queries_for_finished_images_are_not_spent_again(tmp_path):
    """A service breaks down in the search for the fourth image; then that one and the last two are left."""
    images = torch.rand(6, 12, generator=torch.Generator().manual_seed(0))
    weights = torch.randn(12, 3, generator=torch.Generator().manual_seed(1))
    spent, broken = {}, [False]

    def service(pixels):
        spent[place[0]] += len(pixels)
        if broken[0] and place[0] == 3 and spent[3] > 20:
            raise KeyboardInterrupt
        return nn.functional.one_hot(((pixels - 0.5) @ weights).argmax(1), 3).float()

    place = [0]
    spent[0] = 0
    labels = service(images).argmax(1)

    def loader():
        for place[0] in range(6):
            yield images[place[0], None], labels[place[0], None]

    def run():
        spent.update(dict.fromkeys(range(6), 0))
        attacks = [advkit.HopSkipJump(service, max_queries=60)]
        return advkit.evaluate(service, loader(), attacks, flags=False, run_folder=tmp_path)

    broken[0] = True
    with pytest.raises(KeyboardInterrupt):
        run()
    begun = dict(spent)
    broken[0] = False
    report = run()
    assert min(begun[place] for place in range(3)) > 60
    assert [spent[place] for place in range(3)] == [2, 2, 0]  # twice each, of the 1st, 2nd, 4th batch and so on
    assert min(spent[place] for place in range(3, 6)) > 60
    assert report.images == 6
    assert report.to_dict()["HopSkipJump_max_queries_60/attacked"] == 6


def test_another_run_in_the_same_folder_is_refused(scene, tmp_path):
    net, loader = scene
    attacks = [advkit.FGSM(net)]
    advkit.evaluate(net, loader, attacks, run_folder=tmp_path)
    other = trained_net(seed=5)[0]
    for model, given, arguments, words in (
        (other, attacks, {}, "models"),
        (net, [advkit.FGSM(net, eps=0.1)], {}, "attacks"),
        (net, attacks, {"seed": 1, "draws": 3}, "draws, seed"),
    ):
        with pytest.raises(errors.InputError, match=f"holds a run with other {words}: "):
            advkit.evaluate(model, loader, given, run_folder=tmp_path, **arguments)
    with pytest.raises(errors.InputError, match="batch 0 of the loader has changed since the run"):
        advkit.evaluate(net, loader[::-1], attacks, run_folder=tmp_path)


def test_a_part_of_a_file_is_not_read(scene, tmp_path):
    net, loader = scene
    whole = advkit.evaluate(net, loader, [advkit.FGSM(net)], run_folder=tmp_path)
    (tmp_path / "batches" / "00000000.json.0.part").write_text('{"dig')
    assert advkit.evaluate(net, loader, [advkit.FGSM(net)], run_folder=tmp_path) == whole


def test_processes_with_different_batches_are_told(scene, monkeypatch):
    """As a DistributedSampler or shuffling would give them."""
    net, loader = scene
    monkeypatch.setattr(runs.Ranks, "gather", lambda self, thing: [thing, "another"])
    with pytest.raises(errors.InputError, match="without a DistributedSampler"):
        advkit.evaluate(net, loader, [])


def test_a_bar_shows_the_attacks(scene, capsys):
    net, loader = scene
    advkit.evaluate(net, loader, [advkit.FGSM(net), advkit.FGSM(net)], progress=True)
    shown = capsys.readouterr().err
    assert "6/6" in shown
    assert "attack" in shown
    assert torch.is_grad_enabled()


def test_a_bar_lives_through_a_long_attack(scene, capsys, monkeypatch):
    """It says which attack is under way before that is done, and how far it is."""
    net, loader = scene
    monkeypatch.setattr("advkit._io.progress._PAUSE", 0.0)  # or it would speak ten times a second at most
    seen = []
    net = nn.Sequential(net)
    net.register_forward_pre_hook(lambda module, inputs: seen.append(capsys.readouterr().err))
    attacks = [advkit.PGD(net, steps=5), advkit.DeepFool(net)]
    advkit.evaluate(net, loader[:1], attacks, {"same": net}, progress=True, flags=False)
    assert "no attack" in seen[0]
    assert not any("1/4" in text for text in seen[:7])  # while the first attack is under way
    said = re.findall(r"PGD\(steps=5\) on none, (\d+) forwards", "".join(seen))
    assert list(dict.fromkeys(said)) == ["3", "6", "9", "12", "15"]  # tqdm may draw again what it has drawn
    assert any("DeepFool on same" in text for text in seen)


def test_a_bar_is_drawn_ten_times_a_second_at_most(capsys, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("advkit._io.progress.time", SimpleNamespace(monotonic=lambda: now[0]))
    shown = []
    with ticking(2, "work", progress=True) as tick:
        for now[0], how_far in ((0.0, ""), (0.05, "1 forwards"), (0.2, "2 forwards"), (0.25, "3 forwards")):
            tick.doing("PGD", how_far)
            shown.append(capsys.readouterr().err)
    assert "PGD" in shown[0]
    assert not shown[1]
    assert "PGD, 2 forwards" in shown[2]
    assert not shown[3]
