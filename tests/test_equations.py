"""docs/equations.md and tests/equations belong together: no row without a test, no test without a row."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

import pytest

HERE = Path(__file__).parent
TABLE = HERE.parent / "docs" / "equations.md"

MODULES = {
    "G": "test_goodfellow",
    "S": "test_segvic",
    "C": "test_gradient",
    "I": "test_inside",
    "P": "test_same",
}
"""The letter of a document's rows, and the module of its tests."""


class Row(NamedTuple):
    id: str
    where: str
    says: str
    here: str
    test: str

    @property
    def tests(self) -> list[str]:
        return re.findall(r"`(\w+)`", self.test)

    @property
    def names(self) -> list[str]:
        """What the row calls ours: the code in its cell, without arguments."""
        return re.findall(r"`([\w.]+)(?:\([^`]*\))?`", self.here)


def rows_of(text: str) -> Iterator[Row]:
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split(" | ")]
        if re.fullmatch(r"[A-Z]\d+", cells[0]):
            yield Row(*cells, *[""] * (len(Row._fields) - len(cells)))


def functions_in(source: str) -> list[str]:
    """The test functions at the top of a module, as pytest finds them."""
    functions = [node.name for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)]
    return [name for name in functions if name.startswith("test")]


def exists(name: str) -> bool:
    """Whether a dotted name is an attribute of the package or of one of its modules."""
    *parents, last = ["triconv", *name.split(".")]
    for split in range(len(parents), 0, -1):
        try:
            thing = import_module(".".join(parents[:split]))
        except ModuleNotFoundError:
            continue
        for attribute in [*parents[split:], last]:
            if not hasattr(thing, attribute):
                return False
            thing = getattr(thing, attribute)
        return True
    return False


def faults(text: str, tests: Mapping[str, list[str]]) -> list[str]:
    """What is wrong between the table and the tests of each letter."""
    found = []
    named: dict[str, set[str]] = {letter: set() for letter in tests}
    counts = dict.fromkeys(tests, 0)
    for row in rows_of(text):
        letter = row.id[0]
        if letter not in tests:
            found.append(f"{row.id}: no such document")
            continue
        counts[letter] += 1
        if row.id != f"{letter}{counts[letter]}":
            found.append(f"{row.id}: expected {letter}{counts[letter]}")
        if not all(row):
            found.append(f"{row.id}: an empty cell")
        if not row.tests:
            found.append(f"{row.id}: names no test")
        found += [f"{row.id}: there is no test {name}" for name in row.tests if name not in tests[letter]]
        found += [f"{row.id}: there is no {name} in triconv" for name in row.names if not exists(name)]
        if not row.names:
            found.append(f"{row.id}: names nothing of ours")
        named[letter].update(row.tests)
    for letter, names in tests.items():
        found += [f"{name}: in no row of {letter}" for name in names if name not in named[letter]]
        if not counts[letter]:
            found.append(f"{letter}: a document without rows")
    return found


def sources() -> dict[str, str]:
    return {letter: (HERE / "equations" / f"{module}.py").read_text("utf-8") for letter, module in MODULES.items()}


def collected() -> dict[str, list[str]]:
    return {letter: functions_in(source) for letter, source in sources().items()}


def test_every_row_has_a_test_and_every_test_a_row() -> None:
    assert faults(TABLE.read_text("utf-8"), collected()) == []


def test_every_module_of_equations_is_a_documents() -> None:
    assert {path.stem for path in (HERE / "equations").glob("test_*.py")} == set(MODULES.values())


def test_no_equation_is_skipped() -> None:
    """A row's test runs always: no mark takes it out, and no name is defined twice, the first unseen."""
    for letter, source in sources().items():
        words = {node.attr for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Attribute)}
        assert not words & {"skip", "skipif", "xfail", "importorskip", "slow"}, MODULES[letter]
        names = functions_in(source)
        assert len(names) == len(set(names)), MODULES[letter]


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("`test_hadamard_step`", "`test_hadamard`", "I12: there is no test test_hadamard"),
        ("`test_hadamard_step`", "`test_hadamard`", "test_hadamard_step: in no row of I"),
        ("`test_hadamard_step`", "to come", "I12: names no test"),
        ("`test_hadamard_step`", "", "I12: an empty cell"),
        ("| I12 |", "| I13 |", "I13: expected I12"),
        ("| I12 |", "| X12 |", "X12: no such document"),
        ("`layers.hinge`", "`layers.huber`", "C2: there is no layers.huber in triconv"),
        ("`layers.hinge`", "ours", "C2: names nothing of ours"),
        ("| P", "| Q", "P: a document without rows"),
    ],
)
def test_the_check_can_fail(old: str, new: str, fault: str) -> None:
    text = TABLE.read_text("utf-8")
    assert old in text
    assert fault in faults(text.replace(old, new), collected())


def test_a_test_without_a_row_is_a_fault() -> None:
    tests = collected()
    tests["G"] = [*tests["G"], "test_nothing"]
    assert faults(TABLE.read_text("utf-8"), tests) == ["test_nothing: in no row of G"]
