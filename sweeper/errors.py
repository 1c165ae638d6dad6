"""Every error that sweeper raises on purpose.

    SweeperError
    ├── ConfigError     a value, key or combination in the configuration
    ├── DataError       a file, row or label
    ├── PromptError     a row that cannot be rendered, masked or fitted
    ├── ModelError      a base that cannot be found, loaded or adapted
    ├── StoreError      the store: not writable, no such study or trial
    │   ├── HeldError       a study that another launcher or worker runs
    │   ├── LeaseLostError  a trial that another worker has taken over
    │   ├── MirrorError     a mirror that cannot be reached, is another study's, or is further than the study here
    │   ├── DiskFullError   a disk that has no room for what a study writes; its trials are in the queue
    │   └── TrackingError   a tracking server that cannot be reached, or does not do what is asked of it
    │       └── AwayError       one that may do it a little later
    ├── OutOfRoomError  a step that does not fit into memory, however it is cut
    ├── CheckpointError a trial's checkpoint that is damaged, or does not fit on the disk
    ├── CustomCodeError a study's own task or metric raised, or is not what it must be; has its trace
    ├── WorkerError     the worker process ended without a result
    └── ExportError     an adapter that cannot be written or read back

A message says the rule, the value that broke it, where, and what to do. The command line prints
it without a traceback and exits with 2; anything else that escapes is a defect and keeps its
traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


class SweeperError(Exception):
    """The root of the tree; never raised itself."""


class ConfigError(SweeperError):
    """One or more problems in the configuration, all of them in one message."""

    def __init__(self, problems: str | list[str]) -> None:
        self.problems = [problems] if isinstance(problems, str) else problems
        count = len(self.problems)
        head = f"{count} problem{'s' if count != 1 else ''} in the configuration:\n"
        super().__init__(head + "\n".join(f"  - {problem}" for problem in self.problems))


class DataError(SweeperError):
    """A data file, row or label is not usable.

    Attributes:
        code: what is wrong, as `sweeper data check` names it.
        parts: the errors that this one is made of, where there is more than one.
    """

    code = "unreadable"
    parts: tuple[DataError, ...] = ()

    def __init__(self, message: str, code: str = code) -> None:
        super().__init__(message)
        self.code = code

    @classmethod
    def joined(cls, errors: Sequence[DataError]) -> DataError:
        """Several errors in one message, each once; a single one as it is."""
        errors = list({str(error): error for error in errors}.values())
        if len(errors) == 1:
            return errors[0]
        made = cls(f"{len(errors)} problems with the rows:\n" + "\n".join(f"  - {error}" for error in errors))
        made.parts = tuple(part for error in errors for part in error.parts or (error,))
        return made


class PromptError(SweeperError):
    """A row cannot be rendered, masked or fitted into the token limit.

    Attributes:
        code: what is wrong, as `sweeper data check` names it.
    """

    code = "prompt"

    def __init__(self, message: str, code: str = code) -> None:
        super().__init__(message)
        self.code = code


class ModelError(SweeperError):
    """The base model cannot be found, loaded or adapted."""


class StoreError(SweeperError):
    """The store is not usable, is held by another process, or lacks what was asked for."""


class HeldError(StoreError):
    """Another process runs the study."""


class LeaseLostError(StoreError):
    """Another worker has taken a trial over; it is no longer this worker's to tell."""


class MirrorError(StoreError):
    """A study's mirror cannot be reached, is another study's, or is further than the study here."""


class TrackingError(StoreError):
    """A tracking server cannot be reached, refuses, or does not do what is asked of it."""


class AwayError(TrackingError):
    """A tracking server, or the store's own database, does not answer now."""


class DiskFullError(StoreError):
    """The disk has no room for what is to be written."""


class OutOfRoomError(SweeperError):
    """A step does not fit into memory, however it is cut."""


class CheckpointError(SweeperError):
    """A trial's checkpoint is damaged, or does not fit."""


class CustomCodeError(SweeperError):
    """A study's own task or metric raised an exception, or is not what it must be."""


class WorkerError(SweeperError):
    """The worker process ended without a result."""


class ExportError(SweeperError):
    """An adapter cannot be exported or read back."""


ERRORS = {
    kind.__name__: kind
    for kind in (
        ConfigError,
        DataError,
        PromptError,
        ModelError,
        StoreError,
        HeldError,
        LeaseLostError,
        MirrorError,
        DiskFullError,
        TrackingError,
        AwayError,
        OutOfRoomError,
        CheckpointError,
        CustomCodeError,
        WorkerError,
        ExportError,
    )
}


def remade(kind: str, message: str) -> SweeperError:
    """An error that another process has raised, with the message that it has there; a WorkerError if it is not ours."""
    known = ERRORS.get(kind, WorkerError)
    error = known.__new__(known)
    Exception.__init__(error, message)  # which is whole already
    if isinstance(error, ConfigError):
        error.problems = [message]
    return error


def unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """Words for a name that is not known: lists the known ones and the nearest of them."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1)
    hint = f"; did you mean `{near[0]}`?" if near else "."
    listed = ", ".join(f"`{one}`" if "," in one else one for one in names)  # such as a column's name
    return f"unknown {kind} `{name}`{hint} Known: {listed or 'none'}"


def number_of(count: int, one: str, many: str) -> str:
    """A number with its words: `1 row has`, `2 rows have`."""
    return f"{count} {one if count == 1 else many}"
