"""What the README and the examples show runs, and shows what they say."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def run(*arguments: str) -> str:
    done = subprocess.run([sys.executable, "-W", "error", *arguments], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_start_is_one_block_of_two_lines() -> None:
    start = README.split("## Start")[1].split("\n## ")[0]
    blocks = re.findall(r"```sh\n(.*?)```", start, re.DOTALL)
    assert len(blocks) == 1
    assert blocks[0].splitlines() == [
        "pip install '.[train]' && triconv train",
        "pip install -e '.[test]' && pytest -n 2 --dist worksteal",
    ]


def test_the_readmes_examples_run() -> None:
    in_numpy, in_torch = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert "conv_transpose, float64" in run("-c", in_numpy)
    assert run("-c", in_torch) == "torch.Size([4, 3, 33, 33])\nchanged 1 convolution\n"
    for code in (in_numpy, in_torch):
        assert len([line for line in code.splitlines() if line and not line.startswith(("import", "from"))]) <= 10


def test_links_of_the_readme_lead_somewhere() -> None:
    links = re.findall(r"\]\(([^)]+)\)", README)
    assert links
    for link in links:
        assert (ROOT / link).exists(), link


def test_every_module_of_the_package_is_in_the_table_of_floors() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    package = ROOT / "src" / "triconv"
    names = {path.stem for path in package.glob("*.py")} | {
        path.parent.name + "/" for path in package.glob("*/__init__.py")
    }
    for name in names - {"__init__"}:
        assert f"`{name}`" in text, name


@pytest.mark.parametrize(
    ("name", "patterns"),
    [
        ("gradients", [r"∂conv / ∂v +\= conv_transpose\(conv\(v, w\), w\)", r"∂²conv_weight / ∂h² +\= conv\(u1_v, "]),
        ("locally_connected", [r"shared .* error [1-9]\.\de-02", r"tiled, .* error \d\.\de-(0[4-9]|[1-9]\d)"]),
        ("true_convolution", [r"it commutes, in three dimensions: \(11, 8, 8\)"]),
    ],
)
def test_examples(name: str, patterns: list[str]) -> None:
    printed = run(f"examples/{name}.py")
    for pattern in patterns:
        assert re.search(pattern, printed), printed


def test_no_example_is_left_out() -> None:
    assert {path.stem for path in (ROOT / "examples").glob("*.py")} == {
        "gradients",
        "locally_connected",
        "true_convolution",
    }
