"""The model card of an exported folder, in the format of the Hugging Face Hub: `README.md`.

It goes where others read it: no folder of this machine, no secret, and no text of a row is in it.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import yaml

from sweeper.config.reproduce import for_others, launch_of
from sweeper.errors import ExportError
from sweeper.exporting import serving_commands, snippets
from sweeper.exporting.formats import ADAPTER, FORMATS, GGUF
from sweeper.exporting.licence import Licence
from sweeper.redaction import redacted
from sweeper.report import searched, spent
from sweeper.report.content import Block, Bullets, Code, Content, Paragraph, Section, Table, bullets, paragraphs
from sweeper.report.facts import Facts
from sweeper.report.markdown import markdown
from sweeper.report.sentences import number_text, of_base, plus_minus, retention_line, score
from sweeper.search.looks import looks
from sweeper.search.views import TrialView

FILE = "README.md"
_INTERVAL = 1.96  # standard errors of 95 %
_TASKS = {"classification": "text-classification"}  # of the Hub; all others write


def text(facts: Facts, trial: TrialView, manifest: dict[str, Any], terms: Licence) -> str:
    """The card.

    Args:
        manifest: of the export, with its parity.
        terms: of the base.
    """
    facts = replace(facts, leaves_home=True)
    head = yaml.safe_dump(_head(facts, manifest, terms), sort_keys=False, allow_unicode=True)
    return f"---\n{head}---\n\n{markdown(_content(facts, trial, manifest, terms))}"


def reproduce(facts: Facts) -> str:
    """The launch that does the search again, without folders and addresses of this machine."""
    arguments = for_others(launch_of(facts.config).arguments, facts.config)
    return redacted(shlex.join(["sweeper", "launch", *arguments]))


def base_name(manifest: dict[str, Any]) -> str:
    """The base as others know it: its id on the Hub, or its name."""
    path = str(manifest["model"]["path"])
    is_here = path.startswith(("/", ".", "~")) or ":" in path
    return str(manifest["model"]["name"]) if is_here else path


def _head(facts: Facts, manifest: dict[str, Any], terms: Licence) -> dict[str, Any]:
    """What the Hub reads: its own names."""
    is_adapter, base = manifest["format"] == ADAPTER, base_name(manifest)
    head: dict[str, Any] = {"library_name": "peft" if is_adapter else "transformers"}
    if "/" in base:
        head |= {"base_model": base, "base_model_relation": "adapter" if is_adapter else "finetune"}
    if terms.id is not None:
        head["license"] = terms.id
        head |= {"license_name": terms.name} if terms.id == "other" and terms.name else {}
    tags = ["lora", "qlora"] if manifest["model"]["quant"] == "nf4" else ["lora"]
    head |= {"pipeline_tag": "text-generation", "tags": [*tags, "sweeper", facts.config.task.name]}
    scores = manifest["scores"]["test"]
    if scores is not None:
        names = [name for name in scores if not name.endswith("_se")]
        head["model-index"] = [
            {
                "name": facts.name,
                "results": [
                    {
                        "task": {"type": _TASKS.get(facts.config.task.name, "text-generation")},
                        "dataset": {"name": _data_name(facts), "type": facts.config.data.source, "split": "test"},
                        "metrics": [
                            {"type": name, "value": round(scores[name], 4), "name": f"test {name}"} for name in names
                        ],
                    }
                ],
            }
        ]
    return head


def _content(facts: Facts, trial: TrialView, manifest: dict[str, Any], terms: Licence) -> Content:
    params = ", ".join(f"{name} {number_text(value)}" for name, value in trial.params.items())
    form = of_base(FORMATS[manifest["format"]], facts.config)
    sections = (
        Section("scores", "Scores", tuple(_scores(facts, trial, manifest))),
        Section("parity", "Scored as it is handed over", tuple(_parity(manifest))),
        Section("use", "Use", tuple(_use(manifest))),
        Section("limits", "What it is for, and its limits", (Bullets(tuple(_limits(facts, trial, manifest))),)),
        searched.section(facts),
        spent.section(facts),
        Section("licence", "Licence", tuple(_licence(manifest, terms))),
        Section("reproduce", "Do it again", tuple(_again(facts, trial, manifest))),
    )
    return Content(
        title=f"{facts.name}: {base_name(manifest)}, tuned for {facts.config.task.name}",
        description=facts.config.study.description,
        answer=f"Trial {trial.number} of {len(facts.seen.trials)} ({params}): {form}.",
        state=f"Found and exported by sweeper {manifest['sweeper']}.",
        sections=sections,
    )


def _scores(facts: Facts, trial: TrialView, manifest: dict[str, Any]) -> Iterator[Block]:
    """The trial beside its runner-up and the base, with intervals."""
    test, metric, scores = facts.seen.attributes.get("test") or {}, facts.metric, manifest["scores"]
    if scores["test"] is not None:
        scored = {f"this one, trial {trial.number}": scores["test"]}
        if test["trial"] != trial.number:
            scored[f"winner, trial {test['trial']}"] = test["winner"]
        elif second := test.get("runner_up"):
            scored[f"runner-up, trial {second['trial']}"] = second["scores"]
        scored |= {
            of_base("untuned 4-bit base", facts.config): test["base"],
            "always the most common answer": test["majority"],
        }
        rows, split, words = test["rows"], "test", "which chose nothing"
    else:
        scored, rows, split = {f"this one, trial {trial.number}": trial.metrics}, None, "validation"
        if (base := facts.seen.attributes.get("baseline")) is not None:
            scored[of_base("untuned 4-bit base", facts.config)] = base
        words = "by which the search chose, so that they flatter it"
    names = [name for name in next(iter(scored.values())) if not name.endswith("_se") and "/" not in name]
    names.sort(key=lambda name: name != metric)
    cells = tuple((who, *(_with_interval(each, name) for name in names)) for who, each in scored.items())
    of_rows = f"the {rows:,} rows of the {split} split" if rows is not None else f"the {split} rows"
    yield Table(f"On {of_rows}, {words} (95 % interval)", ("", *names), cells, frozenset(range(1, len(names) + 1)), 0)
    if test:
        yield Paragraph(looks(facts.seen.attributes, facts.paths).sentence())
    lines = [retention_line(facts.seen, trial)]
    if trial.vram_peak_gib is not None:
        lines.append(f"Its training took {trial.vram_peak_gib:.3g} GiB at the peak, beside those that trained with it")
    yield from bullets([line for line in lines if line])


def _with_interval(scores: dict[str, float], name: str) -> str:
    if name not in scores:
        return "–"
    error = scores.get(f"{name}_se")
    if error is None:
        return score(scores[name])
    low, high = (scores[name] + sign * _INTERVAL * error for sign in (-1, 1))
    return f"{plus_minus(scores, name).partition(' ')[0]} ({score(low)} to {score(high)})"


def _parity(manifest: dict[str, Any]) -> Iterator[Block]:
    """What came of scoring the folder itself."""
    found = manifest["parity"]
    if found is None:
        yield Paragraph("This folder was exported without being scored: the scores above are those of the study.")
        return
    if not found["holds"]:
        yield Paragraph("It does not answer as its trial did, and was exported all the same (`--allow-drop`):")
        yield Bullets(tuple(found["problems"]))
    else:
        yield Paragraph(
            "The folder was loaded afresh with transformers and PEFT alone and scored again, against what the study "
            "recorded of the trial."
        )
    ways = [{**found, "way": f"this folder ({found['split']})", "value": found["exported"]}, *found["served"]]
    rows = tuple(
        (
            f"{way['way']}, {way['rows']:,} rows",
            score(way["recorded"]),
            score(way["value"]),
            f"{way['same']:,} of {way['rows']:,}",
        )
        for way in ways
    )
    columns = ("", f"{found['metric']} recorded", "found", "same answers")
    yield Table("Recorded, and as it is served", columns, rows, frozenset({1, 2, 3}), strong=0)
    if (kept := found["retention"]) is not None:
        recorded = f", recorded {kept['recorded']:.3f}" if kept["recorded"] is not None else ""
        yield Paragraph(
            f"In the retention suite it loses {kept['drop']:.3f} ± {kept['drop_se']:.3f} of {kept['kind']}{recorded}, "
            f"of which {kept['tolerance']:.3f} was tolerated."
        )


def _use(manifest: dict[str, Any]) -> Iterator[Block]:
    name = str(manifest["study"])
    yield Paragraph("`DIR` is this folder. Answers are greedy; each begins right behind the chat template's prompt.")
    yield Code(snippets.transformers(manifest), "python")
    if manifest["format"] != GGUF:
        serve = "sweeper serve DIR    # an OpenAI-compatible server on 127.0.0.1"
        yield Code(f"{snippets.try_it(manifest, 'DIR')}\n{serve}")
    yield from _served_by_vllm(manifest)
    yield Paragraph("Ollama, with a `Modelfile` beside this folder:")
    yield Code(snippets.ollama(manifest, base_name(manifest)), "")
    yield Code(f"ollama create {name} -f Modelfile")


def _served_by_vllm(manifest: dict[str, Any]) -> Iterator[Block]:
    if manifest["format"] == GGUF:
        yield Paragraph("vLLM: export `--format merged`, which it loads.")
        return
    base, revision = base_name(manifest), (manifest["base"] or {}).get("commit")
    yield Paragraph("vLLM, with the labels as structured outputs where there are some:")
    try:
        yield Code(shlex.join(serving_commands.vllm_command(manifest, "DIR", base, revision=revision)))
    except ExportError as error:  # of a rank that is above what it serves
        yield Paragraph(f"{str(error)[0].upper()}{str(error)[1:]}.")
        return
    yield Code(serving_commands.python_snippet(manifest, "http://127.0.0.1:8000/v1"), "python")
    yield from bullets(serving_commands.notes(manifest))


def _limits(facts: Facts, trial: TrialView, manifest: dict[str, Any]) -> Iterator[str]:
    labels, test = manifest["labels"], manifest["scores"]["test"]
    rows = facts.data.get("splits", {}).get("train", {}).get("rows") or facts.seen.attributes.get("train_rows")
    of_rows = f" on {rows:,} rows" if rows is not None else ""
    yield (
        f"It was trained{of_rows} for one task, {facts.config.task.name}, on prompts of one form; it may answer others "
        "worse than its base."
    )
    if labels:
        yield (
            f"Its scores are of choosing among {len(labels)} labels. Decoding that may write anything can answer with "
            "something else; what that changes is said above."
        )
    if test is None:
        yield "The test rows did not choose it, and its scores above are of rows that did."
    if "/" not in base_name(manifest) and manifest["format"] == ADAPTER:
        yield (
            "Its base is not on the Hub: base_model_name_or_path in adapter_config.json says where it lay. A merged "
            "export needs none."
        )
    if not trial.is_feasible:
        yield "It breaks a constraint of its study, and is not what the search would have chosen."
    if "retention" not in facts.seen.attributes:
        yield "What it forgets of the base's abilities was not measured."
    yield "Nothing was done to make its answers safe, fair or true beyond what base and data are: try it on your use."


def _licence(manifest: dict[str, Any], terms: Licence) -> Iterator[Block]:
    base = base_name(manifest)
    if terms.id is None:
        yield Paragraph(
            f"The licence of the base, {base}, is not stated in its files here; whoever passes this on must look it up."
        )
    else:
        name = f" ({terms.name})" if terms.name else ""
        yield Paragraph(
            f"The base, {base}, has the licence {terms.id}{name}; what is made of it stays under its terms."
        )
    if terms.files:
        yield Paragraph(f"Copied from the base: {', '.join(f'`{file}`' for file in terms.files)}.")
    yield from bullets(terms.duties)
    yield Paragraph("The rows that it was trained on have a licence of their own.")


def _again(facts: Facts, trial: TrialView, manifest: dict[str, Any]) -> Iterator[Block]:
    yield Code(manifest["reproduce"])
    yield Code(
        f"sweeper export {shlex.quote(facts.name)} --trial {trial.number} --format {manifest['format']} --to DIR"
    )
    words = ", ".join(f"{name} {number}" for name, number in manifest["versions"].items())
    yield from paragraphs([f"With {words}. `sweeper.json` has the rest, and the sha256 of every file."])


def _data_name(facts: Facts) -> str:
    data = facts.config.data
    return searched.last_part(data.path) if data.path else data.source
