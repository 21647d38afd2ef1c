import io
import itertools
import sys

import pytest
import torch

import advkit
from advkit import errors
from advkit._io.progress import Bar, ticking, track


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_silent_where_nobody_watches(monkeypatch):
    items = [1, 2, 3]
    assert track(items, "work") is items
    assert track(items, "work", progress=False) is items
    monkeypatch.setattr(sys, "stderr", None)
    assert track(items, "work") is items


def test_a_bar_on_a_terminal(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    assert list(track([1, 2, 3], "work", unit="batch")) == [1, 2, 3]
    assert "work: 100%" in terminal.getvalue()
    assert "3/3" in terminal.getvalue()


def test_a_bar_that_was_asked_for(capsys):
    assert list(track(iter("ab"), "work", progress=True)) == ["a", "b"]
    assert "work: 2it" in capsys.readouterr().err


def test_without_tqdm(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setitem(sys.modules, "tqdm", None)
    items = [1]
    assert track(items, "work") is items
    with pytest.raises(errors.MissingExtraError, match=r'pip install "advkit\[progress\]"'):
        track(items, "work", progress=True)


def test_a_bar_moves_inside_a_step(monkeypatch):
    """By the share of the step that is done, and no further than almost to its end; then it is where it should be."""
    moments = itertools.count()
    monkeypatch.setattr("advkit._io.progress.time.monotonic", lambda: float(next(moments)))
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with ticking(4, "work", unit="attack", progress=True) as bar:
        seen = []
        for share in (0.0, 0.25, 0.5, 7.0):
            bar.doing("PGD", f"{share} forwards", share)
            seen.append(bar._shown.n)
        bar(1)
        seen.append(bar._shown.n)
        bar.doing("CW", "3 forwards", 0.5)
        seen.append(bar._shown.n)
        bar(2)
        bar(1)
        seen.append(bar._shown.n)
    assert seen == [0, 0.25, 0.5, 0.95, 1, 1.5, 4]
    assert "PGD, 0.5 forwards" in terminal.getvalue()


def test_evaluate_moves_the_bar_with_the_passes_of_a_batch(monkeypatch):
    shares = []
    monkeypatch.setattr(Bar, "doing", lambda self, what, how_far="", share=0.0: shares.append((what, share)))
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 3))
    images = torch.rand(6, 3, 2, 2)
    loader = [(images, model(images).argmax(1))] * 2
    advkit.evaluate(model, loader, {"PGD": advkit.PGD(model, eps=1e-6, steps=4)}, flags=False)
    of_attack = [share for what, share in shares if what == "PGD"]
    assert of_attack == [0.0, 0.25, 0.5, 0.75, 1.0] * 2
