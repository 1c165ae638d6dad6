"""A pack: the trials that train together over one resident base.

`tick` is one optimizer step of every slot. The loss of a slot is the sum of its token losses over
the number of its supervised tokens in its effective batch, each times its row's weight; the losses of
all slots are added and sent backward once a chunk. There is no term between slots, so each slot's gradient is its solo
gradient, however the tick is cut.

Slots come and go between ticks: before the next one `settle` lays the buckets out anew that have changed, each once
for all of its slots that came and went.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

import torch
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from sweeper.data.example import Example
from sweeper.engine import attention, optimizer
from sweeper.engine.batches import (
    Chunk,
    Item,
    batch_rows,
    by_length,
    new_chunk,
    replayed_rows,
    supervised,
    unpadded_chunk,
)
from sweeper.engine.bucket import AdapterState
from sweeper.engine.dropout import Dropout
from sweeper.engine.head import Head
from sweeper.engine.likelihood import Choice, Likelihoods, Weighed, Written, of_endings
from sweeper.engine.lora import Layout
from sweeper.engine.moments import OptimizerState
from sweeper.engine.slot import Slot, Tick
from sweeper.engine.stack import AdapterStack, initial_state
from sweeper.memory.oom import Failure, attempted
from sweeper.memory.planner import Planner, Work
from sweeper.models.targets import resolve
from sweeper.trial import Company, Rhythm, TrialParams

Answer = TypeVar("Answer")
FIRST_PASSAGE = 2**40  # the position of a trial's first passage of replay, behind those of all its examples
# The gradients are slices of one flat buffer; autograd would like each in a tensor of its own.
warnings.filterwarnings("ignore", message="grad and param do not obey the gradient layout contract")


class Pack:
    """Trains and scores adapters over one frozen base.

    Args:
        model: the base, frozen; quantised or not.
        targets: names of every linear that any trial may adapt.
        examples: the training rows as tokens.
        replay: passages of general text, for trials with a share of them.
        pad: the padding token.
        chunk_tokens: the most tokens, padding included, of one forward.
        gradient_checkpointing: whether a layer's activations are recomputed in the backward, not kept.
        dtype: of the adapters' weights and moments.
        optimizer_state: where the moments are between two steps.
        planner: cuts ticks and scoring into parts that fit into memory; by itself it knows of `chunk_tokens` alone.
    """

    def __init__(
        self,
        model: Any,
        targets: Sequence[str],
        examples: Sequence[Example],
        *,
        pad: int,
        chunk_tokens: int,
        gradient_checkpointing: bool = False,
        dtype: torch.dtype = torch.float32,
        optimizer_state: OptimizerState = "device",
        planner: Planner | None = None,
        replay: Sequence[Example] = (),
    ) -> None:
        self.model = model
        self.head = Head(model)
        self.is_unpadded = attention.is_supported(model)  # whether rows stand one behind another
        self.stack = AdapterStack(model, targets, dtype, optimizer_state)
        self.planner = planner or Planner(gradient_checkpointing=gradient_checkpointing)
        self.stack.set_gradient_checkpointing(self.planner.gradient_checkpointing is True)
        self.examples = examples
        self.replay = replay
        self.pad = pad
        self.chunk_tokens = chunk_tokens
        self.slots: list[Slot] = []  # in the order of the stack
        self.is_scaled = model.dtype is torch.float16  # the losses, before the backward
        self.before_part: Callable[[], None] = lambda: None  # before each part of a scoring; may raise to end it
        self.answer_tokens = 0  # that were chosen or written so far
        self._has_changed = False  # whether slots came or went since the last tick

    def new_slot(self, number: int, params: TrialParams, rhythm: Rhythm, seed: int) -> tuple[Slot, AdapterState]:
        """A trial at its beginning."""
        targets = resolve(params.target_modules, list(self.stack.modules))
        state = initial_state(self.stack, targets, params.rank, params.scale, seed)
        return Slot(number=number, params=params, rhythm=rhythm, seed=seed), state

    def admit(self, slot: Slot, state: AdapterState) -> None:
        """Adds a trial, new or resumed, beside those of like rank."""
        self.slots.insert(self.stack.admit(state), slot)
        self._has_changed = True

    def admit_alike(self, count: int, params: TrialParams, rhythm: Rhythm) -> None:
        """Adds trials that only show what work takes, all alike: in one layout, where each by itself makes another."""
        before = len(self.slots)
        _, state = self.new_slot(-1, params, rhythm, seed=0)
        first = self.stack.admit(*[state] * count)
        self.slots[first:first] = [
            Slot(number=-1 - number, params=params, rhythm=rhythm, seed=0) for number in range(before, before + count)
        ]
        self._has_changed = True

    def remove(self, slot: Slot) -> AdapterState:
        """Takes a trial out and returns its tensors; the others keep their order."""
        index = self.slots.index(slot)
        state = self.stack.remove(index)  # first: where memory runs out, nothing has changed
        del self.slots[index]
        self._has_changed = True
        return state

    def discard(self, slot: Slot) -> None:
        """Takes a trial out, and what it has learned with it: that needs no memory."""
        self.stack.discard(self.slots.index(slot))
        self.slots.remove(slot)
        self._has_changed = True

    def clear(self) -> None:
        """Takes all trials out, and what they have learned with them."""
        self.slots = []
        self.stack.clear()

    def settle(self) -> None:
        """Lays the adapters of those that came or went out in memory, if that has not been done: see the stack's."""
        self.stack.settle()

    def state(self, slot: Slot) -> AdapterState:
        """A copy of a trial's weights and moments, in host memory."""
        return self.stack.extract(self.slots.index(slot))

    def weights(self, slot: Slot) -> AdapterState:
        """A copy of a trial's weights alone, in host memory."""
        return self.stack.extract(self.slots.index(slot), kinds=("weight",))

    def tick(self) -> list[Tick]:
        """One optimizer step of every slot, in their order; the weights and moments of one that diverges stay."""
        self.settle()
        self.model.train()
        self._note_company()
        batches = [self._batch(slot) for slot in self.slots]
        items, divisors = self._items(batches)
        rates = [self._rates(slot).learning_rate for slot in self.slots]
        losses, norms = self._step(items, divisors)
        ticks = []
        for index, slot in enumerate(self.slots):
            slot.step += 1
            tokens = sum(len(item.tokens) for item in items if item.slot == index)
            slot.train_tokens += tokens
            own = [self.example(item.key) for item in items if item.slot == index]
            slot.supervised_tokens += sum(example.supervised_tokens for example in own)
            scale = slot.loss_scale.value if self.is_scaled else None
            is_skipped = self.is_scaled and slot.loss_scale.note(losses[index], norms[index])
            ticks.append(Tick(losses[index], norms[index], rates[index], scale, is_skipped, tokens))
        return ticks

    def rehearse(self, rows: Sequence[int]) -> None:
        """A step of every slot on these rows, as `example` names them; what it does to the adapters is not kept."""
        self.settle()
        self.model.train()
        self._step(*self._items([rows for _ in self.slots]))

    def items(self, batches: Sequence[Sequence[int]]) -> list[Item]:
        """What each slot would read of such training rows, its passages too."""
        return self._items(batches)[0]

    def example(self, key: int) -> Example:
        """A training row by its index; a passage by the complement (`~`) of its own."""
        return self.examples[key] if key >= 0 else self.replay[~key]

    def _batch(self, slot: Slot) -> list[int]:
        """The training rows of a slot's next step."""
        if slot.subset is None:
            return batch_rows(slot.rhythm, slot.step, len(self.examples), slot.seed)
        return [slot.subset[row] for row in batch_rows(slot.rhythm, slot.step, len(slot.subset), slot.seed)]

    def _items(self, batches: Sequence[Sequence[int]]) -> tuple[list[Item], list[float]]:
        """What each slot reads, and by what its loss is divided: its supervised tokens, each times its row's weight."""
        divisors, items = [], []
        for index, (slot, batch) in enumerate(zip(self.slots, batches, strict=True)):
            own = [(row, slot.examples_seen + place) for place, row in enumerate(batch)]
            if slot.params.replay:
                passages = replayed_rows(slot.rhythm, slot.step, len(self.replay), slot.seed, slot.params.replay)
                own += [(~row, FIRST_PASSAGE + position) for position, row in passages]
            read = [self.example(key) for key, _ in own]
            divisors.append(sum(example.supervised_tokens * example.weight for example in read))
            items += [Item(index, one.tokens, *at) for one, at in zip(read, own, strict=True)]
        return items, divisors

    def _step(self, items: list[Item], divisors: list[float]) -> tuple[list[float], list[float]]:
        """Forward, backward and optimizer; again from unchanged state where memory ran out.

        Returns:
            Each slot's loss, and its gradient's norm.
        """
        rates = [self._rates(slot) for slot in self.slots]

        def step() -> tuple[list[float], list[float]]:
            losses = self._backward(items, divisors)
            self.planner.optimize(self.stack.profile)
            return losses, optimizer.step(self.stack, rates)

        self.planner.begin()
        while isinstance(done := attempted(step), Failure):
            self.planner.rescue(done.message)
        self.planner.end()
        return done

    def _note_company(self) -> None:
        """Notes for each slot who trains beside it, where that has changed.

        Neighbours change nothing but the rounding: which rows share a chunk, and to what lengths and ranks it is
        padded. A training that amplifies rounding can be repeated exactly only in the same company.
        """
        if self._has_changed:
            here = tuple((slot.number, slot.step) for slot in self.slots)
            for slot in self.slots:
                slot.company.append(Company(step=slot.step, slots=here))
        self._has_changed = False

    def _backward(self, items: list[Item], divisors: list[float]) -> list[float]:
        """Accumulates every slot's gradient; returns each slot's loss."""
        for bucket in self.stack.buckets:
            bucket.grad.zero_()
        by = torch.tensor(divisors, device=self.stack.device, dtype=self.stack.dtype)
        total = torch.zeros_like(by)
        scales = total.new_tensor([slot.loss_scale.value for slot in self.slots]) if self.is_scaled else None
        queue = by_length(items)
        while queue:
            part = self.planner.part(
                Work.TRAIN,
                [len(item.tokens) for item in queue],
                self.stack.profile,
                self.chunk_tokens,
                supervised=[self.example(item.key).supervised_tokens for item in queue],
                can_checkpoint=self.stack.can_checkpoint,
                is_padded=not self.is_unpadded,
            )
            self.stack.set_gradient_checkpointing(part.is_checkpointed)
            total += self.train_chunk(self.chunk(queue[: part.rows]), by, scales)
            queue = queue[part.rows :]
        return [float(loss) for loss in total.tolist()]

    def chunk(self, items: Sequence[Item]) -> Chunk:
        """Items as one chunk, as this base takes it."""
        if not self.is_unpadded:
            return new_chunk(items, self.pad, self.stack.device)
        has_dropout = self.model.training and any(slot.params.dropout for slot in self.slots)  # another for each row
        return unpadded_chunk(items, self.stack.device, may_share=not has_dropout)

    def train_chunk(self, chunk: Chunk, divisors: torch.Tensor, scales: torch.Tensor | None = None) -> torch.Tensor:
        """Adds a chunk's part to every slot's gradient.

        Args:
            divisors: `(K,)`: the supervised tokens of each slot's effective batch, each times its row's weight.
            scales: `(K,)`: what each slot's loss is multiplied with for the backward.

        Returns:
            `(K,)`: the chunk's part of each slot's loss.
        """
        where = supervised(chunk, [self.example(item.key) for item in chunk.items])
        with self.stack.using(self._layout(chunk)):
            hidden = self.head.hidden(chunk)
        losses = self.head.losses(hidden[where.places], where.targets).to(divisors.dtype)
        if where.weights is not None:
            losses = losses * where.weights.to(divisors.dtype)
        by_slot = torch.zeros_like(divisors).index_add(0, where.slots, losses) / divisors
        (by_slot if scales is None else by_slot * scales).sum().backward()  # type: ignore[no-untyped-call]
        return by_slot.detach()

    def _layout(self, chunk: Chunk) -> Layout:
        """Whose adapter reads which row, and what dropout does to it in training."""
        rates = [self.slots[item.slot].params.dropout for item in chunk.items]
        if not any(rates):
            return self.stack.layout(chunk.rows, spans=chunk.spans)
        seeds = [self.slots[item.slot].seed for item in chunk.items]
        positions = [item.position for item in chunk.items]
        longest = max(len(item.tokens) for item in chunk.items)
        dropout = Dropout.of(seeds, positions, rates, longest, self.stack.device)
        if chunk.spans is not None:
            dropout = dropout.of_tokens(chunk.spans.owners, chunk.spans.positions)
        return self.stack.layout(chunk.rows, dropout, chunk.spans)

    def _rates(self, slot: Slot) -> optimizer.SlotRates:
        steps = slot.rhythm.total_steps
        warmup = math.ceil(slot.params.warmup_ratio * steps)
        multiplier = optimizer.schedule_multipliers(slot.params.schedule, warmup, steps)[slot.step]
        step = slot.step + 1 - slot.loss_scale.skipped_steps
        scale = slot.loss_scale.value if self.is_scaled else 1.0
        return optimizer.SlotRates(slot.params, slot.params.learning_rate * multiplier, step, scale)

    @torch.no_grad()
    def choose_next(
        self, items: Sequence[Item], candidates: Sequence[Sequence[int]], with_adapters: bool = True
    ) -> list[Choice]:
        """The likeliest of each item's candidate tokens behind it.

        An item's slot says whose adapter reads it; without adapters the base alone does. The
        items of all slots go through the base together.
        """

        def choose(chunk: Chunk) -> list[Choice]:
            tokens, likelihoods = self.best_of(chunk, [list(candidates[item.key]) for item in chunk.items])
            self.answer_tokens += len(tokens)
            return list(map(Choice, tokens.tolist(), likelihoods.tolist()))

        return self._in_parts(items, Work.SCORE, choose, with_adapters)

    def best_of(self, chunk: Chunk, allowed: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        """Of each row's allowed tokens the likeliest behind it, and its log-probability among them: `(rows,)` each."""
        index, is_padded, among = self._among(chunk, allowed)
        best = among.argmax(1, keepdim=True)
        likelihood = among.gather(1, best)[:, 0] - among.masked_fill(is_padded, -math.inf).logsumexp(1)
        return index.gather(1, best)[:, 0], likelihood

    @torch.no_grad()
    def weigh_next(
        self, items: Sequence[Item], candidates: Sequence[Sequence[int]], with_adapters: bool = True
    ) -> list[Weighed]:
        """As `choose_next`, with the log-probability of every candidate among all of them."""

        def weigh(chunk: Chunk) -> list[Weighed]:
            allowed = [list(candidates[item.key]) for item in chunk.items]
            index, is_padded, among = self._among(chunk, allowed)
            tokens = index.gather(1, among.argmax(1, keepdim=True))[:, 0].tolist()
            shares = among.double().masked_fill(is_padded, -math.inf).log_softmax(1).tolist()
            return [
                Weighed(token, tuple(row[: len(own)])) for token, row, own in zip(tokens, shares, allowed, strict=True)
            ]

        return self._in_parts(items, Work.SCORE, weigh, with_adapters)

    def _among(self, chunk: Chunk, allowed: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Each row's allowed tokens, which of them are padding, and their logits behind it: `(rows, most)` each."""
        hidden = self.head.hidden(chunk)
        last = [chunk.place(index, len(item.tokens) - 1) for index, item in enumerate(chunk.items)]
        logits = self.head.logits(hidden[torch.tensor(last, device=hidden.device)])
        width = max(map(len, allowed))
        # Padded with the first candidate, so that a padded place is a valid choice too; it is no likelihood of its own.
        index = torch.tensor([[*tokens, *[tokens[0]] * (width - len(tokens))] for tokens in allowed])
        is_padded = torch.tensor([[place >= len(tokens) for place in range(width)] for tokens in allowed])
        index, is_padded = index.to(logits.device), is_padded.to(logits.device)
        return index, is_padded, logits.gather(1, index)

    @torch.no_grad()
    def likelihoods(self, items: Sequence[Item], starts: Sequence[int], with_adapters: bool = True) -> list[float]:
        """The log-probability of each item's tokens from its place of `starts` on; slots are as in `choose_next`."""

        def read(chunk: Chunk) -> list[float]:
            return of_endings(self.head, chunk, [starts[item.key] for item in chunk.items])

        return self._in_parts(items, Work.SCORE, read, with_adapters)

    @torch.no_grad()
    def generate(
        self, items: Sequence[Item], max_new_tokens: int, end_tokens: Sequence[int], with_adapters: bool = True
    ) -> list[Written]:
        """The greedy continuation of each item, with a key-value cache; the items of all slots go together.

        An item's slot says whose adapter writes; without adapters the base alone does.

        Args:
            end_tokens: a continuation ends before the first of these, or at `max_new_tokens`.
        """
        settings = GenerationConfig(
            max_new_tokens=max_new_tokens, do_sample=False, eos_token_id=list(end_tokens) or None, pad_token_id=self.pad
        )

        def write(chunk: Chunk) -> list[Written]:
            likelihoods = Likelihoods()
            written = []
            answers = self.greedy(chunk, settings, likelihoods)[:, chunk.tokens.shape[1] :].tolist()
            for row, tokens in enumerate(answers):
                end = next((place for place, token in enumerate(tokens) if token in end_tokens), len(tokens))
                written.append(Written(tuple(tokens[:end]), likelihoods.mean(row, end + 1)))
                self.answer_tokens += min(end + 1, len(tokens))
            return written

        return self._in_parts(items, Work.GENERATE, write, with_adapters, room_tokens=max_new_tokens)

    def _in_parts(
        self,
        items: Sequence[Item],
        work: Work,
        answer: Callable[[Chunk], list[Answer]],
        with_adapters: bool,
        room_tokens: int = 0,
    ) -> list[Answer]:
        """Answers each item, in parts that fit; a part that ran out of memory is done again, in smaller ones."""
        self.settle()
        self.model.eval()
        # Where each item is, in a key of our own: the caller's keys need not be distinct.
        queue = by_length([Item(item.slot, item.tokens, index) for index, item in enumerate(items)])
        answers: dict[int, Answer] = {}
        while queue:
            self.before_part()
            lengths = [len(item.tokens) + room_tokens for item in queue]
            is_padded = not self.is_unpadded or room_tokens > 0
            part = self.planner.part(work, lengths, self.stack.profile, self.chunk_tokens, is_padded=is_padded)
            done = attempted(partial(self._part, queue[: part.rows], answer, with_adapters, room_tokens > 0))
            if isinstance(done, Failure):
                self.planner.rescue(done.message)
                continue
            self.planner.forgive()
            answers.update(done)
            queue = queue[part.rows :]
        return [answers[index] for index in range(len(items))]

    def _part(
        self, items: list[Item], answer: Callable[[Chunk], list[Answer]], with_adapters: bool, is_left: bool
    ) -> dict[int, Answer]:
        """The answers of one chunk by the items' keys."""
        chunk = new_chunk(items, self.pad, self.stack.device, is_left=True) if is_left else self.chunk(items)
        with self.stack.using(self.stack.layout(chunk.rows if with_adapters else (), spans=chunk.spans)):
            return dict(zip([item.key for item in chunk.items], answer(chunk), strict=True))

    def greedy(self, chunk: Chunk, settings: GenerationConfig, watched_by: LogitsProcessor | None = None) -> Any:
        """transformers' `generate` with `settings` alone."""
        own = self.model.generation_config
        # What is not set would come from the model's own settings: penalties, sampling, an end token.
        self.model.generation_config = settings
        try:
            return self.model.generate(
                chunk.tokens,
                attention_mask=chunk.attention_mask,
                generation_config=settings,
                logits_processor=LogitsProcessorList([watched_by] if watched_by is not None else []),
            )
        finally:
            self.model.generation_config = own
