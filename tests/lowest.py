"""The lowest versions that pyproject.toml allows: their environment, for `make test-lowest`.

torch alone is the one of constraints.txt: 2.11, its lowest, was run on CUDA (tests/gpu/results).
"""

from __future__ import annotations

import argparse
import tomllib
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]


def lowest(requirements: list[str]) -> list[str]:
    """Each at its lower bound; what has none is left out."""
    found = []
    for requirement in map(Requirement, requirements):
        bounds = [one.version for one in requirement.specifier if one.operator in (">=", "~=")]
        if bounds and requirement.name != "torch":
            found.append(f"{requirement.name}=={bounds[0]}")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--to", type=Path, required=True, help="the constraints that are written")
    arguments = parser.parse_args()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    pinned = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line.startswith("torch==")]
    arguments.to.write_text("\n".join([*lowest(project["dependencies"]), *pinned]) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
