"""What an exported folder says of itself, in one of three formats.

`adapter` has an adapter, which is used over the base that the study had. `merged` and `merged-4bit` are models of their
own, with the adapter in their weights: of 16 bits, or quantised as their config.json says. Files that somebody adds to
a folder, such as a README.md, are nobody's business here.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from sweeper.config.schema import ModelSection
from sweeper.config.teaching import ColumnsSection, PromptSection, TaskSection
from sweeper.errors import ExportError, unknown
from sweeper.exporting.formats import ADAPTER, FORMATS
from sweeper.exporting.manifest import MANIFEST, check_files, check_use, read_manifest
from sweeper.models import origin
from sweeper.models.origin import Origin
from sweeper.trial import TrialParams


@dataclass(frozen=True)
class Exported:
    """A folder whose files are as they were exported.

    Attributes:
        format: one of `sweeper.exporting.formats.FORMATS`.
        model: the section of the study.
        known: the base that the study had; None in exports from before that was kept.
        long: `data.long` of the study.
    """

    folder: Path
    format: str
    model: ModelSection
    known: Origin | None
    params: TrialParams
    prompt: PromptSection
    task: Any
    columns: ColumnsSection
    labels: list[str]
    long: str

    @classmethod
    def read(cls, folder: Path, trusts_code: bool) -> Exported:
        """Reads a folder's manifest, and checks the files that it names.

        Args:
            trusts_code: whether code of the model's repository may run.

        Raises:
            ExportError: if the folder is no export, is not as it was exported, or has a format that is not known.
        """
        manifest = read_manifest(folder)
        check_use(folder, manifest, trusts_code)
        check_files(folder, manifest)
        try:
            found = cls(
                folder=folder,
                format=manifest["format"],
                model=ModelSection.model_validate(manifest["model"]),
                known=Origin(**manifest["base"]) if manifest.get("base") else None,
                params=TrialParams.model_validate({"replay": 0.0, **manifest["lora"]}),  # older ones lack it
                prompt=PromptSection.model_validate(manifest["prompt"]),
                task=TypeAdapter(TaskSection).validate_python(manifest["task"]),
                columns=ColumnsSection.model_validate(manifest["columns"]),
                labels=manifest["labels"],
                long=str(manifest["long"]),
            )
        except (AttributeError, KeyError, ValueError, TypeError, OSError) as error:
            raise not_whole(folder, error) from error
        if found.format not in FORMATS:
            problem = unknown("format", str(found.format), FORMATS)
            raise ExportError(f"{folder / MANIFEST}: {problem}. Use the sweeper that wrote it, or a newer one")
        return found

    @property
    def has_adapter(self) -> bool:
        return self.format == ADAPTER

    def base(self) -> ModelSection:
        """The section that loads what answers: the base that the study had, or the folder itself.

        Raises:
            ModelError: if that base is not what it was.
        """
        if self.has_adapter:
            return origin.pinned(self.model, self.known)
        itself = {"path": str(self.folder.resolve()), "revision": None, "gguf_package": None, "quant": "none"}
        return self.model.model_copy(update=itself)  # as its own config.json says, it may be quantised all the same


def not_whole(folder: Path, error: Exception) -> ExportError:
    """What is said of a folder in which something is missing or broken."""
    return ExportError(f"{folder} is not a whole export ({error}); export it again")
