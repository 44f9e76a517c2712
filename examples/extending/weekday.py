"""A breakdown: NDCG@10 by the day of the week on which the target was met."""

from __future__ import annotations

from typing import Any

import numpy as np

from recbole_sid.comparison.breakdown import Breakdown

_DAYS = np.array(["4 Thursday", "5 Friday", "6 Saturday", "7 Sunday", "1 Monday", "2 Tuesday", "3 Wednesday"])
_SECONDS = 24 * 60 * 60


def _weekday(train: Any, test: Any) -> np.ndarray:
    """Return the day of each test instance; the time is seconds since 1970, which began on a Thursday."""
    times = test.inter_feat[test.time_field].numpy().astype(np.int64)
    return _DAYS[times // _SECONDS % 7]


WEEKDAY = Breakdown(_weekday)
