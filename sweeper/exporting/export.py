"""Writes a trial as a folder that its user loads with plain transformers and PEFT, and holds it to its scores.

The folder appears whole or not at all, once it has been scored afresh (`parity.py`): weights in one of the formats, the
tokenizer with its chat template, a model card, the base's licence, and the manifest `sweeper.json` with the prompt, the
labels, the scores, and the sha256 of every file.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from sweeper import __version__
from sweeper.config.schema import ModelSection
from sweeper.config.teaching import CustomSection
from sweeper.custom import own
from sweeper.errors import ExportError
from sweeper.exporting import card, formats, gguf, licence, parity, staging
from sweeper.exporting.choosing import choose, kept_adapter
from sweeper.exporting.formats import ADAPTER, GGUF, MERGED_4BIT
from sweeper.exporting.fresh import Source
from sweeper.exporting.manifest import CODE, CONFIG, PREDICTIONS, add_hashes, write_manifest
from sweeper.exporting.parity import Parity, Weights
from sweeper.exporting.recorded import recorded
from sweeper.exporting.tokenizer import write_tokenizer
from sweeper.mistakes import kept
from sweeper.models import base, origin
from sweeper.models.source import source_of
from sweeper.paths import Home, write_atomically
from sweeper.preflight import disk
from sweeper.preflight.disk import Need
from sweeper.report import facts as study_facts
from sweeper.report.facts import Facts
from sweeper.search.running import idle
from sweeper.search.views import TrialView
from sweeper.units import MIB

TOKENIZER_BYTES = 32 * MIB  # more than the largest ones take
_VERSIONED = ("torch", "transformers", "peft", "bitsandbytes")
Announce = Callable[[str], None]


@dataclass(frozen=True)
class Wanted:
    """What is to be exported; `sweeper export --help` says what each is."""

    number: int | None = None
    metric: str | None = None
    form: str = ADAPTER
    force: bool = False
    has_parity: bool = True
    allows_drop: bool = False
    device: str = "auto"


def export(home: Home, study: str, folder: Path, wanted: Wanted, announce: Announce) -> dict[str, Any]:
    """Exports one trial, the winner by default.

    Returns:
        The manifest.

    Raises:
        ModelError: if the base is not the one that the study was begun with.
        ExportError: if there is nothing to export, or `folder` is in the way, or it does not answer as the trial did.
        StoreError: if there is no room for it, or the study runs while it is to be scored.
    """
    facts = study_facts.read(home, study)
    config, paths = facts.config, facts.paths
    trial = choose(facts.seen, config, wanted.number, wanted.metric, wanted.force)
    adapter = kept_adapter(facts.seen, config, paths, trial)
    folder = folder.expanduser().absolute()
    staging.check(folder, wanted.force)
    converter = gguf.converter() if wanted.form == GGUF else None
    known = recorded(facts, trial) if wanted.has_parity else None
    uses_device = wanted.has_parity or wanted.form != ADAPTER  # which its study would have at the same time
    with idle(paths) if uses_device else nullcontext(), staging.staged(folder, wanted.force) as temporary:
        _check_room(folder, facts, adapter, wanted.form)
        manifest = _manifest(facts, trial, wanted.form)
        weights = _write_weights(temporary, adapter, facts, trial, wanted, converter)
        chat = write_tokenizer(temporary, _section(facts), config.prompt, home)
        manifest["answer"] = {"end": chat.end, "lead": chat.lead}
        code = own.kept(config, paths.code) if isinstance(config.task, CustomSection) else None
        if code is not None:
            code.keep(temporary / CODE)
        found = None
        if known is not None:
            found = parity.check(_source(temporary, facts, wanted), wanted.form, known, weights, announce)
            _judge(found, wanted)
            manifest["parity"] = found.as_dict()
            kept.write(temporary / PREDICTIONS, known.judged(found.answers, has_texts=config.tracking.log_text))
        terms = licence.copy(temporary, _section(facts))
        add_hashes(temporary, manifest)
        write_atomically(temporary / card.FILE, card.text(facts, trial, manifest, terms), is_for_all=True)
        write_manifest(temporary, manifest)
    return manifest


def _judge(found: Parity, wanted: Wanted) -> None:
    if found.holds or wanted.allows_drop:
        return
    problems = "\n".join(f"  - {problem}" for problem in found.problems)
    raise ExportError(
        f"an export must answer as its trial did, but loaded afresh it does not, and nothing is written:\n{problems}\n"
        "--allow-drop writes it all the same, and says so in its card"
    )


def _manifest(facts: Facts, trial: TrialView, form: str) -> dict[str, Any]:
    config, seen, known = facts.config, facts.seen, origin.kept(facts.paths)
    test: dict[str, Any] = seen.attributes.get("test", {})
    second = test.get("runner_up") or {}
    of_test = {test.get("trial"): test.get("winner"), second.get("trial"): second.get("scores")}.get(trial.number)
    return {
        "sweeper": __version__,
        "format": form,
        "study": facts.name,
        "trial": trial.number,
        "is_winner": facts.best is not None and facts.best.number == trial.number,
        "examples": trial.examples_seen or 0,
        "params": trial.params,
        "model": origin.pinned(config.model, known).model_dump(mode="json"),
        "dtype": _dtype(facts),
        "base": known.as_dict() if known is not None else None,
        "prompt": config.prompt.model_dump(mode="json"),
        "task": config.task.model_dump(mode="json"),
        "long": config.data.long,
        "columns": config.data.columns.model_dump(mode="json"),
        "labels": seen.attributes["labels"],
        "data_sha256": seen.attributes["data_sha256"],
        "scores": {
            "validation": trial.metrics,
            "test": of_test,
            "test_rows": test["rows"] if of_test is not None else None,
        },
        "parity": None,
        "lora": config.trial_params(trial.params).model_dump(mode="json"),
        "reproduce": card.reproduce(facts),
        "versions": {name: version(name) for name in _VERSIONED},
    }


def _dtype(facts: Facts) -> str:
    """What the study computed in."""
    known = facts.seen.attributes.get("dtype")
    if known is not None:
        return str(known)
    return str(base.compute_dtype(facts.config.model, base.pick_device("auto"))).removeprefix("torch.")


def _section(facts: Facts) -> ModelSection:
    """The base that the study was begun with, computing in what it computed in."""
    section = origin.pinned(facts.config.model, origin.kept(facts.paths))
    return section.model_copy(update={"dtype": _dtype(facts)})


def _check_room(folder: Path, facts: Facts, adapter: Path, form: str) -> None:
    taken = sum(file.stat().st_size for file in adapter.iterdir()) + TOKENIZER_BYTES
    if form != ADAPTER:
        known = origin.kept(facts.paths)
        # A GGUF file and a 4-bit model are made of the merged one, which lies there meanwhile.
        taken += (known.size_bytes if known is not None else 0) * (1 if form == formats.MERGED else 2)
    disk.check(disk.rooms([Need(f"the export ({form})", folder.parent, taken, "export to another disk (--to)")]))


def _write_weights(
    folder: Path, adapter: Path, facts: Facts, trial: TrialView, wanted: Wanted, converter: str | None
) -> Weights | None:
    """Writes them in their format; returns what must be loaded, where the format keeps it as it is."""
    home, section, params = facts.paths.home, _section(facts), facts.config.trial_params(trial.params)
    if wanted.form == ADAPTER:
        shutil.copytree(adapter, folder, dirs_exist_ok=True)
        # Where the base is now: the store may have moved since the adapter was trained.
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        config["base_model_name_or_path"], config["revision"] = source_of(section, home), section.revision
        write_atomically(folder / CONFIG, json.dumps(config, indent=2))
        return Weights.of_adapter(adapter, params)
    from sweeper.exporting import merged

    whole = folder / ".merged" if wanted.form in (GGUF, MERGED_4BIT) else folder
    digests = merged.write(whole, adapter, params, section, home, wanted.device)
    if wanted.form == MERGED_4BIT:
        merged.quantise(whole, folder, section, wanted.device)
    elif converter is not None:
        write_tokenizer(whole, section, facts.config.prompt, home)
        gguf.convert(converter, whole, folder, facts.name)
    if whole == folder:
        return Weights(digests)
    shutil.rmtree(whole)
    return None


def _source(folder: Path, facts: Facts, wanted: Wanted) -> Source:
    """How whoever gets the folder loads it."""
    section, is_adapter = _section(facts), wanted.form == ADAPTER
    return Source(
        folder=str(folder),
        is_adapter=is_adapter,
        quant=section.quant if is_adapter else "none",
        dtype=section.dtype if is_adapter else "auto",
        gguf=gguf.file_name(facts.name) if wanted.form == GGUF else None,
        device=None if wanted.device == "auto" else wanted.device,
        trust_remote_code=section.trust_remote_code,
    )
