"""How an exported folder is used elsewhere, as code to copy: transformers and PEFT, and Ollama."""

from __future__ import annotations

import json
from typing import Any

from sweeper.export.formats import ADAPTER, GGUF


def transformers(manifest: dict[str, Any]) -> str:
    """Loads the folder and answers one text, in Python."""
    dtype, section = manifest["dtype"], manifest["model"]
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
            + (", quantization_config=nf4" if quantised else ""),
            ")",
            "model = PeftModel.from_pretrained(base, folder).eval()",
        ]
    elif manifest["format"] == GGUF:
        load.append(
            f'model = AutoModelForCausalLM.from_pretrained(folder, gguf_file="{manifest["study"]}.gguf").eval()'
        )
    else:
        load.append('model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto").eval()')
    return "\n".join([*load, *_answering(manifest)])


def _answering(manifest: dict[str, Any]) -> list[str]:
    prompt = manifest["prompt"]
    messages = [f'{{"role": "system", "content": {json.dumps(prompt["system"])}}}'] if prompt["system"] else []
    template = prompt["template"]
    body = "text" if template.strip() == "{{ text }}" else f"{json.dumps(template, ensure_ascii=False)}"
    lines = [
        "tokenizer = AutoTokenizer.from_pretrained(folder)",
        'text = "some text"',
    ]
    if body != "text":
        lines += [
            f"body = {body}.replace('{{{{ text }}}}', text)" if "{{ text }}" in template else f"body = {body}  # Jinja"
        ]
        body = "body"
    messages.append(f'{{"role": "user", "content": {body}}}')
    return [
        *lines,
        f"messages = [{', '.join(messages)}]",
        "asked = tokenizer.apply_chat_template(",
        '    messages, add_generation_prompt=True, return_dict=True, return_tensors="pt"',
        ").to(model.device)",
        "settings = GenerationConfig.from_pretrained(folder, max_new_tokens=" + str(room(manifest)) + ")",
        "model.generation_config = settings  # the base's own may sample or punish repetition",
        "answer = model.generate(**asked, generation_config=settings)[0, asked.input_ids.shape[1] :]",
        "print(tokenizer.decode(answer, skip_special_tokens=True).strip())",
    ]


def room(manifest: dict[str, Any]) -> int:
    """Tokens that are enough for an answer."""
    written = manifest["task"].get("max_new_tokens")
    return int(written) if written else max(16, *(2 * len(label.split()) + 8 for label in manifest["labels"]))


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
        lines.append(f"FROM ./DIR/{manifest['study']}.gguf")
    else:
        lines.append("FROM ./DIR")
    if manifest["prompt"]["system"]:
        lines.append(f"SYSTEM {json.dumps(manifest['prompt']['system'], ensure_ascii=False)}")
    return "\n".join([*lines, "PARAMETER temperature 0"])
