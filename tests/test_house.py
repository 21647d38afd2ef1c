"""The rules of the house: what fits on a page, stands once, and is called by its public name."""

import ast
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import advkit

ROOT = Path(advkit.__file__).parent
DRAWING = {"evaluation/plot.py", "evaluation/pictures.py"}  # where a figure takes the lines that it takes
Function = ast.FunctionDef | ast.AsyncFunctionDef


@cache
def files() -> dict[str, tuple[str, ast.Module]]:
    """The text and the tree of each file, by its path in the package."""
    texts = {file.relative_to(ROOT).as_posix(): file.read_text(encoding="utf-8") for file in ROOT.rglob("*.py")}
    assert len(texts) > 100
    return {name: (text, ast.parse(text)) for name, text in texts.items()}


def span(node: ast.stmt) -> range:
    return range(node.lineno, (node.end_lineno or node.lineno) + 1)


def documentation(tree: ast.AST) -> Iterator[ast.stmt]:
    """Docstrings, of attributes as well."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield node


def too_long(text: str, tree: ast.Module, most: int = 60) -> list[str]:
    """Functions of more lines than that, without their documentation."""
    found = [node for node in ast.walk(tree) if isinstance(node, Function)]
    written = {node.name: len(span(node)) - sum(len(span(one)) for one in documentation(node)) for node in found}
    return [f"{name}: {count} lines" for name, count in written.items() if count > most]


def code(text: str, tree: ast.Module) -> list[tuple[int, str]]:
    """The lines that do something, by their numbers: no documentation, imports, signatures or lists of names."""
    apart = {number for node in documentation(tree) for number in span(node)}
    for node in ast.walk(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            apart.update(span(node))
        elif isinstance(node, Function):
            apart.update(range(node.lineno, node.body[0].lineno))
        elif isinstance(node, ast.Assign) and any(getattr(one, "id", "") == "__all__" for one in node.targets):
            apart.update(span(node))
    lines = [(number, line.split(" # ")[0].strip()) for number, line in enumerate(text.splitlines(), 1)]
    return [(number, line) for number, line in lines if number not in apart and any(map(str.isalnum, line))]


def twice(sources: dict[str, list[tuple[int, str]]], most: int = 5) -> list[str]:
    """The places where more lines than that are the same, one after the other."""
    places = defaultdict(list)
    for name, lines in sources.items():
        for start in range(len(lines) - most):
            places[tuple(line for _, line in lines[start : start + most + 1])].append(f"{name}:{lines[start][0]}")
    return [" ~ ".join(several) for several in places.values() if len(several) > 1]


def strangers(tree: ast.Module) -> list[str]:
    """Private names that a file imports from another."""
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    inside = [node for node in imports if (node.module or "").split(".")[0] == "advkit"]
    return [
        f"{node.module}.{each.name}"
        for node in inside
        for each in node.names
        if each.name.startswith("_") and not (ROOT / each.name).exists() and each.name != "__version__"
    ]


def test_no_file_is_longer_than_350_lines() -> None:
    lengths = {name: len(text.splitlines()) for name, (text, _) in files().items()}
    assert {name: length for name, length in lengths.items() if length > 350} == {}


def test_no_function_is_longer_than_60_lines() -> None:
    assert {name: found for name, file in files().items() if name not in DRAWING and (found := too_long(*file))} == {}


def test_no_six_lines_stand_twice() -> None:
    assert twice({name: code(*file) for name, file in files().items()}) == []


def test_private_names_stay_in_their_file() -> None:
    assert {name: found for name, (_, tree) in files().items() if (found := strangers(tree))} == {}


@pytest.mark.parametrize(
    ("body", "found"),
    [("x = 1\n" * 59, []), ("x = 1\n" * 60, ["long: 61 lines"]), ('"""Words,\nand more."""\n' + "x = 1\n" * 59, [])],
)
def test_what_is_too_long_is_seen(body: str, found: list[str]) -> None:
    text = "def long():\n" + "".join(f"    {line}\n" for line in body.splitlines())
    assert too_long(text, ast.parse(text)) == found


def test_what_stands_twice_is_seen() -> None:
    first = '"""One."""\nimport os\n\ndef one(a):\n' + "".join(f"    a = a + {number}\n" for number in range(6))
    other = "def other(\n    a,\n):\n" + "".join(f"    a = a + {number}  # again\n\n" for number in range(6))
    lines = {name: code(text, ast.parse(text)) for name, text in {"first": first, "other": other}.items()}
    assert twice(lines) == ["first:5 ~ other:4"]
    assert twice({"first": lines["first"], "other": lines["other"][:5]}) == []
