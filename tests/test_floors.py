"""A module imports strictly lower floors only; inside a package, earlier rooms only. Read from the source, by ast."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from importlib.util import resolve_name
from pathlib import Path

import pytest

import triconv

PACKAGE = "triconv"
SOURCE = Path(triconv.__file__).parent

FLOORS: list[list[str]] = [
    ["geometry", "filtering", "channels", "after", "files", "cache", "interruptions", "kept", "memory", "processes"],
    ["form", "arguments", "arrays", "checkpoint", "coefficients"],
    ["engine", "problem", "kernels"],
    ["engines", "trial"],
    ["dispatch"],
    ["ops", "pool", "architecture"],
    ["tape", "layers", "data", "plots", "recipe", "torch", "jax", "dask", "operator"],
    ["testing", "autoencoder", "benchmark", "phases"],
    ["train"],
    ["report", ""],  # "" is the package itself, whose version the command reads
    ["cli"],
    ["__main__"],
]
"""The modules and packages of each floor, lowest first; rooms that are still to be built are named already."""

ROOMS: dict[str, list[list[str]]] = {
    "kernels": [
        ["ir", "target", "index", "waves"],
        ["shares", "words"],
        ["block", "edges", "finish", "registers", "rows"],
        ["matrices"],
        ["nest", "contract", "elementwise", "transform", "pool", "relay"],
        ["compile", "patches", "threads", "scratch", "turns"],
        ["team"],
        ["sheet"],
        ["copy", "finite"],
        ["correlation", "layout", "lines", "program", "short"],
        ["adding", "blocks", "filed", "filtered", "loops", "schedule"],
        ["one_axis", "ways", "winograd"],
        ["bands"],
        ["chunks", "gradients"],
        ["prepared"],
        ["fourier", "halves"],
        [""],
    ],
    "engines": [["im2row", "matrix", "reference", "direct", "bfloat16", "winograd", "split", "fft"], [""]],
    "layers": [["losses"], ["base"], ["convolution", "elementwise", "optimizers", "spatial"], [""]],
    "torch": [
        ["layout", "options", "registry"],
        ["batching", "engines", "portable"],
        ["operands", "stages"],
        ["operators"],
        ["calls", "pooling"],
        ["functions"],
        ["nn.kept"],
        ["nn.base"],
        ["nn.convolution", "nn.pooling"],
        ["nn.autoencoder", "nn.local", "nn.swap"],
        ["nn.keras"],
        ["nn"],
        ["train"],
        [""],
    ],
    "benchmark": [
        ["memory", "timing", "workload"],
        ["machine"],
        ["calibrate", "row", "way"],
        ["in_jax", "in_torch", "in_triconv", "table"],
        ["first"],
        ["measure"],
        [""],
    ],
    "cli": [["app", "parse"], ["check", "display"], ["bench", "train"], [""]],
}
"""The order inside a package, "" being the package itself: its modules import earlier rooms of it."""

FOR_NOTHING_OF_OURS = ["geometry", "filtering", "channels", "cache", "memory", "processes"]
"""These import no module of the package at all."""


def modules(source: Path = SOURCE) -> dict[str, str]:
    """The text of every module by its dotted name below the package, "" for the package itself."""
    found = {}
    for path in sorted(source.rglob("*.py")):
        parts = path.relative_to(source).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path.read_text(encoding="utf-8")
    return found


def imports(name: str, sources: Mapping[str, str]) -> Iterator[str]:
    """The modules of the package that a module imports, wherever in its text: at the top, in functions, for types."""
    is_package = name == "" or any(other.startswith(f"{name}.") for other in sources)
    full = f"{PACKAGE}.{name}".rstrip(".")
    inside = full if is_package else full.rpartition(".")[0]
    for node in ast.walk(ast.parse(sources[name])):
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            origin = resolve_name("." * node.level + (node.module or ""), inside) if node.level else node.module or ""
            targets = []
            for alias in node.names:
                below = f"{origin}.{alias.name}".removeprefix(f"{PACKAGE}.")
                targets.append(f"{PACKAGE}.{below}" if below in sources else origin)
        else:
            continue
        yield from (t.removeprefix(PACKAGE).lstrip(".") for t in targets if t.split(".")[0] == PACKAGE)


def floor(name: str) -> int | None:
    room = name.split(".")[0]
    return next((number for number, rooms in enumerate(FLOORS) if room in rooms), None)


def step(name: str) -> int | None:
    """The place of a module inside its package; 0 for one that is no package and in none."""
    package, _, module = name.partition(".")
    if package not in ROOMS:
        return 0 if not module else None
    return next((number for number, rooms in enumerate(ROOMS[package]) if module in rooms), None)


def complaints(sources: Mapping[str, str]) -> list[str]:
    """Every module without a floor and every import that is not strictly lower."""
    found = [f"{name or PACKAGE} has no floor" for name in sources if floor(name) is None or step(name) is None]
    if found:
        return found
    for name in sources:
        for target in imports(name, sources):
            if target not in sources:
                found.append(f"{name} imports {target}, which does not exist")
                continue
            package = name.split(".")[0]
            if package in ROOMS and package == target.split(".")[0]:
                low, high = step(target), step(name)
            else:
                low, high = floor(target), floor(name)
            assert low is not None
            assert high is not None
            if low >= high:
                found.append(f"{name} (floor {floor(name)}) imports {target} (floor {floor(target)})")
    return found


def test_imports_go_down() -> None:
    assert complaints(modules()) == []


def test_the_lowest_import_nothing_of_ours() -> None:
    sources = modules()
    for name in FOR_NOTHING_OF_OURS:
        assert list(imports(name, sources)) == []


def test_no_engine_imports_another() -> None:
    sources = modules()
    engines = {name for name in sources if name.startswith("engines.")}
    assert len(engines) >= 3
    for name in engines:
        assert not engines & set(imports(name, sources))


def test_every_room_is_named_once() -> None:
    rooms = [room for rooms in FLOORS for room in rooms]
    assert len(rooms) == len(set(rooms))
    assert set(ROOMS) <= set(rooms)


def test_the_imports_are_read_at_all() -> None:
    """The reading itself, on modules whose imports are known."""
    sources = modules()
    assert set(imports("dispatch", sources)) >= {"engine", "form", "engines.im2row", "engines.matrix"}
    assert set(imports("engines.reference", sources)) == {"coefficients", "engine", "form", "geometry"}
    assert {"ops", "pool", "dispatch"} <= set(imports("", sources))


@pytest.mark.parametrize(
    ("name", "text", "complaint"),
    [
        ("geometry", "from .ops import conv", "geometry (floor 0) imports ops (floor 5)"),
        ("geometry", "from . import form", "geometry (floor 0) imports form (floor 1)"),
        ("geometry", "import triconv.channels", "geometry (floor 0) imports channels (floor 0)"),
        ("geometry", "from triconv.pool import max_pool", "geometry (floor 0) imports pool (floor 5)"),
        ("geometry", "from triconv import conv", "geometry (floor 0) imports  (floor 9)"),
        ("geometry", "def late():\n    from .dispatch import choose", "geometry (floor 0) imports dispatch (floor 4)"),
        (
            "engines.matrix",
            "from .reference import build",
            "engines.matrix (floor 3) imports engines.reference (floor 3)",
        ),
        ("engines.matrix", "from . import im2row", "engines.matrix (floor 3) imports engines.im2row (floor 3)"),
        ("engines.matrix", "from ..dispatch import choose", "engines.matrix (floor 3) imports dispatch (floor 4)"),
        ("engines.matrix", "from .. import ops", "engines.matrix (floor 3) imports ops (floor 5)"),
        ("ops", "from .pool import max_pool", "ops (floor 5) imports pool (floor 5)"),
        ("attic", "", "attic has no floor"),
        ("engines.attic", "", "engines.attic has no floor"),
        ("geometry.attic", "", "geometry.attic has no floor"),
    ],
)
def test_what_goes_up_is_reported(name: str, text: str, complaint: str) -> None:
    assert complaint in complaints({**modules(), name: text})
