"""What is done with an adapter that was found: taken home, tried, and priced."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from sweeper.cli.completion import options_of, settings, studies_or_folders, study_names
from sweeper.cli.plainly import plainly
from sweeper.exporting.formats import ADAPTER, FORMATS
from sweeper.paths import Home


@click.command()
@click.argument("study", shell_complete=study_names)
@click.option("--to", "folder", required=True, type=click.Path(path_type=Path), help="The folder to write.")
@click.option("--trial", "number", type=int, help="Another trial than the winner.")
@click.option("--metric", help="The best trial by another metric, of those within the constraints.")
@click.option(
    "--format",
    "form",
    type=click.Choice(list(FORMATS)),
    default=ADAPTER,
    show_default=True,
    help="; ".join(f"{name}: {words}" for name, words in FORMATS.items()) + ".",
)
@click.option("--no-parity", "skips_parity", is_flag=True, help="Do not score what is exported, which takes a while.")
@click.option("--allow-drop", "allows_drop", is_flag=True, help="Export it though it does not answer as its trial did.")
@click.option("--no-register", "skips_register", is_flag=True, help="Do not make it the champion in MLflow's registry.")
@click.option("--register-as", metavar="NAME", help="The registered model; otherwise the winner is its study's.")
@click.option("--device", default="auto", show_default=True, help="That scores and merges: auto, cpu or cuda:N.")
@click.option("--force", is_flag=True, help="Replace an earlier export; export the best though it is nothing to use.")
@click.option("--json", "as_json", is_flag=True, help="For scripts.")
@plainly
def export(study: str, folder: Path, as_json: bool, **asked: Any) -> None:
    """Export the winner as a folder that others can load, scored again as they will load it.

    The folder is loaded afresh in a process of its own, with transformers and PEFT alone. Where it does not answer as
    the study recorded of the trial, nothing is written.
    """
    from sweeper.cli.export import run

    run(Home.from_environment(), study, folder, as_json, asked)


@click.command()
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.argument("texts", metavar="[TEXT]...", nargs=-1)
@click.option("--rows", type=click.Path(path_type=Path, dir_okay=False), help="JSONL, CSV, Parquet, or SQuAD's JSON.")
@click.option("--to", type=click.Path(path_type=Path), help="A .jsonl or .csv file to write the answered rows to.")
@click.option("--force", "is_replacing", is_flag=True, help="Replace the file of --to if it is there.")
@click.option("--probabilities", "weighs", is_flag=True, help="Also say the probability of every label.")
@click.option(
    "--trust-code", "trusts_code", is_flag=True, help="Run code that is in the export, or in its model's repository."
)
@click.option("--json", "as_json", is_flag=True, help="Texts that are arguments come back as JSONL too.")
@plainly
def predict(**asked: Any) -> None:
    """Label or answer texts with an exported adapter: as arguments, of a file, or as JSONL on standard input.

    Rows come back as JSONL with `prediction` and its `probability` added; --to writes them to a file.
    """
    from sweeper.cli.predict import Asked, show

    show(Home.from_environment(), Asked(**asked))


@click.command("price-inference")
@click.argument("target", metavar="STUDY|DIR", shell_complete=studies_or_folders)
@click.argument("overrides", metavar="[gpu.KEY=VALUE]...", nargs=-1, shell_complete=settings)
@click.option("--trial", "number", type=int, help="Another trial of the study than the winner.")
@click.option("--requests", type=click.IntRange(min=1), default=64, show_default=True, help="In each of three passes.")
@click.option("--batches", default="1,2,4,8,16,32", show_default=True, help="Requests together, while that is faster.")
@click.option("--per-day", type=click.IntRange(min=1), default=12_000, show_default=True, help="Requests a day.")
@click.option("--replaces", metavar="NAME=USD_PER_CALL", multiple=True, help="What it replaces; may be repeated.")
@click.option(
    "--gpu",
    metavar="OPTION",
    shell_complete=options_of("gpu"),
    help="Of conf/gpu: whose price is taken; otherwise the study's.",
)
@click.option(
    "--rows", type=click.Path(path_type=Path, dir_okay=False), help="Of DIR: requests, as predict reads them."
)
@click.option(
    "--trust-code", "trusts_code", is_flag=True, help="Of DIR: run code that is in it, or in its model's repository."
)
@click.option("--save", "saves", is_flag=True, help="Of DIR: also write inference.json beside the adapter.")
@click.option("--json", "as_json", is_flag=True, help="For scripts.")
@plainly
def price_inference(**asked: Any) -> None:
    """Say what serving an adapter costs, by measuring it here.

    Real rows are answered as the task answers them, one at a time and in batches. Of a study, the winner's adapter
    answers the test rows, and the figures go to its run in MLflow. Of an exported folder, its adapter answers --rows,
    or the test rows of its study where that is in the store.
    """
    from sweeper.cli.price_inference import Asked, show

    show(Home.from_environment(), Asked(**asked))
