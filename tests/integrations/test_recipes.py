"""The recipes of docs/integrations.md run, where their libraries are installed."""

import re
from pathlib import Path
from typing import Any

import pytest

import advkit
from docs.reader import readers_own

PAGE = Path(__file__).parents[2] / "docs" / "integrations.md"
BLOCK = re.compile(
    r"^## (?P<title>[^\n]+)$"
    r"|^<!-- not run: it needs (?P<needs>[^\n]+) -->\n```python\n(?P<code>.*?)^```$",
    re.M | re.S,
)


def recipes() -> list[Any]:
    """The code of each section, and the libraries that it needs."""
    found: dict[str, tuple[set[str], str]] = {}
    title = ""
    for match in BLOCK.finditer(PAGE.read_text(encoding="utf-8")):
        title = match["title"] or title
        if match["code"]:
            needs, code = found.get(title, (set(), ""))
            found[title] = (needs | set(match["needs"].split(", ")), code + match["code"])
    return [pytest.param(*recipe, id=title) for title, recipe in found.items()]


@pytest.mark.filterwarnings("ignore")  # of the libraries, about themselves and each other
@pytest.mark.parametrize(("needs", "code"), recipes())
def test_a_recipe_runs(needs: set[str], code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for library in sorted(needs):
        pytest.importorskip(library)
    monkeypatch.chdir(tmp_path)
    names = {"advkit": advkit, **readers_own()}
    exec(compile(code, PAGE, "exec"), names)
    if "adversarial" in names:
        far = (names["adversarial"] - names["images"]).abs().max() if len(names["adversarial"]) == 12 else 1
        assert far > 0
