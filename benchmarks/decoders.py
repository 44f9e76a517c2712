"""How often a trained model's beam differs from the true top items, and what bf16 changes.

python benchmarks/decoders.py CHECKPOINT... [--batches 40] [--prefixes]

For each checkpoint of ours, on its own test histories: the share of the exact top 10 that is found, users whose top 10
is exactly that, Recall@10 and NDCG@10, and milliseconds a batch (medians of interleaved runs, torch's threads). With
--prefixes instead: how many prefixes of a level score at least as much as the k-th best leaf.
"""

from __future__ import annotations

import argparse
from statistics import median
from time import perf_counter
from typing import Any

import torch

from recbole_sid.evaluation.retrieved import Retrieved
from recbole_sid.nn.t5 import T5Encoder
from recbole_sid.quick_start import load_data_and_model

TOP = 10
# Name -> decoder, width (None: the model's own), dtype of the encoder's products.
SETTINGS: dict[str, tuple[str, int | None, torch.dtype]] = {
    "exact": ("exact", None, torch.float32),
    "beam 10": ("beam", 10, torch.float32),
    "beam 20": ("beam", 20, torch.float32),
    "beam 50": ("beam", 50, torch.float32),
    "exact, bf16 encoder": ("exact", None, torch.bfloat16),
}
_COLUMNS = "model|decoder|share of exact top 10|users with the same top 10|Recall@10|NDCG@10|ms a batch".split("|")
_PREFIXES = "model|users|k|prefixes of a level: median|90%|99%|most".split("|")


def top_items(model: Any, interaction: Any) -> torch.Tensor:
    """Return the best ten items int64 [B, 10], 0 where fewer were found."""
    rows, items, scores = model.retrieve(interaction)
    return Retrieved(rows, items, scores, (len(interaction), model.n_items)).top_lists(TOP)


def compare(model: Any, batches: list[Any]) -> list[str]:
    """Return one Markdown row for each setting that the model has."""
    own_width, encoder = model.beam_size, model.history_encoder
    has_types = isinstance(encoder, T5Encoder)
    settings = {name: value for name, value in SETTINGS.items() if has_types or value[2] == torch.float32}
    found: dict[str, list[torch.Tensor]] = {name: [] for name in settings}
    seconds: dict[str, list[float]] = {name: [] for name in settings}
    for number, (interaction, _, _, _) in enumerate([batches[0], *batches]):
        for name, (decoding, width, dtype) in settings.items():
            model.decoding, model.beam_size = decoding, width or own_width
            if has_types:
                encoder.inference_dtype = dtype
            started = perf_counter()
            lists = top_items(model, interaction)
            if number:  # the first batch warms up
                found[name].append(lists)
                seconds[name].append(perf_counter() - started)
    targets = torch.cat([interaction[model.ITEM_ID] for interaction, _, _, _ in batches])
    exact = torch.cat(found["exact"])
    lines = []
    for name in settings:
        lists = torch.cat(found[name])
        shared = (lists.unsqueeze(2) == exact.unsqueeze(1)).any(1) & (exact > 0)
        hits = lists == targets.unsqueeze(1)
        gain = (hits / torch.arange(2, TOP + 2).log2()).sum(1)
        cells = [
            f"{shared.sum() / (exact > 0).sum():.4f}",
            f"{(lists == exact).all(1).float().mean():.4f}",
            f"{hits.any(1).float().mean():.4f}",
            f"{gain.mean():.4f}",
            f"{median(seconds[name]) * 1e3:.1f}",
        ]
        lines.append(f"| {type(model).__name__} | {name} | " + " | ".join(cells) + " |")
    return lines


def prefixes(model: Any, batches: list[Any]) -> list[str]:
    """Return one Markdown row for each k: quantiles over users of the prefixes that exact search cannot leave out."""
    trie = model.trie
    needed: dict[int, list[torch.Tensor]] = {k: [] for k in (10, 20, 50)}
    path = trie.path(torch.arange(trie.n_nodes(trie.n_levels)))
    for interaction, _, _, _ in batches:
        leaves = model.leaf_log_probs(model.scorer(model.encode(model.history_tokens(interaction))))
        above = [
            leaves.new_zeros(len(leaves), trie.n_nodes(level)).index_add_(1, path[level], leaves.exp()).log()
            for level in range(1, trie.n_levels)
        ]
        for k, counts in needed.items():
            bound = leaves.topk(k, dim=1).values[:, -1:]
            counts.append(torch.stack([(scores >= bound).sum(1) for scores in above]).amax(0))
    lines = []
    for k, counts in needed.items():
        most = torch.cat(counts).float()
        cells = [f"{value:.0f}" for value in most.quantile(torch.tensor([0.5, 0.9, 0.99, 1.0])).tolist()]
        lines.append(f"| {type(model).__name__} | {len(most):,} | {k} | " + " | ".join(cells) + " |")
    return lines


@torch.no_grad()
def main() -> None:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoints", nargs="+")
    parser.add_argument("--batches", type=int, default=40, help="test batches at most")
    parser.add_argument("--prefixes", action="store_true", help="how wide exact searches are")
    options = parser.parse_args()
    columns = _PREFIXES if options.prefixes else _COLUMNS
    print(f"| {' | '.join(columns)} |\n|---|---|{'---:|' * (len(columns) - 2)}")
    for checkpoint in options.checkpoints:
        _, model, _, _, _, test_data = load_data_and_model(checkpoint)
        batches = [batch for _, batch in zip(range(options.batches), test_data, strict=False)]
        print("\n".join((prefixes if options.prefixes else compare)(model.eval(), batches)), flush=True)


if __name__ == "__main__":
    main()
