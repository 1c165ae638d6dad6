"""The script that one would write without sweeper: Optuna, PEFT and transformers' Trainer, one adapter at a time.

    python tests/benchmarks/peer.py --model FOLDER --data tokens.jsonl --study peer.db --to FOLDER [--trials 4]

A trial is drawn from SQLite (TPE), trained with the Trainer, scored with batched `generate`, told and saved; a line of
JSON says what each part took. By default it is a process for each trial; `--trials N` trains N in one process, over a
base that is loaded once. Nothing of sweeper is imported. Where a choice was free it is the faster one: tokens are read
from a file, nothing is logged, no checkpoint is written, prompts are sorted by length for `generate`.

`--data` has a line for each row: `split` (train or validation), `prompt` and `answer` as tokens. The answer ends with
the token that ends the turn. `--params` is a JSON list of configurations to train in place of what TPE proposes.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import time
import warnings
from pathlib import Path
from typing import Any

import optuna
import torch
from bitsandbytes.nn import Linear4bit
from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, Trainer, TrainerCallback, TrainingArguments
from transformers.utils import logging as transformers_logging

Row = dict[str, Any]
RANKS, ALPHA_RATIOS, LEARNING_RATES = [4, 8, 16, 32, 64], [1.0, 2.0], (3.0e-4, 3.0e-2)
IGNORED = -100  # a label without a loss


class Clock:
    """Seconds by the part of a trial."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def part(self, name: str) -> None:
        """Everything since the last call was `name`."""
        now = time.perf_counter()
        self.seconds[name] = self.seconds.get(name, 0.0) + now - self._last
        self._last = now


class StepTimes(TrainerCallback):
    """The seconds from the end of one optimizer step to that of the next, its batch included."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self._last = 0.0

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self._last = time.perf_counter()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        now = time.perf_counter()
        self.seconds.append(now - self._last)
        self._last = now


def since_process_began_s() -> float:
    """How old this process is: what the interpreter and the imports took, right behind them."""
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    return time.clock_gettime(time.CLOCK_BOOTTIME) - int(fields[19]) / os.sysconf("SC_CLK_TCK")


def load_base(folder: str, dtype: torch.dtype) -> Any:
    """The base in NF4 with double quantisation, ready for adapters."""
    quantization = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=dtype, device_map={"": "cpu"}, quantization_config=quantization
    )
    # On a CPU with AVX512-BF16, bitsandbytes 0.50.2 repacks a layer's weights in place at its first forward in eval();
    # every later training forward then goes through a kernel without autograd, and gradients vanish without an error.
    # Without this the second trial of a process would train next to nothing.
    for module in model.modules():
        if isinstance(module, Linear4bit):
            module.support_avx512bf16_for_cpu = False
    return prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)


def with_adapter(base: Any, rank: int, alpha: float) -> Any:
    """The base with a fresh adapter on every linear."""
    return get_peft_model(
        base, LoraConfig(r=rank, lora_alpha=alpha, target_modules="all-linear", task_type="CAUSAL_LM")
    )


def collator(pad: int) -> Any:
    """Pads a batch to its longest row, on the right; the loss is on the answers alone."""

    def collate(rows: list[Row]) -> dict[str, torch.Tensor]:
        longest = max(len(row["input_ids"]) for row in rows)
        tokens = torch.full((len(rows), longest), pad)
        mask, labels = torch.zeros_like(tokens), torch.full_like(tokens, IGNORED)
        for index, row in enumerate(rows):
            length = len(row["input_ids"])
            tokens[index, :length] = torch.tensor(row["input_ids"])
            labels[index, :length] = torch.tensor(row["labels"])
            mask[index, :length] = 1
        return {"input_ids": tokens, "attention_mask": mask, "labels": labels}

    return collate


def training_rows(rows: list[Row]) -> list[Row]:
    return [
        {"input_ids": row["prompt"] + row["answer"], "labels": [IGNORED] * len(row["prompt"]) + row["answer"]}
        for row in rows
    ]


def train(model: Any, rows: list[Row], pad: int, learning_rate: float, to: Path, **changes: Any) -> list[float]:
    """Trains with the Trainer; returns the seconds of each step.

    Args:
        rows: as `training_rows` makes them.
        changes: of the Trainer's arguments.
    """
    arguments: dict[str, Any] = {
        "output_dir": str(to),
        "max_steps": 50,
        "per_device_train_batch_size": 4,
        "optim": "adamw_torch",
        "learning_rate": learning_rate,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 0.05,  # below 1 it is a share of the steps
        "max_grad_norm": 1.0,
        "save_strategy": "no",
        "logging_strategy": "no",
        "report_to": "none",
        "use_cpu": True,
        "dataloader_num_workers": 0,
        "dataloader_pin_memory": False,
        "remove_unused_columns": False,
        "disable_tqdm": True,
        **changes,
    }
    times = StepTimes()
    model.train()
    model.config.use_cache = False
    trainer = Trainer(
        model=model,
        args=TrainingArguments(**arguments),
        train_dataset=rows,
        data_collator=collator(pad),
        callbacks=[times],
    )
    trainer.train()
    return times.seconds


@torch.no_grad()
def evaluate(model: Any, rows: list[Row], pad: int, batch_size: int) -> float:
    """The share of rows whose greedy continuation is their answer."""
    model.eval()
    model.config.use_cache = True
    end = rows[0]["answer"][-1]
    longest_answer = max(len(row["answer"]) for row in rows)
    right = 0
    by_length = sorted(rows, key=lambda row: -len(row["prompt"]))
    for start in range(0, len(by_length), batch_size):
        batch = by_length[start : start + batch_size]
        width = max(len(row["prompt"]) for row in batch)
        tokens = torch.tensor([[pad] * (width - len(row["prompt"])) + row["prompt"] for row in batch])
        mask = torch.tensor([[0] * (width - len(row["prompt"])) + [1] * len(row["prompt"]) for row in batch])
        written = model.generate(
            input_ids=tokens,
            attention_mask=mask,
            max_new_tokens=longest_answer,
            do_sample=False,
            eos_token_id=end,
            pad_token_id=pad,
        )
        for row, answer in zip(batch, written[:, width:].tolist(), strict=True):
            right += (answer[: answer.index(end)] if end in answer else answer) == row["answer"][:-1]
    return right / len(rows)


def suggest(study: optuna.Study, configurations: list[dict[str, Any]] | None) -> tuple[optuna.Trial, dict[str, Any]]:
    """The next trial and its hyperparameters: what the sampler proposes, or the next of a fixed list."""
    if configurations is not None:
        study.enqueue_trial(configurations[len(study.get_trials(deepcopy=False)) % len(configurations)])
    trial = study.ask()
    return trial, {
        "rank": trial.suggest_categorical("rank", RANKS),
        "alpha_ratio": trial.suggest_categorical("alpha_ratio", ALPHA_RATIOS),
        "learning_rate": trial.suggest_float("learning_rate", *LEARNING_RATES, log=True),
    }


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", required=True, help="a folder of transformers")
    parser.add_argument("--data", type=Path, required=True, help="the rows as tokens, JSONL")
    parser.add_argument("--study", type=Path, required=True, help="Optuna's SQLite file")
    parser.add_argument("--to", type=Path, required=True, help="a folder for the adapters")
    parser.add_argument("--params", type=Path, help="a JSON list of configurations, in place of the sampler's")
    parser.add_argument("--trials", type=int, default=1)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--evaluation-batch-size", type=int, default=32)
    parser.add_argument("--pad", type=int, default=0)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--group-by-length", action="store_true", help="batches of rows of like length")
    return parser.parse_args()


def main() -> None:
    clock = Clock()
    clock.seconds["imports"] = since_process_began_s()
    cpu_s = 0.0
    options = arguments()
    torch.set_num_threads(options.threads)
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.filterwarnings("ignore")
    rows = [json.loads(line) for line in options.data.read_text(encoding="utf-8").splitlines()]
    examples = training_rows([row for row in rows if row["split"] == "train"])
    validation = [row for row in rows if row["split"] == "validation"]
    configurations = json.loads(options.params.read_text(encoding="utf-8")) if options.params else None
    clock.part("data")
    base = load_base(options.model, getattr(torch, options.dtype))
    clock.part("base")
    study = optuna.create_study(
        study_name="peer", storage=f"sqlite:///{options.study}", direction="maximize", load_if_exists=True,
        sampler=optuna.samplers.TPESampler(),  # with a seed, every process would begin with the same draw
    )  # fmt: skip
    for _ in range(options.trials):
        trial, params = suggest(study, configurations)
        clock.part("search")
        torch.manual_seed(options.seed)
        model = with_adapter(base, params["rank"], params["rank"] * params["alpha_ratio"])
        clock.part("adapter")
        folder = options.to / f"{trial.number:04}"
        times = train(
            model, examples, options.pad, params["learning_rate"], folder,
            max_steps=options.steps, per_device_train_batch_size=options.batch_size, seed=options.seed,
            train_sampling_strategy="group_by_length" if options.group_by_length else "random",
        )  # fmt: skip
        clock.part("train")
        accuracy = evaluate(model, validation, options.pad, options.evaluation_batch_size)
        clock.part("evaluation")
        study.tell(trial, accuracy)
        clock.part("search")
        model.save_pretrained(str(folder))
        base = model.unload()
        if hasattr(base, "peft_config"):
            del base.peft_config  # or PEFT would warn of a second adapter
        clock.part("save")
        usage = resource.getrusage(resource.RUSAGE_SELF)
        spent_s = usage.ru_utime + usage.ru_stime
        found = {
            "number": trial.number, "params": params, "accuracy": accuracy, "seconds": clock.seconds,
            "cpu_s": spent_s - cpu_s, "steps_s": times, "peak_rss_mib": usage.ru_maxrss / 1024,
        }  # fmt: skip
        print(json.dumps(found), flush=True)
        cpu_s, clock.seconds = spent_s, {}


if __name__ == "__main__":
    main()
