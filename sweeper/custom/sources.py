"""The modules of a study's own code: which files they are, their hash, and the copy that the study keeps.

What counts is the module that is named and whatever of the same folder it imports, at whatever place of it. A module
that is installed under the same name as a file of the folder is the one that is imported, so that a `datasets.py` of
the user's is never taken for the library; to name such a file in the configuration is refused.
"""

from __future__ import annotations

import ast
import hashlib
import os
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.machinery import PathFinder
from importlib.util import find_spec, resolve_name
from pathlib import Path

from sweeper.errors import ConfigError, StoreError

HASH = "sha256"  # the file in a copy with the hash of all that was found, what is installed included


def kept_sha256(copy: Path) -> str | None:
    """The hash of the code that a study keeps; None where it keeps none."""
    try:
        return (copy / HASH).read_text(encoding="utf-8")
    except OSError:
        return None


@dataclass(frozen=True)
class Sources:
    """What a study's own code consists of.

    Attributes:
        folder: where the files are said to lie, in traces and to themselves.
        files: what each has, by its path in the folder.
        installed: what the modules have that are named, but lie in an installed package, by their names.
    """

    folder: Path = Path()
    files: Mapping[str, bytes] = field(default_factory=dict)
    installed: Mapping[str, bytes] = field(default_factory=dict)

    @classmethod
    def of(cls, folder: Path | None, targets: Mapping[str, str]) -> Sources:
        """Finds the modules of targets (`MODULE.NAME`), each by the key of the configuration that names it.

        Raises:
            ConfigError: for a module that is not there, or has the name of an installed one.
        """
        files: dict[str, bytes] = {}
        installed: dict[str, bytes] = {}
        for key, target in targets.items():
            module = target.rpartition(".")[0]
            if folder is not None and _file_of(folder, module.partition(".")[0]) is not None:
                _refuse_shadow(folder, key, module)
                files |= _reached(folder, module)
                if _file_of(folder, module) is not None:
                    continue
            elif (file := _installed_file(module)) is not None:
                installed[module] = file.read_bytes()
                continue
            raise ConfigError(
                f"{key}: the module of {target!r} must lie in the study's folder or be installed, but there is no "
                f"{module} in {_words(folder)}, nor is it installed"
            )
        return cls(folder or Path(), files, installed)

    @classmethod
    def kept(cls, copy: Path, folder: Path | None, targets: Mapping[str, str]) -> Sources:
        """Reads a copy.

        Args:
            folder: where the files lay that it was made of; None: where the copy is.

        Raises:
            StoreError: if it is gone.
        """
        files = {file.relative_to(copy).as_posix(): file.read_bytes() for file in sorted(copy.rglob("*.py"))}
        installed: dict[str, bytes] = {}
        for module in {target.rpartition(".")[0] for target in targets.values()}:
            if files.keys().isdisjoint(module_paths(module)):
                file = _installed_file(module)
                if file is None:
                    raise StoreError(f"the study's own code is kept in {copy}, but {module} is not there")
                installed[module] = file.read_bytes()
        return cls(folder or copy, files, installed)

    @property
    def sha256(self) -> str:
        """A hash over all of it; where the folder lies does not matter."""
        digest = hashlib.sha256()
        for name, text in [*sorted(self.files.items()), *sorted(self.installed.items())]:
            digest.update(f"{name}\0{len(text)}\0".encode() + text)
        return digest.hexdigest()

    def keep(self, copy: Path) -> None:
        """Makes the copy of a study, whole, in place of an earlier one; an installed package is not copied."""
        whole = copy.with_name(f".{copy.name}.tmp")
        if whole.is_dir():
            shutil.rmtree(whole)
        whole.mkdir()
        for name, text in self.files.items():
            file = whole / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(text)
        (whole / HASH).write_text(self.sha256, encoding="utf-8")
        if copy.is_dir():
            shutil.rmtree(copy)
        os.replace(whole, copy)


def module_paths(module: str) -> tuple[str, str]:
    """Where a module may lie in a folder: as a file, or as a package."""
    path = module.replace(".", "/")
    return f"{path}.py", f"{path}/__init__.py"


def is_installed(name: str, folder: Path) -> bool:
    """Whether there is a top-level module of that name without the study's folder, where one may stand just now."""
    if name in sys.builtin_module_names or name in sys.stdlib_module_names:
        return True
    elsewhere = [entry for entry in sys.path if Path(entry).resolve() != folder.resolve()]
    return PathFinder.find_spec(name, elsewhere) is not None


def _file_of(folder: Path, module: str) -> Path | None:
    return next((file for path in module_paths(module) if (file := folder / path).is_file()), None)


def _installed_file(module: str) -> Path | None:
    try:
        spec = find_spec(module)
    except ImportError:  # of the package that it would lie in
        return None
    return Path(spec.origin) if spec is not None and spec.origin is not None and spec.has_location else None


def _refuse_shadow(folder: Path, key: str, module: str) -> None:
    name = module.partition(".")[0]
    if is_installed(name, folder):
        raise ConfigError(
            f"{key}: a module of the study's folder must not have the name of an installed one, which libraries "
            f"import, but {_file_of(folder, name)} has that of `{name}`; rename it"
        )


def _reached(folder: Path, module: str) -> dict[str, bytes]:
    """The files of a module and of all that it imports from the folder."""
    files: dict[str, bytes] = {}
    pending, seen = [module], set()
    while pending:
        name = pending.pop()
        if name in seen or is_installed(name.partition(".")[0], folder):
            continue
        seen.add(name)
        package = name.rpartition(".")[0]
        if package:
            pending.append(package)  # is imported first
        file = _file_of(folder, name)
        if file is not None:
            files[file.relative_to(folder).as_posix()] = text = file.read_bytes()
            pending += _imports(text, name if file.name == "__init__.py" else package)
    return files


def _imports(text: bytes, package: str) -> Iterator[str]:
    """The names of all modules that a source may import, also in its functions."""
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError):  # is said with its line when it is imported
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            try:
                base = resolve_name("." * node.level + (node.module or ""), package)
            except ImportError:  # beyond the top: fails when it is imported
                continue
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


def _words(folder: Path | None) -> str:
    if folder is None:
        return "study.folder, which is null (launch with study=/own/folder, or set it)"
    found: Sequence[str] = sorted(file.name for file in folder.glob("*.py"))
    return f"{folder} ({', '.join(found) or 'it has no Python files'})"
