"""The packed engine: how many adapters train at once over one frozen base, each as if it were alone.

One tick, that is one optimizer step of every slot:

    slot 0  r=8  lr 2e-4   rows ─┐                                         chunk: rows of like length, slot-major
    slot 1  r=16 lr 1e-3   rows ─┼─ sorted by length, cut to chunk_tokens ─┐
    slot 2  r=64 lr 5e-4   rows ─┘                                         │
                                                                           ▼
           ┌──────────── every targeted linear of the base (lora.PackedLoRA) ─────────────┐
           │                                                                              │
        x ─┼──────────────── W, frozen, 4 bit, once for all rows ──────────────────┬─ sum ┼─► y
           │                                                                       │      │
           │   rows of slot 0 ─ dropout ─ A[0] ─ B[0] ─ alpha/r ─┐  bucket r ≤ 16  │      │
           │   rows of slot 1 ─ dropout ─ A[1] ─ B[1] ─ alpha/r ─┴─ two bmm ───────┤      │
           │   rows of slot 2 ─ dropout ─ A[2] ─ B[2] ─ alpha/r ─── bucket r ≤ 64 ─┘      │
           └──────────────────────────────────────────────────────────────────────────────┘
                                                                           │ hidden states where the answer is
                                                                           ▼
           head (in parts, recomputed) ─► token losses ─► by slot: sum / its supervised tokens ─► sum ─► backward
                                                                           │ once all chunks of the tick are through
                                                                           ▼
           stack: flat (K, P) gradients ─► clip by slot ─► AdamW by slot ─► weights, moments (K, P)

**Why a slot gets what it would get alone.** No operation mixes rows of two slots: the base treats rows
apart, each row meets its own A and B, and the loss is a plain sum over slots, so the gradient of a slot has
no term of another. A slot's loss is divided by the supervised tokens of its whole effective batch, so that
it does not matter how the tick is cut. Clipping, moments, learning rate, decay and step belong to one row of
`(K, P)`. Dropout is a hash of (trial seed, example, token, layer, feature) and not a draw, so it is the same
in any chunk, beside anybody, and when a layer is recomputed. A gradient that is not finite is masked out of
its own row.

**Rows are not padded.** All tokens of a chunk stand one behind another, each with its position; attention alone is told
whose they are (`spans`). Rows of a slot that begin alike share that beginning, in training and in scoring, and without
dropout. An architecture that does not leave its attention to transformers' `sdpa` has its rows padded to the longest.
On a CPU that computes in bfloat16, short rows have an attention of ours (`short_attention`).

**What padding does: nothing.** Ranks in a bucket are padded with zeros in A *and* B; both gradients are then
zero there, and AdamW leaves zeros at zero, with weight decay too. A slot that does not target a layer that a
neighbour targets has zeros there as well. Where rows are padded, causal attention does not look there, and no loss
stands there.

**Ranks.** A pack of ranks 8 and 128 in one tensor would pad the small one sixteenfold, so slots of like rank
form a bucket (up to 16, 64, 256, …), padded to the largest in it. Each bucket costs two kernels a layer; on
the CPU, a tick of seven slots of rank 8 and one of 128 takes 0.47 s in place of 0.86 s, and its adapters 38 MiB
in place of 212 (`tests/benchmarks/rank_buckets.py`). In a bucket, equal rows take `bmm`; ragged rows `grouped_mm`,
or a padded `bmm` where the format forbids it.

**float16.** On cards without bfloat16, each slot's loss is enlarged by a scale of its own (`loss_scale`) and its
gradient made smaller again before it is clipped. Where it overflows, that slot skips the step and halves its scale.

**Gradient checkpointing.** transformers calls our function in place of a layer's forward. The layout (whose
row is whose) goes into `torch.utils.checkpoint` as an argument: the recompute happens in the backward, when
the layers' active layout may be another.

**A slot moves.** `Slot` and `AdapterState` are all there is of a trial: weights and moments at their true
rank, step, seed, evaluations, the best adapter so far. `checkpoint` writes them as one hashed file; any pack
over the same base goes on from there.

**Scoring is packed too.** `Pack.choose_next` (classification) and `Pack.generate` (greedy, with a key-value
cache) send the same rows through all adapters at once. Adapters are computed in the base's precision in
training and in their own, as PEFT does it, in scoring: what is scored is what the user of an export gets.

**Which bases.** Any causal model of transformers; `compatibility.verify` proves it on a few tokens before
the first trial and says why where it does not hold.

Read on: `pack` (the tick), `stack` (buckets and buffers), `lora` (the layer), `spans`, `optimizer`, `head`, `batches`.
The proof is in tests/engine: `test_exactness.py` against PEFT, `test_script.py` for any sequence of events.
"""

import sweeper.models  # noqa: F401  (before peft imports bitsandbytes, whose needless warning it turns off)
