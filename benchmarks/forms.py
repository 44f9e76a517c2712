"""What each form for inference gains over the same mathematics by the modules themselves, on one CPU.

python benchmarks/forms.py [--threads 1 2] [--batches 1 32] [--rounds 15]

The paper's sizes, random weights, 25,000 items, beam 50, natural histories. Both sides of a row take turns on the same
batch; the ratio is the median of the rounds' ratios with its quartiles, so what takes the processor away hits both.
With one thread the time is the thread's own on the processor, which waiting for others does not lengthen.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from statistics import median, quantiles
from time import perf_counter, thread_time
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F

import recbole_sid.model.base
from recbole_sid.bench.data import Workload
from recbole_sid.bench.plain import PlainDecoder
from recbole_sid.data.histories import cut_histories
from recbole_sid.decoding.beam import beam_search
from recbole_sid.fast.compiled_scorer import is_usable
from recbole_sid.fast.t5_parts import CPU_CHUNK_ROWS
from recbole_sid.nn.packing import Packed, Packing, chunked
from recbole_sid.nn.vocabulary import PAD

Call = Callable[[], Any]
ITEMS, BEAM = 25_000, 50


@dataclass(frozen=True)
class Rivals:
    """A form, what it does, and the same by other means."""

    form: str
    instead: str
    ours: Call
    theirs: Call


def encode_by_modules(encoder: Any, tokens: torch.Tensor, mask: torch.Tensor, rows: int | None) -> Packed:
    """Return the states without padding by the encoder's blocks, length by length, `rows` rows at a time."""
    packing = Packing.of(mask)
    packed = tokens.flatten()[packing.index]
    chunks = [list(packing.groups)] if rows is None else list(chunked(packing.groups, rows))
    states = []
    for chunk in chunks:
        for _, own, length in chunk:
            x = encoder.embedding(packed[own].view(-1, length))
            positions = torch.arange(length)
            bias = encoder.relative_bias(positions, positions)
            for block in encoder.typed_blocks:
                x = block(x, bias)
            states.append(encoder.norm(x).flatten(0, 1))
    return Packed(torch.cat(states), packing)


@dataclass(frozen=True)
class ModuleState:
    """As `TIGERState`, keys and values of the past copied for every beam."""

    level: int
    decoded: torch.Tensor
    past: list[tuple[torch.Tensor, torch.Tensor]]


class ModuleScorer:
    """TIGER's `LevelScorer` by the decoder's blocks: the past is reordered, cross-attention masks padding."""

    def __init__(self, model: Any, states: torch.Tensor, mask: torch.Tensor) -> None:
        self.model, self.n_users, self.device = model, len(states), states.device
        self.bias = torch.zeros(mask.shape).masked_fill(~mask, -torch.inf)[:, None, None]
        self.cross = [block.cross.keys_values(states) for block in model.decoder.typed_blocks]

    def start(self) -> ModuleState:
        return self._step(torch.full((self.n_users, 1), PAD), 0, [])

    def extend(self, state: ModuleState, parents: torch.Tensor, codes: torch.Tensor) -> ModuleState:
        index = parents[:, None, :, None, None]
        past = []
        for pair in state.past:  # [B, heads, K, n, d_kv]
            shape = (-1, pair[0].shape[1], -1, pair[0].shape[3], pair[0].shape[4])
            past.append(tuple(part.gather(2, index.expand(shape)) for part in pair))
        return self._step(codes + self.model.vocabulary.level_offsets[state.level], state.level + 1, past)

    def logits(self, state: ModuleState, beams: torch.Tensor | None) -> torch.Tensor:
        decoded = state.decoded.flatten(0, 1)
        return self.model.level_vocabulary_logits(decoded if beams is None else decoded[beams], state.level)

    def _step(self, tokens: torch.Tensor, level: int, past: list[Any]) -> ModuleState:
        decoder = self.model.decoder
        x = self.model.token_embedding(tokens)  # [B, K, d]
        positions = torch.arange(level + 1)
        bias = decoder.relative_bias(positions[-1:], positions).unsqueeze(2)
        new = []
        for number, block in enumerate(decoder.typed_blocks):
            own = block.attention
            normed = block.attention_norm(x)
            q, k, v = (own.split(linear(normed)).unsqueeze(3) for linear in (own.q, own.k, own.v))
            if past:
                k, v = torch.cat([past[number][0], k], 3), torch.cat([past[number][1], v], 3)
            new.append((k, v))
            context = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=1.0).squeeze(3)
            x = x + own.o(context.transpose(1, 2).flatten(2))
            cross = block.cross
            x = x + cross.attend(cross.split(cross.q(block.cross_norm(x))), *self.cross[number], self.bias)
            x = x + block.feed_forward(block.feed_forward_norm(x))
        return ModuleState(level, decoder.norm(x), new)


@contextmanager
def looked_at_by_each_form() -> Iterator[None]:
    """Let every form look at its weights by itself, as if requests did not say that they are unchanged."""
    with patch.object(recbole_sid.model.base, "weights_unchanged", lambda model: nullcontext()):
        yield


def by_each_form(model: Any, batch: Any) -> Any:
    """Return `retrieve` under `looked_at_by_each_form`."""
    with looked_at_by_each_form():
        return model.retrieve(batch)


def rivals(workload: Workload, size: int) -> Iterator[Rivals]:
    """Yield the pairs to be measured on a batch of `size` histories."""
    tiger = workload.model("TIGER", constrained=True, decoding="beam")
    batch = cut_histories(workload.batches("natural", size, 1)[0], tiger.ITEM_SEQ, tiger.ITEM_SEQ_LEN)
    student = workload.model("SIDMLP", compiled=True, decoding="beam")
    in_torch = workload.model("SIDMLP", compiled=False, decoding="beam")
    items = workload.model("SIDMLPPlusPlus-item", decoding="beam")
    for name, model in (("SIDMLP", student), ("SIDMLPPlusPlus, items", items), ("TIGER", tiger)):
        if size == 1:
            yield Rivals(
                f"weights looked at once a request: {name}",
                "by each form",
                lambda model=model: model.retrieve(batch),
                lambda model=model: by_each_form(model, batch),
            )
    tokens = tiger.history_tokens(batch)
    mask = tokens != PAD
    encoder = tiger.encoder

    def form() -> Packed:
        return encoder.packed(tokens, mask)

    yield Rivals("T5 encoder", "modules, padded", form, lambda: encoder(tokens, mask))
    yield Rivals("T5 encoder", "modules, by length", form, lambda: encode_by_modules(encoder, tokens, mask, None))
    yield Rivals(
        "T5 encoder",
        f"modules, by length, {CPU_CHUNK_ROWS} rows at a time",
        form,
        lambda: encode_by_modules(encoder, tokens, mask, CPU_CHUNK_ROWS),
    )
    encoded = tiger.encode(tokens)
    yield Rivals(
        "T5 decoder, whole beam search",
        "modules, past reordered",
        lambda: tiger.search(tiger.scorer(encoded)),
        lambda: beam_search(ModuleScorer(tiger, *encoded), tiger.trie, BEAM),
    )
    states = student.encode(tokens)
    padded = student.encode_padded(tokens)
    readout = student.decoder.readout
    yield Rivals("readout", "as trained, padded", lambda: readout.packed(states), lambda: readout(*padded))
    plain = PlainDecoder(in_torch)

    def searched(model: Any) -> Call:
        return lambda: model.search(model.scorer(states))

    yield Rivals(
        "heads in tables, with readout",
        "heads as trained",
        searched(in_torch),
        lambda: plain.search(in_torch.context(states)[:, 0]),
    )
    if not is_usable():
        return
    for decoding in ("beam", "exact", "full"):
        compiled, uncompiled = (workload.model("SIDMLP", compiled=own, decoding=decoding) for own in (True, False))
        yield Rivals(f"compiled search: {decoding}", "torch", searched(compiled), searched(uncompiled))
    yield Rivals(
        "compiled search: beam, whole request",
        "torch",
        lambda: student.retrieve(batch),
        lambda: in_torch.retrieve(batch),
    )
    layer = items.history_encoder.items
    own = workload.model("SIDMLPPlusPlus-item", decoding="beam")
    own.history_encoder.items.looked_up = own.history_encoder.items.forward
    codes, recency = torch.randint(1, 1024, (8 * size, 4)), torch.arange(8).repeat(size)
    yield Rivals("items' table", "as trained", lambda: layer.looked_up(codes, recency), lambda: layer(codes, recency))
    yield Rivals("items' table, request", "as trained", lambda: items.retrieve(batch), lambda: own.retrieve(batch))


def measured(pair: Rivals, rounds: int) -> tuple[float, float, list[float]]:
    """Return the medians in milliseconds of both sides, and the ratios theirs / ours of the rounds."""
    clock = thread_time if torch.get_num_threads() == 1 else perf_counter
    ours, theirs = [], []
    for number in range(rounds + 1):
        sides = ((pair.ours, ours), (pair.theirs, theirs))
        for call, times in sides if number % 2 else sides[::-1]:
            started = clock()
            call()
            if number:  # the first round warms up
                times.append(1e3 * (clock() - started))
    return median(ours), median(theirs), [other / own for own, other in zip(ours, theirs, strict=True)]


@torch.no_grad()
def main() -> None:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 32])
    parser.add_argument("--rounds", type=int, default=15, help="four times as many at batch 1")
    options = parser.parse_args()
    workload = Workload.synthetic(ITEMS, BEAM, torch.device("cpu"), seed=0)
    print("| form | instead | batch | threads | ms | ms instead | gain | quartiles |")
    print("|---|---|---:|---:|---:|---:|---:|---:|")
    for threads in options.threads:
        torch.set_num_threads(threads)
        for size in options.batches:
            for pair in rivals(workload, size):
                ours, theirs, ratios = measured(pair, options.rounds * (1 if size > 1 else 4))
                low, middle, high = quantiles(ratios, n=4, method="inclusive")
                cells = [pair.form, pair.instead, size, threads, f"{ours:.2f}", f"{theirs:.2f}", f"{middle:.2f}x"]
                print("|", *[f"{cell} |" for cell in cells], f"{low:.2f} to {high:.2f} |", flush=True)


if __name__ == "__main__":
    main()
