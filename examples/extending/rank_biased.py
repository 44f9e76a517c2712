"""A metric: rank-biased precision (A. Moffat, J. Zobel, ACM TOIS 2008), of RecBole's models too."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from recbole.evaluator.base_metric import TopkMetric

from recbole_sid.settings import Settings, declare


@dataclass(frozen=True)
class RankBiasedSettings(Settings):
    """Keys of the metric RBP."""

    rbp_persistence: float = declare(0.8, "Probability with which a user looks at the next place of a list.", below=1)


class RankBiased(TopkMetric):
    """``(1 - p) p^(rank - 1)``, summed over the hits of a list."""

    settings = RankBiasedSettings

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.persistence = RankBiasedSettings.of(config).rbp_persistence

    def calculate_metric(self, dataobject: Any) -> dict[str, float]:
        hits, _ = self.used_info(dataobject)
        gains = (1 - self.persistence) * self.persistence ** np.arange(hits.shape[1])
        return self.topk_result("rbp", np.cumsum(hits * gains, axis=1))
