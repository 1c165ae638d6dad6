"""How an exported folder is used elsewhere, as code to copy: transformers and PEFT, and Ollama."""

from __future__ import annotations

import json
import shlex
from typing import Any

from sweeper.exporting import gguf, serving_commands
from sweeper.exporting.formats import ADAPTER, GGUF


def transformers(manifest: dict[str, Any]) -> str:
    """Loads the folder and answers one text, in Python."""
    dtype, section = manifest["dtype"], manifest["model"]
    remote = ", trust_remote_code=True" if section["trust_remote_code"] else ""
    load = ["import torch"]
    names = ["AutoModelForCausalLM", "AutoTokenizer", "GenerationConfig"]
    if manifest["format"] == ADAPTER:
        load.append("from peft import PeftConfig, PeftModel")
        names += ["BitsAndBytesConfig"] if section["quant"] == "nf4" else []
    load += [f"from transformers import {', '.join(sorted(names))}", "", 'folder = "DIR"']
    if manifest["format"] == ADAPTER:
        quantised = section["quant"] == "nf4"
        if quantised:
            load += [
                "nf4 = BitsAndBytesConfig(  # as it was trained on",
                '    load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,',
                f"    bnb_4bit_compute_dtype=torch.{dtype},",
                ")",
            ]
        load += [
            "known = PeftConfig.from_pretrained(folder)",
            "base = AutoModelForCausalLM.from_pretrained(",
            f"    known.base_model_name_or_path, revision=known.revision, dtype=torch.{dtype}"
            + (", quantization_config=nf4" if quantised else "")
            + remote,
            ")",
            "model = PeftModel.from_pretrained(base, folder).eval()",
        ]
    elif manifest["format"] == GGUF:
        file = gguf.file_name(manifest["study"])
        load.append(f'model = AutoModelForCausalLM.from_pretrained(folder, gguf_file="{file}").eval()')
    else:
        load.append(f'model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto"{remote}).eval()')
    return "\n".join([*load, *_answering(manifest)])


def _answering(manifest: dict[str, Any]) -> list[str]:
    system = manifest["prompt"]["system"]
    first = f'{{"role": "system", "content": {json.dumps(system, ensure_ascii=False)}}}, ' if system else ""
    lines = serving_commands.message_lines(manifest)
    if any("LABELS" in line for line in lines):
        lines = [serving_commands.labels_line(manifest), *lines]
    if serving_commands.needs_jinja(lines):
        lines = ["from jinja2 import Template", "", *lines]
    room = serving_commands.request(manifest, "", None)["max_tokens"]
    return [
        "tokenizer = AutoTokenizer.from_pretrained(folder)",
        *lines,
        f'messages = [{first}{{"role": "user", "content": message}}]',
        "asked = tokenizer.apply_chat_template(",
        '    messages, add_generation_prompt=True, return_dict=True, return_tensors="pt"',
        ").to(model.device)",
        f"settings = GenerationConfig.from_pretrained(folder, max_new_tokens={room})",
        "model.generation_config = settings  # the base's own may sample or punish repetition",
        "answer = model.generate(**asked, generation_config=settings)[0, asked.input_ids.shape[1] :]",
        "print(tokenizer.decode(answer, skip_special_tokens=True).strip())",
    ]


def try_it(manifest: dict[str, Any], folder: str) -> str:
    """The command that answers something with it."""
    columns, place = manifest["columns"], shlex.quote(folder)
    if manifest["format"] == GGUF:
        file = gguf.file_name(manifest["study"])
        return f"ollama create {manifest['study']} -f Modelfile    # with FROM {place}/{file} in it"
    trust = " --trust-code" if manifest["task"]["name"] == "custom" or manifest["model"]["trust_remote_code"] else ""
    if manifest["task"]["name"] == "custom" or columns["context"] is not None:
        return f"sweeper predict {place}{trust} < ROWS.jsonl"
    return f'sweeper predict {place}{trust} "some text"'


def ollama(manifest: dict[str, Any], base: str) -> str:
    """A Modelfile."""
    lines = []
    if manifest["format"] == ADAPTER:
        lines += [
            f"# FROM must be {base} itself, in 16 bits; a merged export needs no adapter",
            f"FROM {base.rpartition('/')[2].lower()}",
            "ADAPTER ./DIR",
        ]
    elif manifest["format"] == GGUF:
        lines.append(f"FROM ./DIR/{gguf.file_name(manifest['study'])}")
    else:
        lines.append("FROM ./DIR")
    if manifest["prompt"]["system"]:
        lines.append(f"SYSTEM {json.dumps(manifest['prompt']['system'], ensure_ascii=False)}")
    return "\n".join([*lines, "PARAMETER temperature 0"])
