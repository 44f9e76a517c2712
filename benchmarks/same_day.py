"""How much of a figure is of targets on the day of the item before them, whose order within the day no clock gives.

python benchmarks/same_day.py saved/comparison/time-beauty [MORE OUTPUTS] [--day=86400]

NDCG@10 of each row of `recbole-sid compare` (means over seeds) over all test targets, those on the same day as the last
item of their history, the others, and those whose item training has not seen. A day is in the unit of the file's times.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from recbole_sid.comparison.groups import runs_by_row
from recbole_sid.data.dataset import create_history_dataset
from recbole_sid.errors import InputError
from recbole_sid.evaluation.recorded_data import data_config
from recbole_sid.evaluation.runs import FinishedRun, instance_index
from recbole_sid.evaluation.tables import markdown_table
from recbole_sid.generalization.per_instance import METRICS, metrics_by_model


def tables(found: Mapping[str, Sequence[FinishedRun]], day: float) -> list[dict[str, Any]]:
    """Return a row for each group of test targets: how many, and NDCG@10 of each model."""
    runs = [run for of_row in found.values() for run in of_row]
    train, _, test = create_history_dataset(data_config(runs[0].result, overrides={"use_gpu": False})).build()
    place = test.target_positions()
    users, items = test.sequences[test.uid_field].numpy()[place], test.sequences[test.iid_field].numpy()[place]
    names = {
        name: np.asarray(test.field2id_token[field], dtype=str)[values]
        for name, field, values in (("user", test.uid_field, users), ("target", test.iid_field, items))
    }
    metrics = metrics_by_model(runs, instance_index(pd.DataFrame(names)))
    same_day = test.times[place] // day == test.times[place - 1] // day
    unseen = ~np.isin(items, train.training_sequences()[0])
    groups = {"all": np.ones(len(place), dtype=bool), "same day": same_day, "another day": ~same_day}
    groups |= {"item not seen in training": unseen}
    return [
        {
            "Targets": name,
            "": int(mask.sum()),
            **{model: f"{values[METRICS[0]].to_numpy()[mask].mean():.4f}" for model, values in metrics.items()},
        }
        for name, mask in groups.items()
        if mask.any()
    ]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("outputs", nargs="+", type=Path)
    parser.add_argument("--day", type=float, default=86400.0)
    arguments = parser.parse_args()
    try:
        print(markdown_table(tables(runs_by_row(arguments.outputs), arguments.day), left=["Targets"]))
    except InputError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
