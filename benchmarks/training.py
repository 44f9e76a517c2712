"""Real tokens per second of training the teacher: our T5 on bucketed batches, transformers' T5 on padded random ones.

python benchmarks/training.py [--batch 256] [--steps 8] [--threads 1] [--quick]

A step is the forward and backward pass of the cross entropy over five target tokens, clipping and AdamW, at TIGER's
sizes with 4 x 256 codes. Histories have 1 to 20 items, 8 on average. The rows take steps in turns, so that noise hits
all alike; padding does not count as tokens.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from interleaved import take_in_turn
from torch import nn
from transformers import T5Config, T5ForConditionalGeneration

from recbole_sid.data.loader import LengthBucketSampler
from recbole_sid.evaluation.tables import markdown_table
from recbole_sid.nn.t5 import T5Decoder, T5Encoder, T5Sizes, initialise, to_transformers
from recbole_sid.nn.vocabulary import PAD, TokenVocabulary

VOCABULARY = TokenVocabulary((256,) * 4, n_user_tokens=1)
SIZES = T5Sizes(VOCABULARY.size)
BATCHES_IN_POOL = 50  # as many as the bucketing sorts together


class Histories(NamedTuple):
    """Item tokens int64 [n, 20, 4], how many of them are in the history [n], and target tokens [n, 5]."""

    items: torch.Tensor
    lengths: torch.Tensor
    targets: torch.Tensor

    @classmethod
    def random(cls, n: int) -> Histories:
        """Return n histories of random codes."""
        rng = np.random.default_rng(0)
        lengths = torch.from_numpy(np.clip(rng.negative_binomial(2, 0.22, n) + 1, 1, 20))
        items = VOCABULARY.code_tokens(torch.from_numpy(rng.integers(256, size=(n, 20, 4))))
        targets = VOCABULARY.code_tokens(torch.from_numpy(rng.integers(256, size=(n, 4))))
        return cls(items, lengths, F.pad(targets, (0, 1), value=VOCABULARY.eos))

    def batch(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return tokens [B, S], S the longest of these rows, and targets [B, 5]."""
        lengths = self.lengths[rows]
        items = self.items[rows, : int(lengths.max())]
        items[torch.arange(items.shape[1]) >= lengths.unsqueeze(1)] = PAD
        return VOCABULARY.serialise(items, lengths, torch.ones_like(rows)), self.targets[rows]


class OurT5(nn.Module):
    """The teacher without its dataset."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = T5Encoder(SIZES), T5Decoder(SIZES)
        initialise(self, SIZES)

    def forward(self, tokens: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Return the loss of tokens [B, S] and targets [B, n]."""
        mask = tokens != PAD
        embedded = self.encoder.embedding(F.pad(targets[:, :-1], (1, 0), value=PAD))
        decoded = self.decoder(embedded, self.encoder(tokens, mask), mask)
        logits = F.linear(decoded * SIZES.d_model**-0.5, self.encoder.embedding.weight)
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


class TransformersT5(nn.Module):
    """The same model in transformers, from the same weights."""

    def __init__(self, ours: OurT5) -> None:
        super().__init__()
        self.model = T5ForConditionalGeneration(
            T5Config(
                vocab_size=SIZES.vocabulary,
                d_model=SIZES.d_model,
                d_kv=SIZES.d_kv,
                d_ff=SIZES.d_ff,
                num_layers=SIZES.encoder_layers,
                num_decoder_layers=SIZES.decoder_layers,
                num_heads=SIZES.n_heads,
                dropout_rate=SIZES.dropout,
                feed_forward_proj="relu",
                tie_word_embeddings=True,
                decoder_start_token_id=PAD,
                pad_token_id=PAD,
            )
        )
        self.model.load_state_dict(to_transformers(ours.state_dict()))

    def forward(self, tokens: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Return the loss of tokens [B, S] and targets [B, n]."""
        return self.model(input_ids=tokens, attention_mask=(tokens != PAD).long(), labels=targets).loss


class Row:
    """One line of the table: takes training steps and counts what they did."""

    def __init__(self, name: str, model: nn.Module, batches: Iterator[tuple[torch.Tensor, torch.Tensor]]) -> None:
        self.name, self.model, self.batches = name, model.train(), batches
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.05)
        self.tokens, self.computed, self.seconds = 0, 0, 0.0

    def step(self) -> None:
        """Train on the next batch."""
        tokens, targets = next(self.batches)
        started = time.perf_counter()
        self.optimizer.zero_grad()
        self.model(tokens, targets).backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.seconds += time.perf_counter() - started
        self.tokens += int((tokens != PAD).sum())
        self.computed += tokens.numel()

    def forget(self) -> None:
        """Do not count what was done so far."""
        self.tokens, self.computed, self.seconds = 0, 0, 0.0


def in_batches(histories: Histories, order: torch.Tensor, size: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield the batches of `histories` in `order`."""
    return (histories.batch(rows) for rows in order.split(size))


def measure(batch: int, steps: int) -> list[Row]:
    """Return the rows after one uncounted and `steps` counted steps each."""
    histories = Histories.random(batch * BATCHES_IN_POOL)
    random = torch.randperm(len(histories.lengths), generator=torch.Generator().manual_seed(0))
    sampler = LengthBucketSampler(histories.lengths, batch, torch.Generator().manual_seed(0))
    bucketed = torch.tensor(list(sampler))
    torch.manual_seed(0)
    models: list[Callable[[], nn.Module]] = [lambda: TransformersT5(OurT5()), OurT5]
    rows = [
        Row(f"{library}, {kind} batches", build(), in_batches(histories, order, batch))
        for kind, order in (("random", random), ("bucketed", bucketed))
        for library, build in zip(("transformers", "ours"), models, strict=True)
    ]
    take_in_turn(rows, steps)
    return rows


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="batches of 64 and 6 steps")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    batch, steps = (64, 6) if options.quick else (options.batch, options.steps)
    rows = measure(batch, steps)
    baseline = rows[0].tokens / rows[0].seconds
    print(f"Batch {batch}, {options.threads} thread(s), {steps} steps a row.\n")
    cells = [
        {
            "training": row.name,
            "real tokens/s": f"{row.tokens / row.seconds:,.0f}",
            "ratio": f"{row.tokens / row.seconds / baseline:.2f}x",
            "computed / real tokens": f"{row.computed / row.tokens:.2f}",
        }
        for row in rows
    ]
    print(markdown_table(cells, left=["training"]))


if __name__ == "__main__":
    main()
