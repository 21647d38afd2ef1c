"""What the README and the docs say still holds: their Python runs, and their tables name every attack."""

import re
import runpy
import sys
import types
from pathlib import Path

import pytest

import advkit
from docs.reader import readers_own

ROOT = Path(__file__).parents[2]
PAGES = {str(path.relative_to(ROOT)): path for path in [ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md"))]}
BLOCK = re.compile(r"^(?P<skip><!-- not run: [^\n]+ -->\n)?```python *\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(name: str) -> list[str]:
    """The code of a page that is to be run, each piece moved down to its own line of the page."""
    text = PAGES[name].read_text(encoding="utf-8")
    found = [match for match in BLOCK.finditer(text) if not match["skip"]]
    return ["\n" * text.count("\n", 0, match.start("code")) + match["code"] for match in found]


WITH_CODE = [name for name in PAGES if blocks(name)]


@pytest.mark.parametrize("name", WITH_CODE)
def test_the_code_of_a_page_runs_from_top_to_bottom(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # where a page that saves something may leave it
    page = types.ModuleType("page")
    monkeypatch.setitem(sys.modules, "page", page)  # dataclasses look their module up
    vars(page).update(readers_own())
    code = blocks(name)
    assert code
    for block in code:
        exec(compile(block, PAGES[name], "exec"), vars(page))


@pytest.mark.parametrize("name", ["README.md", "docs/choosing.md"])
def test_the_table_of_attacks_names_each_attack_and_no_other(name: str) -> None:
    text = re.sub(r"<!--.*?-->", "", PAGES[name].read_text(encoding="utf-8"), flags=re.DOTALL)
    table = next(part for part in re.split(r"\n\s*\n", text) if part.startswith("| Attack |"))
    listed = re.findall(r"^\| \[?`(\w+)`", table, flags=re.MULTILINE)
    assert sorted(listed) == sorted(advkit.attacks.__all__)


def test_an_attack_of_ones_own_is_short_and_made_of_public_parts() -> None:
    for block in blocks("docs/own-attack.md"):
        assert sum(bool(line.strip()) for line in block.splitlines()) <= 45  # with what tries it
        assert not re.search(r"advkit\._|\._(?:engine|classifier)", block)
        for match in re.finditer(r"^@dataclass.*?(?=^\S(?!lass ))", block + "\nend", re.MULTILINE | re.DOTALL):
            assert sum(bool(line.strip()) for line in match[0].splitlines()) < 40


def test_the_generated_tables_say_what_the_attacks_do() -> None:
    """``python docs/tables.py`` writes them again."""
    script = runpy.run_path(str(ROOT / "docs" / "tables.py"))
    for name, page in script["tables"]().items():
        text = PAGES[name].read_text(encoding="utf-8")
        assert script["written"](text, page) == text, f"{name} is not up to date: run python docs/tables.py"


@pytest.mark.parametrize("name", ["README.md", "docs/defenses.md"])
def test_the_table_of_defenses_names_each_defense_and_no_other(name: str) -> None:
    table = next(
        part for part in PAGES[name].read_text(encoding="utf-8").split("\n\n") if part.startswith("| Defense |")
    )
    listed = [word for row in table.splitlines() for word in re.findall(r"`(\w+)`", row.split("|")[1])]
    bases = {"Certificates", "Defense", "Epoch", "InputTransformation", "TrainingDefense"}
    assert sorted(listed) == sorted(set(advkit.defenses.__all__) - bases)
