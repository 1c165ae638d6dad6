"""`sweeper export`: what it says while it exports, and of what it has exported."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from sweeper.errors import TrackingError
from sweeper.exporting import snippets
from sweeper.exporting.export import Wanted
from sweeper.exporting.export import export as export_trial
from sweeper.exporting.formats import ADAPTER
from sweeper.paths import Home
from sweeper.report.sentences import plus_minus, score


def run(home: Home, study: str, folder: Path, as_json: bool, asked: dict[str, Any]) -> None:
    """Exports, says what was found, and registers a winner that holds.

    Args:
        asked: the command's options.
    """

    def announce(line: str) -> None:
        click.echo(line, err=as_json)

    if asked["number"] is not None and asked["metric"] is not None:
        raise click.UsageError("--metric chooses a trial, and so does --trial: give one of them")
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", asked["device"]):
        raise click.UsageError(f"--device must be auto, cpu or cuda:N, but got {asked['device']}")
    wanted = Wanted(
        number=asked["number"],
        metric=asked["metric"],
        form=asked["form"],
        force=asked["force"],
        has_parity=not asked["skips_parity"],
        allows_drop=asked["allows_drop"],
        device=asked["device"],
    )
    manifest = export_trial(home, study, folder, wanted, announce)
    version = _record(home, folder, manifest, asked, announce)
    if as_json:
        place = str(folder.expanduser().absolute())
        click.echo(json.dumps({"study": study, "folder": place, "model_version": version, **manifest}, indent=2))
    else:
        _say(study, folder, manifest)


def _record(
    home: Home, folder: Path, manifest: dict[str, Any], asked: dict[str, Any], announce: Callable[[str], None]
) -> str | None:
    """Logs what the check found, and registers a winner that answers as it should; returns the version."""
    name = asked["register_as"] or (manifest["study"] if manifest["is_winner"] else None)
    problem = _not_registered(manifest, name)
    if asked["skips_register"] or problem is not None:
        if problem is not None and (asked["register_as"] or manifest["is_winner"] or name is None):
            announce(f"not registered as a champion: {problem}")
        name = None
    if manifest["parity"] is None:
        return None
    from sweeper.exporting import champion

    try:
        return champion.record(
            home, folder.expanduser().absolute(), manifest, name, announce, is_named=bool(asked["register_as"])
        )
    except TrackingError as error:  # what was exported is there all the same
        announce(f"warning: not in MLflow: {error}. Exported again with --force, it is, once that answers")
        return None


def _not_registered(manifest: dict[str, Any], name: str | None) -> str | None:
    """Why an export does not become a champion, in words."""
    if manifest["format"] != ADAPTER:
        return "--format adapter makes one, without the base"
    if manifest["parity"] is None:
        return "it was not scored (--no-parity)"
    if not manifest["parity"]["holds"]:
        return "it does not answer as its trial did"
    if manifest["task"]["name"] == "custom":
        return "its prompts are written by the study's own code, which MLflow does not run"
    return "it is not the winner; --register-as NAME makes it one of that name" if name is None else None


def _say(study: str, folder: Path, manifest: dict[str, Any]) -> None:
    click.echo(f"trial {manifest['trial']} of {study} is in {folder} ({manifest['format']})")
    for split in ("validation", "test"):
        if scores := manifest["scores"][split]:
            names = [name for name in scores if not name.endswith("_se")]
            click.echo(f"{split}: " + ", ".join(f"{name} {plus_minus(scores, name)}" for name in names))
    for line in parity_lines(manifest["parity"]):
        click.echo(line)
    click.echo(f"try it: {snippets.try_it(manifest, str(folder))}")


def parity_lines(found: dict[str, Any] | None) -> list[str]:
    """What came of the check, in words."""
    if found is None:
        return ["not scored as exported (--no-parity)"]
    metric = found["metric"]
    lines = [
        f"scored as exported, {found['rows']:,} {found['split']} rows: {metric} {score(found['exported'])}, recorded "
        f"{score(found['recorded'])}; {found['same']:,} answers the same"
        + (f", probabilities moved by {found['moved']:.4f}" if found["moved"] is not None else "")
    ]
    if (kept := found["retention"]) is not None:
        recorded = f", recorded {kept['recorded']:.3f}" if kept["recorded"] is not None else ""
        lines.append(f"retention as exported: a drop of {kept['drop']:.3f} in {kept['kind']}{recorded}")
    lines += [
        f"{way['way']}, {way['rows']:,} rows: {metric} {score(way['value'])} instead of {score(way['recorded'])}, "
        f"{way['same']:,} answers the same"
        for way in found["served"]
    ]
    return lines + [f"warning: {problem}" for problem in found["problems"]]
