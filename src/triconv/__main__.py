"""The command `triconv`, which says what to install when its extra is missing."""

from __future__ import annotations

import sys
from importlib.util import find_spec

NEEDED = {"typer": "typer", "rich": "rich", "sklearn": "scikit-learn", "matplotlib": "matplotlib", "PIL": "pillow"}
NEEDED |= {"safetensors": "safetensors", "scipy": "scipy"}


def main() -> None:
    """Run the command line."""
    if missing := [package for module, package in NEEDED.items() if find_spec(module) is None]:
        sys.exit(f"triconv: the command needs {', '.join(missing)}: pip install 'triconv[train]'")
    from .cli import app

    app(prog_name="triconv")


if __name__ == "__main__":
    main()
