"""`sweeper pictures`: all pictures of a study as files, and what each says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sweeper.cli.completion import study_names
from sweeper.cli.plainly import plainly
from sweeper.paths import Home

if TYPE_CHECKING:
    from sweeper.plots.picture import Form


@click.command()
@click.argument("study", shell_complete=study_names)
@click.option(
    "--to", "folder", type=click.Path(path_type=Path, file_okay=False), help="Also draw them into this folder."
)
@click.option("--theme", type=click.Choice(("light", "dark")), default="light", show_default=True)
@click.option("--form", type=click.Choice(("png", "svg")), default="png", show_default=True)
@click.option("--json", "as_json", is_flag=True, help="For scripts.")
@plainly
def pictures(study: str, folder: Path | None, theme: str, form: Form, as_json: bool) -> None:
    """Say what a study's pictures show, and draw them.

    It only reads, and may be asked while the study runs.
    """
    from sweeper.errors import StoreError
    from sweeper.plots.album import album
    from sweeper.plots.picture import THEMES, write
    from sweeper.report.reading import cost_of, studied

    home = Home.from_environment()
    seen, config = studied(home, study)
    found = album(home.study(study), seen, config, cost_of(home, seen, config))
    files: dict[str, str] = {}
    if folder is not None:
        folder = folder.expanduser().absolute()
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(f"--to must be a folder that can be made, but {folder}: {error.strerror}") from None
        for one in found.pictures:
            file = folder / f"{one.name}.{form}"
            if (failed := write(one, THEMES[theme], file, form)) is None:
                files[one.name] = str(file)
            else:
                found.left_out.append(failed)
    absent = {one.name: one.reason for one in found.left_out}
    made = [one for one in found.pictures if one.name not in absent]
    if as_json:
        shown = [
            {"name": one.name, "title": one.title, "sentence": one.sentence, "file": files.get(one.name)}
            for one in made
        ]
        click.echo(json.dumps({"study": study, "pictures": shown, "left_out": absent}, indent=2))
        return
    for one in made:
        click.echo(f"{one.name}: {one.sentence}" + (f"\n  {files[one.name]}" if one.name in files else ""))
    for name, reason in absent.items():
        click.echo(f"{name}: left out: {reason}")
