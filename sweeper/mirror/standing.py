"""How far the mirror of a study's folder is, by what is kept in that folder."""

from __future__ import annotations

import json
import uuid
from dataclasses import asdict, dataclass

from sweeper.errors import StoreError
from sweeper.mirror.manifest import Manifest
from sweeper.paths import StudyPaths, write_atomically


@dataclass(frozen=True)
class Standing:
    """The generation that a folder is at.

    Attributes:
        writer: the id under which it writes; another folder that went on from its copy has the same.
        generation, token: of the last copy that was made of it, or of the one that it was restored from.
        is_restoring: it has not come back whole yet.
    """

    writer: str
    generation: int = 0
    token: str = ""
    is_restoring: bool = False

    @classmethod
    def of(cls, paths: StudyPaths) -> Standing:
        """That of a study's folder; a new one where it has had no mirror.

        Raises:
            StoreError: if its file cannot be read.
        """
        try:
            return cls(**json.loads(paths.mirror.read_text(encoding="utf-8")))
        except FileNotFoundError:
            return cls(uuid.uuid4().hex)
        except (OSError, ValueError, TypeError) as error:
            raise StoreError(
                f"{paths.mirror} must say how far the study's mirror is, but it cannot be read: {error}; where nothing "
                "of the study has run elsewhere, delete it, and give store.mirror an empty place"
            ) from error

    @classmethod
    def at(cls, manifest: Manifest) -> Standing:
        """That of a folder which comes back as of a generation."""
        return cls(manifest.writer, manifest.generation, manifest.token)

    def next(self) -> Standing:
        return Standing(self.writer, self.generation + 1, uuid.uuid4().hex)

    def is_behind(self, manifest: Manifest) -> bool:
        """Whether a generation is none of this folder's past: another folder went on from the same."""
        return manifest.generation >= self.generation and manifest.token != self.token

    def keep(self, paths: StudyPaths) -> None:
        write_atomically(paths.mirror, json.dumps(asdict(self), indent=1))
