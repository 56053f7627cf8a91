"""Prints the lowest versions that pyproject.toml allows, as pip's constraints.

    python tests/oldest.py > oldest.txt && pip install --constraint oldest.txt --editable .

For ``make test-oldest``; needs the standard library alone, since it runs before anything is installed.
"""

import re
import tomllib
from pathlib import Path


def lowest_versions(pyproject: Path) -> list[str]:
    """NAME==VERSION of each dependency, in their order; ValueError for one without a lower bound."""
    pins = {}
    for line in tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]["dependencies"]:
        found = re.match(r"([A-Za-z0-9._-]+)>=([0-9.]+)\s*(?:;|$)", line)
        if found is None:
            raise ValueError(f"pyproject.toml: {line!r} has no lower bound of the form NAME>=VERSION")
        pins[found[1]] = found[2]
    return [f"{name}=={version}" for name, version in pins.items()]


if __name__ == "__main__":
    print("\n".join(lowest_versions(Path(__file__).parents[1] / "pyproject.toml")))
