import io
import sys

import pytest

from advkit import errors
from advkit._io.progress import track


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
