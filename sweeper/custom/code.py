"""Imports a study's own modules and calls into them; what they raise is said with their own lines.

They are imported from their sources as these were found or kept, under their own names, and only while one of them is
imported or called: outside of that neither `sys.path` nor `sys.modules` knows of them.
"""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import MetaPathFinder, SourceLoader
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_file_location
from pathlib import Path
from traceback import StackSummary, TracebackException
from types import ModuleType
from typing import Any, TypeVar

from sweeper.custom.sources import Sources, is_installed, module_paths
from sweeper.errors import CustomCodeError, unknown
from sweeper.quoting import without_texts

Result = TypeVar("Result")
CURE = "Mend it, and run the same command again"


class _Loader(SourceLoader):
    """Loads modules from sources that are in memory; no bytecode is written."""

    def __init__(self, sources: Sources) -> None:
        self._sources = sources
        self.loaded: set[str] = set()

    def path(self, module: str) -> str | None:
        """The file of a module, relative to the folder."""
        return next((path for path in module_paths(module) if path in self._sources.files), None)

    def is_elsewhere(self, module: str) -> bool:
        """Whether an installed package has the module."""
        return is_installed(module.partition(".")[0], self._sources.folder)

    def get_filename(self, fullname: str) -> str:
        return str(self._sources.folder / str(self.path(fullname)))

    def get_data(self, path: str | bytes) -> bytes:
        return self._sources.files[Path(str(path)).relative_to(self._sources.folder).as_posix()]

    def exec_module(self, module: ModuleType) -> None:
        self.loaded.add(module.__name__)
        super().exec_module(module)


class _Finder(MetaPathFinder):
    def __init__(self, loader: _Loader) -> None:
        self._loader = loader

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> Any:
        if self._loader.path(fullname) is None or self._loader.is_elsewhere(fullname):
            return None
        found: ModuleSpec | None = spec_from_file_location(
            fullname, self._loader.get_filename(fullname), loader=self._loader
        )
        return found


class Code:
    """The modules of one study, imported as they are needed."""

    def __init__(self, sources: Sources) -> None:
        self._sources = sources
        self._loader = _Loader(sources)
        self._modules: dict[str, ModuleType] = {}

    def find(self, target: str) -> Any:
        """What `MODULE.NAME` names.

        Raises:
            CustomCodeError: if its module cannot be imported, or has no such name.
        """
        module, _, name = target.rpartition(".")
        found = self.call(f"`{module}` could not be imported", importlib.import_module, module)
        if not hasattr(found, name):
            there = [known for known in vars(found) if not known.startswith("_")]
            raise CustomCodeError(f"{found.__file__}: {unknown('name', name, there)}")
        return getattr(found, name)

    def call(self, failing: str, function: Callable[..., Result], *arguments: Any, **named: Any) -> Result:
        """Calls a function of the user's.

        Args:
            failing: what is said of it where it raises.

        Raises:
            CustomCodeError: with the trace of what it raised.
        """
        with self._importable():
            try:
                return function(*arguments, **named)
            except (Exception, SystemExit) as error:  # the user's code may raise anything
                raise CustomCodeError(f"{failing}:\n{self._trace(error, [arguments, named])}\n{CURE}") from error

    @contextmanager
    def _importable(self) -> Iterator[None]:
        finder = _Finder(self._loader)
        sys.meta_path.insert(0, finder)
        sys.modules.update(self._modules)
        try:
            yield
        finally:
            sys.meta_path.remove(finder)
            found = {name: sys.modules.pop(name, None) for name in self._loader.loaded}
            self._modules = {name: module for name, module in found.items() if module is not None}

    def _trace(self, error: BaseException, texts: Any) -> str:
        """What Python prints of an exception, of the user's own files alone, and without the texts of rows."""
        whole = TracebackException.from_exception(error)
        self._cut(whole)
        trace = "".join(whole.format()).rstrip().removeprefix("Traceback (most recent call last):\n")
        chained: BaseException | None = error
        while chained is not None:
            if str(chained):
                trace = trace.replace(str(chained), without_texts(chained, texts))
            chained = chained.__cause__ or chained.__context__
        return trace

    def _cut(self, trace: TracebackException | None) -> None:
        if trace is None:
            return
        own = {str(self._sources.folder / path) for path in self._sources.files}
        own |= {str(getattr(sys.modules.get(module), "__file__", None)) for module in self._sources.installed}
        trace.stack = StackSummary.from_list([frame for frame in trace.stack if frame.filename in own])
        self._cut(trace.__cause__)
        self._cut(trace.__context__)


def place(found: Any) -> str:
    """Where a function or class of the user's begins."""
    try:
        return f'File "{inspect.getsourcefile(found)}", line {inspect.getsourcelines(found)[1]}'
    except (OSError, TypeError):  # its file is gone, or it has none
        return f"{getattr(found, '__module__', '?')}.{getattr(found, '__qualname__', '?')}"
