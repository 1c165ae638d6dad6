"""The transformers configuration of a study's model, from which plans are made without its weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sweeper.config.schema import Config
from sweeper.errors import ModelError
from sweeper.models import contents, hub, origin
from sweeper.paths import Home


def model_config(config: Config, home: Home) -> dict[str, Any]:
    """The transformers configuration of a study's model, from its folder, the Hub's cache, or conf/model.

    Raises:
        ModelError: if there is none, or it is not one.
    """
    folder = model_folder(config, home)
    if folder is not None:
        values = contents.read(folder / origin.CONFIG)
    elif config.model.config is not None:
        values = dict(config.model.config)
    else:
        values = _from_hub(config)
    values = values.get("text_config", values)
    for key in ("model_type", "num_hidden_layers"):
        if key not in values:
            raise ModelError(
                f"a model's transformers configuration must have {key}, but that of {config.model.name} has none"
            )
    dropped = ("quantization_config", "architectures", "dtype", "torch_dtype", "transformers_version", "_name_or_path")
    return {key: value for key, value in values.items() if key not in dropped}


def model_folder(config: Config, home: Home) -> Path | None:
    """Where the model lies on this machine; None where it does not."""
    source = origin.find(config.model)
    folder = source.path
    if source.kind == "gguf" and folder is not None:
        folder = origin.conversion(folder, config.model.name, home.models)
    return folder if folder is not None and (folder / origin.CONFIG).is_file() else None


def _from_hub(config: Config) -> dict[str, Any]:
    try:
        return dict(hub.snapshot(config.model).config)
    except ModelError as error:
        raise ModelError(f"{error}; or give its transformers configuration as model.config") from None


@dataclass(frozen=True)
class Widths:
    """The sizes of a decoder, by Llama's shapes; other architectures are taken for it.

    Where these have no key of that name, a size is one that is not smaller.

    Attributes:
        weights: of the linears of all layers: what each token is multiplied with twice in a forward.
        outside: of embeddings and head.
        attention: the sum of inputs and outputs of the linears of a layer: an adapter has so many values a rank.
        mlp: likewise.
    """

    layers: int
    weights: int
    outside: int
    attention: int
    mlp: int

    @property
    def parameters(self) -> int:
        return self.weights + self.outside

    @classmethod
    def of(cls, model: Mapping[str, Any]) -> Widths:
        model = model.get("text_config", model)
        hidden = int(model.get("hidden_size") or model.get("n_embd") or model.get("d_model") or 0)
        layers = int(model.get("num_hidden_layers") or model.get("n_layer") or 0)
        heads = int(model.get("num_attention_heads") or model.get("n_head") or 1)
        of_heads = heads * int(model.get("head_dim") or hidden // heads)
        keys = of_heads // heads * int(model.get("num_key_value_heads") or heads)
        wide = int(model.get("intermediate_size") or 4 * hidden)
        tables = 1 if model.get("tie_word_embeddings") else 2
        return cls(
            layers=layers,
            weights=layers * (2 * hidden * of_heads + 2 * hidden * keys + 3 * hidden * wide),
            outside=tables * hidden * int(model.get("vocab_size") or 0),
            attention=2 * (hidden + of_heads) + 2 * (hidden + keys),
            mlp=3 * (hidden + wide),
        )

    def adapter_values(self, targets: Any) -> int:
        """The values of an adapter, a rank; one of other targets than the presets is taken for all of them."""
        each = {"attention": self.attention, "mlp": self.mlp}
        return self.layers * each.get(str(targets), self.attention + self.mlp)
