"""How an export is served and asked, as text: vLLM's command, a client in Python, curl.

It is composed from the manifest alone, so that a page about an export can show it without loading anything.
"""

from __future__ import annotations

import json
import pprint
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sweeper.data.template import LABELS, ROW, TEXT, RowTemplate, columns_read
from sweeper.errors import ExportError, PromptError
from sweeper.exporting.formats import ADAPTER

HOST, PORT = "127.0.0.1", 8000
LORA_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # what vLLM's --max-lora-rank may be (vllm/config/lora.py)
TEMPLATE_FILE = "chat_template.jinja"  # transformers' name
EXAMPLE = "some text"
# A base's generation_config.json would otherwise set the defaults of requests, and some penalise repetition.
_GREEDY = {"temperature": 0.0, "repetition_penalty": 1.0}
_ROOM = 8  # tokens beyond a label's bytes, of which a tokenizer makes no more than one each


def needs_template(manifest: Mapping[str, Any]) -> bool:
    """Whether the export has no chat template, so that its study used the instruction format."""
    return TEMPLATE_FILE not in manifest["sha256"]


def lora_rank(rank: int) -> int:
    """The smallest rank that vLLM can be told and that has room for an adapter's; its default of 16 refuses more.

    Raises:
        ExportError: if there is none.
    """
    for allowed in LORA_RANKS:
        if rank <= allowed:
            return allowed
    raise ExportError(
        f"vLLM serves adapters up to rank {LORA_RANKS[-1]}, but this one has {rank}; serve it with "
        "--engine transformers, or export the whole model"
    )


def vllm_command(
    manifest: Mapping[str, Any],
    folder: str | Path,
    base: str,
    name: str | None = None,
    *,
    host: str = HOST,
    port: int = PORT,
    revision: str | None = None,
    chat_template: str | None = None,
    program: Sequence[str] = ("vllm",),
) -> list[str]:
    """The arguments of `vllm serve` for an export.

    Args:
        manifest: of the export.
        folder: where it lies, or will lie.
        base: the folder or Hub id of an adapter's base; a whole model needs none.
        name: the model's name in requests; None: the study's.
        revision: of a base on the Hub.
        chat_template: what stands in for the one that the export lacks (`sweeper.data.chat.Chat.exported`).
        program: what starts vLLM.

    Raises:
        ExportError: if the adapter's rank is above what vLLM serves.
    """
    name, folder, model = name or str(manifest["study"]), str(folder), manifest["model"]
    if manifest["format"] == ADAPTER:
        rank = lora_rank(int(manifest["lora"]["rank"]))
        command = [*program, "serve", base]
        if revision is not None:
            command += ["--revision", revision]
        command += ["--tokenizer", folder]
        if model["quant"] == "nf4":  # in flight vLLM does what the adapter was trained over: NF4, quantised twice
            command += ["--quantization", "bitsandbytes"]
        if model["dtype"] != "auto":
            command += ["--dtype", model["dtype"]]
        command += ["--enable-lora", "--lora-modules", _lora_module(name, folder), "--max-lora-rank", str(rank)]
    else:
        command = [*program, "serve", folder, "--served-model-name", name]
    if not needs_template(manifest):
        command += ["--chat-template", str(Path(folder) / TEMPLATE_FILE)]
    elif chat_template is not None:
        command += ["--chat-template", chat_template]
    if model.get("trust_remote_code"):
        command.append("--trust-remote-code")
    command += ["--override-generation-config", json.dumps(_GREEDY)]
    return [*command, "--host", host, "--port", str(port)]


def _lora_module(name: str, folder: str) -> str:
    """vLLM splits NAME=DIR at every `=`; a path with one goes as JSON."""
    return f"{name}={folder}" if not {"=", ","} & set(folder) else json.dumps({"name": name, "path": folder})


def request(manifest: Mapping[str, Any], name: str, messages: Any, end: int | None = None) -> dict[str, Any]:
    """The body of a greedy request: with the labels to choose among, or with the room for an answer.

    Args:
        end: the token that ends an answer, where a server would not know it.
    """
    body: dict[str, Any] = {"model": name, "messages": messages, "temperature": 0}
    labels = manifest["labels"]
    if labels:
        body["max_tokens"] = max(len(label.encode()) for label in labels) + _ROOM
        body["structured_outputs"] = {"choice": list(labels)}
    else:
        body["max_tokens"] = manifest["task"]["max_new_tokens"]
        if end is not None:
            body["stop_token_ids"] = [end]
    return body


def curl_snippet(manifest: Mapping[str, Any], url: str, name: str | None = None, end: int | None = None) -> str:
    """One request with curl.

    Args:
        url: of the API, such as http://127.0.0.1:8000/v1.
    """
    messages = [*_system(manifest), {"role": "user", "content": _example_message(manifest)}]
    body = json.dumps(request(manifest, name or str(manifest["study"]), messages, end), ensure_ascii=False)
    return f"curl -s {url}/chat/completions -H 'Content-Type: application/json' -d {shlex.quote(body)}"


def python_snippet(manifest: Mapping[str, Any], url: str, name: str | None = None, end: int | None = None) -> str:
    """One request with the official client, `openai`; runs as it is."""
    imports, lines = ["from openai import OpenAI"], message_lines(manifest)
    if needs_jinja(lines):
        imports = ["from jinja2 import Template", *imports]
    body = request(manifest, name or str(manifest["study"]), None, end)
    extra = {key: body[key] for key in ("structured_outputs", "stop_token_ids") if key in body}
    if manifest["labels"]:
        lines = [labels_line(manifest), *lines]
        extra["structured_outputs"] = {"choice": "LABELS"}
    sent = ", ".join(f"{message!r}" for message in _system(manifest))
    user = '{"role": "user", "content": message}'
    asked = [
        f"    model={body['model']!r},",
        f"    messages=[{sent + ', ' if sent else ''}{user}],",
        f"    temperature=0, max_tokens={body['max_tokens']},",
        *([f"    extra_body={extra!r},".replace("'LABELS'", "LABELS")] if extra else []),
    ]
    return "\n".join(
        [
            *imports,
            "",
            *lines,
            f'client = OpenAI(base_url="{url}", api_key="-")',
            "answer = client.chat.completions.create(",
            *asked,
            ")",
            "print(answer.choices[0].message.content)",
        ]
    )


def needs_jinja(lines: Sequence[str]) -> bool:
    """Whether `message_lines` render a template."""
    return any("Template(" in line for line in lines)


def labels_line(manifest: Mapping[str, Any]) -> str:
    """Python that names the labels."""
    return f"LABELS = {pprint.pformat(manifest['labels'], width=100, compact=True)}"


def notes(manifest: Mapping[str, Any]) -> list[str]:
    """What whoever writes requests has to know, each as a sentence."""
    task, found = manifest["task"], []
    if task["name"] == "custom":
        target = task.get("_target_") or task.get("target")
        found.append(
            f"The user message must be what the study's own task, {target}, writes for a row: messages as they are, a "
            "text through prompt.template."
        )
    elif manifest["columns"].get("messages"):
        found.append("The messages are the conversation of a row, up to where the assistant is to answer.")
    if manifest["columns"].get("context"):
        found.append(
            'In prompt.template `text` is the context, an empty line and the question: f"{context}\\n\\n{question}".'
        )
    if str(manifest.get("long", "")).startswith("cut"):
        found.append(
            f"The study cut texts that were too long (data.long={manifest['long']}); the server does not: whoever asks "
            "has to."
        )
    return found


def _system(manifest: Mapping[str, Any]) -> list[dict[str, str]]:
    system = manifest["prompt"].get("system")
    return [{"role": "system", "content": system}] if system else []


def _writes_messages(manifest: Mapping[str, Any]) -> bool:
    """Whether the user message is no rendering of `prompt.template` that a template alone could give."""
    return manifest["task"]["name"] == "custom" or bool(manifest["columns"].get("messages"))


def _columns(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """An example of each column that the template reads."""
    template = manifest["prompt"]["template"]
    names = columns_read(template)
    found: dict[str, Any] = dict.fromkeys(sorted(names - {ROW}), EXAMPLE)
    if ROW in names:
        read = re.findall(r"""\brow(?:\.(\w+)|\[\s*['"](.+?)['"]\s*\])""", template)
        found[ROW] = {name or quoted: EXAMPLE for name, quoted in read}
    return found


def message_lines(manifest: Mapping[str, Any]) -> list[str]:
    """Python that makes the user's `message` of a text; it may need jinja2's `Template`, and `LABELS`."""
    template = manifest["prompt"]["template"]
    if _writes_messages(manifest) or template == "{{ text }}":
        return [f"message = {EXAMPLE!r}"]
    if not re.search(r"\{[{%#]", template.replace("{{ text }}", "")):
        return [f"text = {EXAMPLE!r}", f"message = {template!r}.replace('{{{{ text }}}}', text)"]
    values = {TEXT: EXAMPLE, **_columns(manifest)}
    given = [f"{name}={value!r}" for name, value in values.items()]
    if manifest["labels"]:
        given.append(f"{LABELS}=LABELS")
    return [
        f"template = Template({template!r}, keep_trailing_newline=True)",
        f"message = template.render({', '.join(given)})",
    ]


def _example_message(manifest: Mapping[str, Any]) -> str:
    if _writes_messages(manifest):
        return EXAMPLE
    columns = _columns(manifest)
    try:
        return RowTemplate(manifest["prompt"]["template"], manifest["labels"]).render(
            EXAMPLE, {**columns.pop(ROW, {}), **columns}
        )
    except PromptError:  # it wants more of a row than an example has
        return EXAMPLE
