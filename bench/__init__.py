"""The benchmark of this repository: `python -m bench`, from its root. See README.md beside this file."""
