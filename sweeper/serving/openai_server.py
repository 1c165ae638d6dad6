"""An OpenAI-compatible server for one export: transformers' own, pinned to the model that it is given.

    python -m sweeper.serving.openai_server DIR --host HOST --port PORT --name NAME

`transformers serve DIR` cannot do this by itself: it loads no adapter folder without a `config.json`, knows one form of
4-bit base, lets a request name any model of the Hub, and unloads on request. Here its handlers get a model that is
loaded already and cannot be exchanged. Beside that one thing is added: `structured_outputs.choice`, named as in vLLM,
by which a request has the answer chosen among labels, token by token, as the study did.
"""

from __future__ import annotations

import sys
from functools import lru_cache
from pathlib import Path
from typing import Any

import click
import torch
import uvicorn
from fastapi import HTTPException
from transformers.cli.serving.chat_completion import ChatCompletionHandler, TransformersCompletionCreateParamsStreaming
from transformers.cli.serving.completion import CompletionHandler
from transformers.cli.serving.model_manager import ModelManager
from transformers.cli.serving.response import ResponseHandler
from transformers.cli.serving.server import build_server
from transformers.cli.serving.utils import GenerateManager, GenerationState
from transformers.utils import logging as transformers_logging

from sweeper.errors import SweeperError
from sweeper.exporting.manifest import read_manifest
from sweeper.paths import Home
from sweeper.redaction import redacted
from sweeper.serving.loaded import Loaded, load
from sweeper.tasks.classification import LabelTrie

PATHS = ("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/models", "/health")
CHOICES = "structured_outputs"
_END_S = 2  # for requests that are being answered when the server is ended


class Pinned(ModelManager):  # type: ignore[misc]
    """Has one model, under one name, and neither loads nor unloads any."""

    def __init__(self, loaded: Loaded, name: str) -> None:
        super().__init__(model_timeout=-1)
        self.force_model = name  # a request for another one is refused
        self._loaded = loaded

    @staticmethod
    def process_model_name(model_id: str) -> str:
        return model_id

    def load_model_and_processor(self, *_: Any, **__: Any) -> tuple[Any, Any]:
        return self._loaded.model, self._loaded.tokenizer

    def get_gen_models(self, *_: Any) -> list[dict[str, Any]]:
        return [{"id": self.force_model, "object": "model", "created": 0, "owned_by": "sweeper"}]

    def shutdown(self) -> None:
        """The model goes with the process."""


class _Request(TransformersCompletionCreateParamsStreaming, total=False):  # type: ignore[misc,call-arg]
    structured_outputs: dict[str, Any]


class ChoosingHandler(ChatCompletionHandler):  # type: ignore[misc]
    """Answers chats, and keeps an answer to the choices that a request gives."""

    _valid_params_class = _Request

    def _validate_request(self, body: dict[str, Any]) -> None:
        super()._validate_request(body)
        if CHOICES in body:
            _choices(body)  # before a model is asked

    def _build_generation_config(self, body: dict[str, Any], *arguments: Any, **named: Any) -> Any:
        config = super()._build_generation_config(body, *arguments, **named)
        config.sweeper_choices = _choices(body)
        return config

    def _build_completion(self, request_id: str, content: str, *arguments: Any, **named: Any) -> Any:
        return super()._build_completion(request_id, content.strip(), *arguments, **named)  # as the study's answers


def _choices(body: dict[str, Any]) -> tuple[str, ...] | None:
    """The texts that a request wants its answer to be one of; None where it may be any."""
    asked = body.get(CHOICES)
    if asked is None:
        return None
    choices = asked.get("choice") if isinstance(asked, dict) and set(asked) == {"choice"} else None
    if not isinstance(choices, list) or not choices or not all(isinstance(one, str) and one for one in choices):
        raise HTTPException(422, f'{CHOICES} must be {{"choice": [texts]}}: this server knows no other kind')
    return tuple(choices)


class ChoosingManager(GenerateManager):  # type: ignore[misc]
    """Generates, among the tokens of the choices where there are some."""

    def __init__(self, loaded: Loaded) -> None:
        super().__init__()

        @lru_cache(maxsize=16)
        def trie(choices: tuple[str, ...]) -> LabelTrie:
            read = loaded.tokenizer([loaded.lead + choice for choice in choices], add_special_tokens=False)
            tokens = zip(choices, read["input_ids"], strict=True)
            return LabelTrie({choice: (*path, loaded.end) for choice, path in tokens})

        self._trie = trie

    def generate_streaming(
        self, model: Any, processor: Any, inputs: Any, gen_config: Any, *rest: Any, **named: Any
    ) -> Any:
        return super().generate_streaming(model, processor, self._bound(inputs, gen_config), gen_config, *rest, **named)

    async def generate_non_streaming(
        self, model: Any, processor: Any, inputs: Any, gen_config: Any, *rest: Any, **named: Any
    ) -> Any:
        bound = self._bound(inputs, gen_config)
        return await super().generate_non_streaming(model, processor, bound, gen_config, *rest, **named)

    def _bound(self, inputs: Any, gen_config: Any) -> dict[str, Any]:
        """What `generate` is called with: the inputs, and which tokens may follow."""
        choices = gen_config.__dict__.pop("sweeper_choices", None)
        if choices is None:
            return dict(inputs)
        trie, length = self._trie(choices), inputs["input_ids"].shape[-1]

        def allowed(_: int, tokens: torch.Tensor) -> list[int]:
            return trie.children(tuple(tokens[length:].tolist()))

        return {**inputs, "prefix_allowed_tokens_fn": allowed}


class OneManager(GenerationState):  # type: ignore[misc]
    """All requests go, one after the other, through one manager."""

    def __init__(self, manager: ChoosingManager) -> None:
        super().__init__()
        self._manager = manager

    def get_manager(self, model_id: str, use_cb: bool = False) -> ChoosingManager:
        return self._manager


def application(loaded: Loaded, name: str) -> Any:
    """The FastAPI application that answers for one model, and has no path to change it."""
    manager, state = Pinned(loaded, name), OneManager(ChoosingManager(loaded))
    app = build_server(
        manager,
        ChoosingHandler(manager, state),
        completion_handler=CompletionHandler(manager, state),
        response_handler=ResponseHandler(manager, state),
        transcription_handler=None,
        systemone_handler=None,
        generation_state=state,
    )
    app.router.routes[:] = [route for route in app.router.routes if getattr(route, "path", None) in PATHS]
    return app


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--host", required=True)
@click.option("--port", type=int, required=True)
@click.option("--name", required=True)
def main(folder: Path, host: str, port: int, name: str) -> None:
    """Serves an exported folder, which `sweeper serve` has checked, until it is ended."""
    transformers_logging.set_verbosity_error()  # it would log every request
    try:
        loaded = load(folder, read_manifest(folder), Home.from_environment())
    except SweeperError as error:
        click.echo(f"error: {redacted(str(error))}", err=True)
        sys.exit(2)
    config = uvicorn.Config(
        application(loaded, name), host=host, port=port, log_level="warning", timeout_graceful_shutdown=_END_S
    )
    uvicorn.Server(config).run()


if __name__ == "__main__":
    main()
