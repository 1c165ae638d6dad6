"""`sweeper data check`, and what a launch asks of the rows before anything is spent on them.

Reading, rendering and masking refuse rows that cannot be used; those refusals are findings like the others, and so is
everything said at once. With `data.allow` some of the others are errors no more.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from sweeper.config.schema import Config
from sweeper.config.teaching import LIFTABLE
from sweeper.custom import own
from sweeper.data import long, rows
from sweeper.data.example import Example
from sweeper.data.prompt import Conversations, Renderer, renderer
from sweeper.data.row import Row
from sweeper.data.rows import TaskData
from sweeper.errors import DataError, PromptError
from sweeper.models import origin
from sweeper.models.source import load_tokenizer
from sweeper.paths import Home, StudyPaths, write_atomically
from sweeper.preflight.data import alike, labels, lengths, texts
from sweeper.preflight.data.finding import Finding, Severity, allowed
from sweeper.preflight.data.lengths import SplitReport
from sweeper.quoting import name_of
from sweeper.retention import suite
from sweeper.search.views import begun

_TRIED_ROWS = 20  # rows that a template must not write the same for
Pieces = list[tuple[str, bool]]  # of a row as the model sees it: text, and whether the loss is on it


@dataclass(frozen=True)
class DataReport:
    """The rows of a study.

    Attributes:
        sha256: of all that is read of them; None where they cannot be read.
        labels: rows of each label of the training split, the commonest first; none where answers are written.
        findings: errors first.
        shown: the first training row as the model sees it; empty where none can be rendered.
    """

    study: str
    sha256: str | None = None
    splits: dict[str, SplitReport] = field(default_factory=dict)
    labels: dict[str, int] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    shown: Pieces = field(default_factory=list)

    @classmethod
    def unread(cls, study: str, error: DataError) -> DataReport:
        """Of rows that cannot be read."""
        return cls(study, findings=[Finding.raised(part) for part in error.parts or (error,)])

    def of(self, severity: Severity) -> list[Finding]:
        """The findings that are so bad."""
        return [finding for finding in self.findings if finding.severity is severity]

    def named_labels(self) -> dict[str, int]:
        """The labels as they may be said: one that is so long that it may be a text as its kind."""
        named: Counter[str] = Counter()
        for label, count in self.labels.items():
            named[name_of(label)] += count
        return dict(named)

    def as_dict(self) -> dict[str, Any]:
        return {**self.without_text(), "shown": self.shown}

    def without_text(self) -> dict[str, Any]:
        """What may leave the machine that the rows are on."""
        return {
            "study": self.study,
            "sha256": self.sha256,
            "splits": {split: asdict(report) for split, report in self.splits.items()},
            "labels": self.named_labels(),
            "findings": [finding.as_dict() for finding in self.findings],
        }


def check_data(config: Config, home: Home, is_launched: bool = True) -> DataReport:
    """Reads, renders and masks every row.

    Args:
        is_launched: whether a study of this name in the store is the one that is meant.

    Raises:
        ModelError, CustomCodeError: if the tokenizer or the study's own code cannot be had.
    """
    paths = home.study(config.study.name)
    section, kept = config.model, None
    if is_launched and begun(home, config.study.name) is not None:
        section, kept = origin.pinned(section, origin.of_study(section, paths)), paths.splits
    retention: list[tuple[str, str]] = []
    wrong: list[DataError] = []  # what is wrong with the suite hides nothing of the rows
    try:
        retention = suite.load(config.retention).texts()
    except DataError as error:
        wrong.append(error)
    try:
        data = rows.of(config, kept, own.load(config))
    except DataError as error:
        return DataReport.unread(config.study.name, DataError.joined([error, *wrong]))
    report = examine(config, data, load_tokenizer(section, home), retention)
    return replace(report, findings=[*map(Finding.raised, wrong), *report.findings])


def admit(config: Config, data: TaskData, retention: Sequence[tuple[str, str]], paths: StudyPaths) -> list[str]:
    """Checks the rows of a study that begins, and keeps what was found.

    Args:
        retention: the items of the suite that tells what a base has forgotten: their ids and texts.

    Returns:
        What a person should know, a line each.

    Raises:
        DataError: with everything that is wrong.
        ModelError: if the tokenizer cannot be had.
    """
    section = origin.pinned(config.model, origin.kept(paths))
    report = examine(config, data, load_tokenizer(section, paths.home), retention)
    if errors := report.of(Severity.ERROR):
        lift = [finding.code for finding in errors if finding.code in LIFTABLE]
        known = f". Where one is meant, data.allow=[{','.join(lift)}] goes on with it" if lift else ""
        raise DataError(
            f"the rows of {config.study.name!r} must be such that a search tells something, but "
            f"{len(errors)} {'thing is' if len(errors) == 1 else 'things are'} wrong with them:\n"
            + "\n".join(f"  - {finding}" for finding in errors)
            + f"\n`sweeper data check` with the same settings shows more{known}",
            code=errors[0].code,
        )
    write_atomically(paths.data, json.dumps(report.without_text(), indent=1))
    found = [*report.of(Severity.ALLOWED), *report.of(Severity.WARNING)]
    return [f"{finding.severity}: {finding}" for finding in found]


def examine(config: Config, data: TaskData, tokenizer: Any, retention: Sequence[tuple[str, str]]) -> DataReport:
    """Looks for everything that may be wrong with rows that could be read."""
    found = [*texts.findings(data), *alike.findings(data, retention), *labels.findings(config, data)]
    refused: list[Finding] = []
    splits = {split: SplitReport(len(getattr(data, split))) for split in rows.SPLITS}
    shown: Pieces = []
    try:
        rendered = renderer(config, tokenizer, data.labels)
        found += texts.doubled(data, rendered.chat, config.prompt.template)
        found += texts.missing(rendered.chat, config.prompt)
        measured = lengths.measure(rendered, data, config)
        splits, refused = measured.splits, measured.findings
        shown = _shown(rendered, measured.usable[:_TRIED_ROWS], config)
    except PromptError as error:
        refused = [*refused, Finding.raised(error)]
    found = [*allowed(found, config.data.allow, LIFTABLE), *refused]
    return DataReport(
        study=config.study.name,
        sha256=data.sha256,
        splits=splits,
        labels=data.label_counts,
        findings=sorted(found, key=lambda finding: list(Severity).index(finding.severity)),
        shown=shown,
    )


def _shown(rendered: Renderer | Conversations, usable: Sequence[Row], config: Config) -> Pieces:
    """The first row in pieces.

    Raises:
        PromptError: if the template writes the same for all of them.
    """
    if not usable:
        return []
    cut = config.data.long
    fitting = [row if cut in (long.BLOCK, long.DROP) else long.shorten(rendered, row, cut, False) for row in usable]
    return _pieces(rendered.examples(fitting)[0], rendered.tokenizer)


def _pieces(example: Example, tokenizer: Any) -> Pieces:
    supervised = [False] * len(example)
    for place in example.supervised:
        supervised[len(example.prompt) + place] = True
    pieces: list[tuple[list[int], bool]] = []
    for token, is_supervised in zip(example.tokens, supervised, strict=True):
        if not pieces or pieces[-1][1] != is_supervised:
            pieces.append(([], is_supervised))
        pieces[-1][0].append(token)
    return [(str(tokenizer.decode(tokens)), is_supervised) for tokens, is_supervised in pieces]
