"""Tokens that an encoder computes per epoch: rectangle, random batches, batches bucketed by length, no padding at all.

python benchmarks/padding.py DATASET [DATA_PATH] [--batch 256] [--levels 4]
"""

import argparse

import torch

from recbole_sid.config import Config
from recbole_sid.data import create_dataset
from recbole_sid.data.loader import LengthBucketSampler


def computed_tokens(order: torch.Tensor, lengths: torch.Tensor, batch: int, levels: int) -> int:
    """Return the sum over batches of rows x tokens of the longest history."""
    return sum(len(rows) * (2 + int(lengths[rows].max()) * levels) for rows in order.split(batch))


def main() -> None:
    """Print one Markdown row for the dataset."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset")
    parser.add_argument("data_path", nargs="?", default="dataset")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--levels", type=int, default=4)
    options = parser.parse_args()
    config = Config("TIGER", options.dataset, config_dict={"data_path": options.data_path})
    train = create_dataset(config).build()[0]
    lengths = train.inter_feat[train.item_list_length_field]
    generator = torch.Generator().manual_seed(0)
    random = torch.randperm(len(lengths), generator=generator)
    bucketed = torch.tensor(list(LengthBucketSampler(lengths, options.batch, generator)))
    needed = int((2 + lengths * options.levels).sum())
    rectangle = len(lengths) * (2 + config["MAX_ITEM_LIST_LENGTH"] * options.levels)
    cells = [rectangle / needed]
    cells += [computed_tokens(order, lengths, options.batch, options.levels) / needed for order in (random, bucketed)]
    print("| dataset | training rows | tokens (millions) | rectangle | random batches | bucketed batches |")
    print("|---|---:|---:|---:|---:|---:|")
    print(f"| {options.dataset} | {len(lengths):,} | {needed / 1e6:.1f} |", *[f"{cell:.2f}x |" for cell in cells])


if __name__ == "__main__":
    main()
