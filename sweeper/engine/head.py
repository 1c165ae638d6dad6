"""The output head over the positions that count, instead of over the whole batch.

The logits of a whole batch are most of the memory of a small model's training step. Here the
hidden states of supervised positions alone go through the head, in chunks that are recomputed in
the backward, with the logit scaling and soft-capping of the model's own forward.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from sweeper.engine.batches import Chunk
from sweeper.errors import ModelError
from sweeper.memory.formula import HEAD_POSITIONS


class Head:
    """A causal model's decoder and output head, apart.

    Raises:
        ModelError: if the model does not say which module its head is.
    """

    def __init__(self, model: Any) -> None:
        self.decoder: nn.Module = model.get_decoder()
        self.projection: nn.Module = model.get_output_embeddings()
        if self.projection is None:
            raise ModelError(f"the model must have an output head, but {type(model).__name__} names none")
        config = model.config.get_text_config()
        # Cohere multiplies by logit_scale, Granite divides by logits_scaling, Gemma 2 soft-caps.
        self.scale = float(getattr(config, "logit_scale", None) or 1.0)
        self.scale /= float(getattr(config, "logits_scaling", None) or 1.0)
        self.softcap: float | None = getattr(config, "final_logit_softcapping", None)

    @torch.no_grad()
    def verify(self, model: Any) -> None:
        """Compares with the model's own forward on a few tokens.

        Raises:
            ModelError: if this head leaves out something that the model does to its logits.
        """
        model.eval()
        tokens = torch.arange(1, 9, device=next(model.parameters()).device)[None]
        own = model(input_ids=tokens, use_cache=False).logits[0].float()
        ours = self.logits(self.decoder(input_ids=tokens, use_cache=False).last_hidden_state[0]).float()
        difference = float((own - ours).abs().max() / own.abs().max().clamp(min=1e-6))
        if not difference < 0.02:  # bfloat16 keeps three digits
            raise ModelError(
                "the logits of decoder and head must be the model's own, but for "
                f"{type(model).__name__} they differ by {difference:.1%}: it transforms its logits in a way that "
                "is not known here (known: logit_scale, logits_scaling, final_logit_softcapping)"
            )

    def hidden(self, chunk: Chunk) -> Tensor:
        """Last hidden states `(places, hidden)` of a chunk's flattened tokens."""
        if chunk.spans is None:
            given = {"attention_mask": chunk.attention_mask}
        else:
            given = {"position_ids": chunk.spans.positions[None]}
        output = self.decoder(input_ids=chunk.tokens, **given, use_cache=False)
        hidden: Tensor = output.last_hidden_state
        return hidden.flatten(0, 1)

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits `(positions, vocabulary)` of `hidden` `(positions, hidden)`, in float32 or better."""
        logits: Tensor = self.projection(hidden)
        if logits.dtype is not torch.float64:
            logits = logits.float()
        if self.scale != 1.0:
            logits = logits * self.scale
        if self.softcap:
            logits = torch.tanh(logits / self.softcap) * self.softcap
        return logits

    def losses(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy `(positions,)` of `targets` `(positions,)` given `hidden` `(positions, hidden)`."""
        return torch.cat(
            [
                torch.as_tensor(checkpoint(self._losses, part, target, use_reentrant=False))
                for part, target in zip(
                    torch.split(hidden, HEAD_POSITIONS), torch.split(targets, HEAD_POSITIONS), strict=True
                )
            ]
        )

    def _losses(self, hidden: Tensor, targets: Tensor) -> Tensor:
        return functional.cross_entropy(self.logits(hidden), targets, reduction="none")
