"""`make gpu-bundle`: the wheels that a CUDA machine without a network may lack, for `make gpu-check` there.

torch, transformers, peft and pytest are taken to be there. bitsandbytes is trimmed to the library of one CUDA version.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
LIMIT_BYTES = 56 * 1024**2
NEEDED = (
    "accelerate",
    "alembic",
    "annotated-types",
    "antlr4-python3-runtime",
    "bitsandbytes",
    "click",
    "colorlog",
    "filelock",
    "hydra-core",
    "hypothesis",
    "jinja2",
    "mako",
    "markdown-it-py",
    "markupsafe",
    "mdurl",
    "nvidia-ml-py",
    "omegaconf",
    "optuna",
    "packaging",
    "psutil",
    "pydantic",
    "pydantic-core",
    "pygments",
    "pytest-timeout",
    "pyyaml",
    "rich",
    "scipy",
    "sortedcontainers",
    "sqlalchemy",
    "tqdm",
    "typing-extensions",
    "typing-inspection",
)
FROM_SOURCE = ("antlr4-python3-runtime",)  # there is no wheel of it; it is pure Python


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--to", type=Path, default=ROOT / "gpu-bundle")
    parser.add_argument("--python", default="3.12", help="the Python of the CUDA machine")
    parser.add_argument("--cuda", default="130", help="the CUDA version of the machine's torch, as 130 for 13.0")
    arguments = parser.parse_args()
    folder: Path = arguments.to
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    pins = dict(re.findall(r"^([A-Za-z0-9._-]+)==(\S+)$", (ROOT / "constraints.txt").read_text("utf-8"), re.MULTILINE))
    pins = {re.sub(r"[._]", "-", name.lower()): version for name, version in pins.items()}
    missing = [name for name in NEEDED if name not in pins]
    if missing:
        print(f"error: constraints.txt must pin what the bundle holds, but lacks {', '.join(missing)}", file=sys.stderr)
        return 2
    _pip("wheel", "--no-deps", "--wheel-dir", folder, *(f"{name}=={pins[name]}" for name in FROM_SOURCE))
    wanted = [f"{name}=={pins[name]}" for name in NEEDED if name not in FROM_SOURCE]
    # pip matches a platform tag exactly: the versions of glibc that these wheels are built for.
    platforms = [f"--platform=manylinux_2_{minor}_x86_64" for minor in (39, 34, 28, 24, 17, 12, 5)]
    platforms += ["--platform=manylinux2014_x86_64", "--platform=manylinux1_x86_64"]
    _pip(
        *("download", "--no-deps", "--only-binary=:all:", f"--python-version={arguments.python}"),
        *("--implementation=cp", *platforms, "--dest", folder, *wanted),
    )
    for wheel in folder.glob("bitsandbytes-*.whl"):
        trim(wheel, arguments.cuda)
    size = sum(file.stat().st_size for file in folder.iterdir())
    print(f"{folder}: {len(list(folder.iterdir()))} wheels, {size / 1024**2:.1f} MB")
    if size > LIMIT_BYTES:
        print(f"error: the bundle must be at most {LIMIT_BYTES / 1024**2:.0f} MB", file=sys.stderr)
        return 1
    return 0


def trim(wheel: Path, cuda: str) -> None:
    """Rewrites a bitsandbytes wheel without the libraries of other CUDA versions.

    Raises:
        SystemExit: if it has none for `cuda`.
    """
    library = re.compile(r"libbitsandbytes_\w+\.so$")
    kept = f"libbitsandbytes_cuda{cuda}.so"
    temporary = wheel.with_suffix(".trimmed")
    with zipfile.ZipFile(wheel) as old:
        names = [name for name in old.namelist() if not library.search(name) or name.endswith(kept)]
        if not any(name.endswith(kept) for name in names):
            there = sorted(Path(name).name for name in old.namelist() if library.search(name))
            raise SystemExit(f"error: bitsandbytes has no {kept}; there are {', '.join(there)}")
        with zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as new:
            for name in names:
                content = old.read(name)
                if name.endswith(".dist-info/RECORD"):
                    lines = content.decode().splitlines(keepends=True)
                    content = "".join(line for line in lines if line.split(",")[0] in names).encode()
                new.writestr(name, content)
    temporary.replace(wheel)


def _pip(*arguments: object) -> None:
    subprocess.run([sys.executable, "-m", "pip", *map(str, arguments), "--quiet"], check=True)


if __name__ == "__main__":
    sys.exit(main())
