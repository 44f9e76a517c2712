"""At which sizes SID-MLP++'s encoders beat the T5 encoder that they replace.

python benchmarks/mlp_encoder.py [--batch 32] [--repeats 9] [--threads 1] [--device cpu]

Random weights, width 128, 4 x 256 codes, natural histories; medians of interleaved runs of the encoder alone, without
padding on the CPU, padded on CUDA.
"""

from __future__ import annotations

import argparse
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch import nn

from recbole_sid.evaluation.tables import markdown_table
from recbole_sid.nn.item_encoder import ItemEncoder
from recbole_sid.nn.t5 import T5Encoder, T5Sizes
from recbole_sid.nn.token_encoder import MLPEncoder
from recbole_sid.nn.vocabulary import PAD, TokenVocabulary

LEVELS, CODES, WIDTH, LONGEST = 4, 256, 128, 20


def encoders(vocabulary: TokenVocabulary) -> dict[str, nn.Module]:
    """Return the encoders by name; the first is what the others are compared with."""
    table = nn.Embedding(vocabulary.size, WIDTH)
    found: dict[str, nn.Module] = {"T5, 4 layers (the teacher's)": T5Encoder(T5Sizes(vocabulary.size))}
    for layers, ffn in ((4, 2048), (4, 1024), (4, 512), (4, 256), (2, 2048), (2, 512), (1, 2048)):
        found[f"token, {layers} layers, ffn {ffn}"] = MLPEncoder(
            table, LEVELS, vocabulary.eos, 2 + LONGEST * LEVELS, layers, ffn, 0.0
        )
    for mixing, layers, ffn in (("position", 3, 256), ("position", 3, 512), ("attention", 3, 256)):
        found[f"item, {mixing}, {layers} layers, ffn {ffn}"] = ItemEncoder(
            table, LEVELS, 1, LEVELS * CODES, LONGEST, layers, ffn, mixing, 0.0
        )
    return found


def histories(vocabulary: TokenVocabulary, batch: int) -> torch.Tensor:
    """Return serialised histories int64 [batch, S] of 8 items on average."""
    rng = np.random.default_rng(0)
    lengths = torch.from_numpy(np.clip(rng.negative_binomial(2, 0.22, batch) + 1, 1, LONGEST))
    codes = torch.from_numpy(rng.integers(0, CODES, (batch, int(lengths.max()), LEVELS)))
    absent = torch.arange(codes.shape[1]) >= lengths.unsqueeze(1)
    tokens = vocabulary.code_tokens(codes).masked_fill(absent.unsqueeze(-1), PAD)
    return vocabulary.serialise(tokens, lengths, torch.zeros(batch, dtype=torch.int64))


def seconds(encoder: Any, tokens: torch.Tensor) -> float:
    """Return the time of one call."""
    mask = tokens != PAD
    run = encoder if tokens.is_cuda else encoder.packed
    started = perf_counter()
    run(tokens, mask)
    if tokens.is_cuda:
        torch.cuda.synchronize()
    return perf_counter() - started


@torch.no_grad()
def main() -> None:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    vocabulary = TokenVocabulary([CODES] * LEVELS)
    rivals = {name: encoder.to(options.device).eval() for name, encoder in encoders(vocabulary).items()}
    tokens = histories(vocabulary, options.batch).to(options.device)
    times: dict[str, list[float]] = {name: [] for name in rivals}
    for number in range(options.repeats + 1):
        for name, encoder in rivals.items():
            spent = seconds(encoder, tokens)
            if number:
                times[name].append(spent)
    base = next(iter(times.values()))
    cells = [
        {
            "encoder": name,
            "own weights": sum(weight.numel() for key, weight in encoder.named_parameters() if "embedding" not in key),
            "ms a batch": f"{median(times[name]) * 1e3:.1f}",
            "time / T5's": f"{median(own / other for own, other in zip(times[name], base, strict=True)):.2f}",
        }
        for name, encoder in rivals.items()
    ]
    print(markdown_table(cells, left=["encoder"]))


if __name__ == "__main__":
    main()
