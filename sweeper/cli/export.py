"""`sweeper export`: what it says while it exports, and of what it has exported."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from sweeper.export.export import Wanted
from sweeper.export.export import export as export_trial
from sweeper.export.formats import ADAPTER
from sweeper.paths import Home
from sweeper.report.sentences import plus_minus, score


def run(home: Home, study: str, folder: Path, as_json: bool, asked: dict[str, Any]) -> None:
    """Exports, says what was found, and registers a winner that holds.

    Args:
        asked: the command's options.
    """

    def announce(line: str) -> None:
        click.echo(line, err=as_json)

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
        click.echo(
            json.dumps(
                {"study": study, "folder": str(folder.absolute()), "model_version": version, **manifest}, indent=2
            )
        )
    else:
        _say(study, folder, manifest)


def _record(
    home: Home, folder: Path, manifest: dict[str, Any], asked: dict[str, Any], announce: Callable[[str], None]
) -> str | None:
    """Logs what the check found, and registers a winner that answers as it should; returns the version."""
    if manifest["parity"] is None:
        return None
    from sweeper.export import champion

    name = asked["register_as"] or (manifest["study"] if manifest["is_winner"] else None)
    if asked["skips_register"] or manifest["format"] != ADAPTER:
        name = None
    elif manifest["task"]["name"] == "custom":
        announce(
            "not registered as a champion: its prompts are written by the study's own code, which MLflow does not run"
        )
        name = None
    elif not manifest["parity"]["holds"]:
        announce("not registered as a champion: it does not answer as its trial did")
        name = None
    elif name is None:
        announce("not registered as a champion: it is not the winner; --register-as NAME makes it one of that name")
    return champion.record(home, folder.expanduser().absolute(), manifest, name, announce)


def _say(study: str, folder: Path, manifest: dict[str, Any]) -> None:
    click.echo(f"trial {manifest['trial']} of {study} is in {folder} ({manifest['format']})")
    for split in ("validation", "test"):
        if scores := manifest["scores"][split]:
            names = [name for name in scores if not name.endswith("_se")]
            click.echo(f"{split}: " + ", ".join(f"{name} {plus_minus(scores, name)}" for name in names))
    for line in parity_lines(manifest["parity"]):
        click.echo(line)
    if manifest["task"]["name"] == "custom":
        click.echo(f"try it: sweeper predict {folder} --trust-code < ROWS.jsonl")
    else:
        click.echo(f'try it: sweeper predict {folder} "some text"')


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
