"""Milliseconds of the T5 encoder on one CPU: transformers' on the padded rectangle, ours padded, ours packed.

python benchmarks/encoder.py [--repeats 15] [--threads 1] [--quick]

TIGER's sizes, random weights, float32. Medians; the encoders take turns. The last column is the packed encoder's share
of the peak, which is the best rate seen on a product of 512 x 128 and 128 x 1,152.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch.utils.benchmark import Timer
from training import SIZES, Histories, OurT5, TransformersT5

from recbole_sid.nn.vocabulary import PAD


def seconds(functions: list[Callable[[], object]], repeats: int) -> list[list[float]]:
    """Return the times of each function, called in turns after one warm-up."""
    times: list[list[float]] = [[] for _ in functions]
    for number in range(repeats + 1):
        for function, own in zip(functions, times, strict=True):
            started = time.perf_counter()
            function()
            if number:
                own.append(time.perf_counter() - started)
    return times


def multiply_adds(lengths: torch.Tensor) -> int:
    """Return those of the encoder over histories of `lengths` tokens, without the first layer's table."""
    inner = SIZES.n_heads * SIZES.d_kv
    row = SIZES.d_model * (4 * inner + 2 * SIZES.d_ff)
    rows = SIZES.encoder_layers * row - 3 * SIZES.d_model * inner
    return int(lengths.sum() * rows + lengths.square().sum() * 2 * inner * SIZES.encoder_layers)


def peak_rate() -> float:
    """Return multiply-adds per second of a large product."""
    x, weight, out = torch.randn(512, 128), torch.randn(128, 1152), torch.empty(512, 1152)
    names = {"x": x, "weight": weight, "out": out}
    product = Timer("torch.mm(x, weight, out=out)", globals=names, num_threads=torch.get_num_threads())
    return x.numel() * weight.shape[1] / min(product.blocked_autorange(min_run_time=0.5).times)


@torch.no_grad()
def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="batches of 1 and 32 only, 7 repeats")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    ours = OurT5().eval()
    theirs, encoder = TransformersT5(ours).eval().model.encoder, ours.encoder
    peak = peak_rate()
    print("| batch | histories | tokens | transformers | ours, padded | ours, packed | ratio | share of peak |")
    print("|---:|---|---:|---:|---:|---:|---:|---:|")
    for batch in (1, 32) if options.quick else (1, 32, 256):
        for kind in ("natural", "full"):
            histories = Histories.random(batch)
            n_items = {"full": torch.tensor(20), "natural": torch.tensor(8) if batch == 1 else histories.lengths}[kind]
            histories = histories._replace(lengths=n_items.expand(batch))
            tokens, _ = histories.batch(torch.arange(batch))
            mask = tokens != PAD
            times = seconds(
                [
                    lambda tokens=tokens, mask=mask: theirs(input_ids=tokens, attention_mask=mask.long()),
                    lambda tokens=tokens, mask=mask: encoder(tokens, mask),
                    lambda tokens=tokens, mask=mask: encoder.packed(tokens, mask),
                ],
                7 if options.quick else options.repeats,
            )
            plain, padded, packed = (statistics.median(own) for own in times)
            share = multiply_adds(mask.sum(1)) / packed / peak
            cells = [f"{1000 * value:.1f} ms" for value in (plain, padded, packed)]
            print(f"| {batch} | {kind} | {int(mask.sum())} |", *[f"{cell} |" for cell in cells], end=" ")
            print(f"{plain / packed:.2f}x | {share:.0%} |", flush=True)


if __name__ == "__main__":
    main()
