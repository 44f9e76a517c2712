"""How much of what leave-last-out lets a model memorise happened only after the moment that it is tested at.

python benchmarks/future_pairs.py --dataset=ml-100k [--data_path=DIR] [--KEY=VALUE ...]

A test instance is memorised if its target directly followed the last item of its history in some training sequence; it
is from the future if in training that happened only later than the target itself. Of a split by time, as with
``--eval_args="{split: {TS: [0.8, 0.9]}}"``, nothing is.
"""

from __future__ import annotations

import sys
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from recbole_sid.config import Config, parse_value
from recbole_sid.data.dataset import HistoryDataset, create_history_dataset
from recbole_sid.errors import InputError
from recbole_sid.evaluation.tables import markdown_table


class Pairs(NamedTuple):
    """An item and the one before it, and when it happened; each [n].

    Attributes:
        key: int64, one number a pair.
        time: float64, as in the file.
    """

    key: np.ndarray
    time: np.ndarray

    @classmethod
    def of(cls, part: HistoryDataset) -> Pairs:
        """Return the pair that each row of a part ends with."""
        items, place = part.sequences[part.iid_field].long().numpy(), part.target_positions()
        return cls(items[place - 1] * part.item_num + items[place], part.times[place])


def counts(config: Any) -> dict[str, Any]:
    """Return how many test instances of a configuration's dataset and split are memorised, and from the future."""
    train, _, test = create_history_dataset(config).build()
    learnt, tested = Pairs.of(train), Pairs.of(test)
    first = pd.Series(learnt.time).groupby(learnt.key).min()
    earliest = first.reindex(tested.key).to_numpy()
    memorised, future = ~np.isnan(earliest), earliest > tested.time
    return {
        "Dataset": config["dataset"],
        "Split": next(iter(config["eval_args"]["split"])),
        "Test instances": len(tested.key),
        "memorised": int(memorised.sum()),
        "only from the future": int(future.sum()),
        "share of the memorised": f"{future.sum() / max(1, memorised.sum()):.1%}",
    }


def main() -> None:
    """Print a row for the dataset."""
    words = dict(
        word.removeprefix("--").split("=", 1) for word in sys.argv[1:] if word.startswith("--") and "=" in word
    )
    settings = {key: parse_value(value) for key, value in words.items()}
    if "dataset" not in settings:
        sys.exit(__doc__)
    try:
        found = counts(Config("SASRec", settings.pop("dataset"), config_dict={"state": "WARNING", **settings}))
    except InputError as error:
        sys.exit(str(error))
    print(markdown_table([found], left=["Dataset", "Split"]))


if __name__ == "__main__":
    main()
