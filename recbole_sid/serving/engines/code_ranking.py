"""How models rank by heads over codes, a head over items, or both, with or without a memory.

Scores are those of `recbole_sid.model.base.SIDRecommender`: log p0, and with a memory ``log p + sharpness * log p0``.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np

from recbole_sid.errors import InputError
from recbole_sid.fast.compiled import decoders, lookup
from recbole_sid.fast.compiled.arrays import Looked, Mixing
from recbole_sid.fast.compiled.asking import Asked, Model
from recbole_sid.fast.compiled.first_level import best_of, order_ties
from recbole_sid.fast.compiled.one_mixture import beam_of_mixture, search_with_candidates
from recbole_sid.fast.compiled.one_search import search_codes
from recbole_sid.fast.compiled.recall import mix_in
from recbole_sid.fast.compiled.search import search_beams
from recbole_sid.serving.engine import Histories
from recbole_sid.serving.engines.item_scores import NumpyItemHead
from recbole_sid.serving.engines.level_heads import Codes, LevelHeads, no_heads
from recbole_sid.serving.engines.reading import Reader, announce, check_items
from recbole_sid.serving.engines.readout import read_readout
from recbole_sid.serving.engines.remembered import Remembered

DECODINGS = ("beam", "exact", "full")
# Codes in the place of one that an explanation names.
_SIBLINGS = 10
# Users of a thread, and scores of all items, that are in memory together.
_USERS, _SCORES = 64, 1 << 23
_NOT_FINITE = (
    "The model's scores are not finite, so nothing can be ranked: its bundle is damaged, or its training diverged."
)


class Known(NamedTuple):
    """What is known of a batch of users.

    Attributes:
        asked: what the heads are asked.
        looked: what is remembered; None without a memory.
    """

    asked: Asked
    looked: Any

    def of(self, user: int) -> Known:
        """Return that of one user."""
        one = slice(user, user + 1)
        return Known(Asked(*(part[one] for part in self.asked)), None if self.looked is None else self.looked.of(one))


class CodeEngine:
    """Base of engines whose decoder is SID-MLP's (see `recbole_sid.serving.engine.Engine`).

    Args:
        arrays: of the bundle.
        settings: of the bundle.

    Attributes:
        shares: of the heads over codes and of that over items in p0, where there are both.
        index: how many prefixes of one code, and of two, lead to what the head over items ranks; None: it ranks all.
        n_threads: threads that users are shared among.
    """

    n_threads = 1

    def __init__(self, arrays: Mapping[str, np.ndarray], settings: Mapping[str, Any]) -> None:
        reader = Reader(arrays, settings)
        self.n_items = reader.whole("n_items", 2)
        self.max_history, self.beam_size = reader.whole("max_history", 1), reader.whole("beam_size", 1)
        self.decoding = reader.word("decoding", DECODINGS)
        self.codes = Codes(reader, self.n_items)
        self.heads: Any = LevelHeads(reader, self.codes) if reader.has("sid_heads") else None
        self.item_head: Any = NumpyItemHead(reader, self.n_items) if reader.has("item_head") else None
        if self.heads is None and self.item_head is None:
            raise InputError("The bundle has no heads to rank by: export it again.")
        both = self.heads is not None and self.item_head is not None
        self.shares: tuple[float, ...] = (1.0,)
        if both:
            share = reader.number("item_share", most=1)
            self.shares = (1 - share, share)
        self.index: tuple[int, int] | None = None
        if both and self.codes.n_levels > 1 and reader.knows("item_candidates"):
            self.index = self.beam_size, reader.whole("item_candidates", 1)
        if 0.0 in self.shares:
            raise InputError("The bundle has a head without a share: export it again.")
        self.memory = Remembered(reader, self.n_items) if reader.has("memory") else None
        readout = read_readout(reader, self.codes.n_levels if self.heads else 0)
        arrays_of_heads = self.heads.arrays if self.heads else no_heads()
        n_queries = reader.whole("n_queries", 1)
        if n_queries not in (1, self.codes.n_levels):
            raise InputError(f"The bundle's setting n_queries={n_queries} is not one, or one for each level.")
        self.model = Model(readout, arrays_of_heads, self.codes.prefixes, self.codes.places, n_queries)
        self._read(reader)
        announce(self._main_loop())

    def prepare(self) -> None:
        """Have all loops ready that requests need: they are read from disk, or compiled."""
        history, item = Histories(np.ones((1, 1), np.int64), np.ones(1, np.int64)), np.ones(1, np.int64)
        self.rank(history, 1)
        self.all_scores(history)
        self.scores(history, item)
        self.explain(history, item)

    def _main_loop(self) -> Any:
        """Return the largest of the loops that `rank` goes through."""
        if self.heads is None or (self.item_head is not None and self.decoding != "beam"):
            return best_of
        if self.item_head is not None or self.memory is not None:
            return beam_of_mixture if self.decoding == "beam" else search_with_candidates
        return search_codes if self.decoding == "beam" else search_beams

    @classmethod
    def of(cls, arrays: Mapping[str, np.ndarray], settings: Mapping[str, Any]) -> CodeEngine:
        """As `Engine.of`."""
        return cls(arrays, settings)

    @abstractmethod
    def _read(self, reader: Reader) -> None:
        """Read the encoder."""

    @abstractmethod
    def _ask(self, histories: Histories, asked: Asked) -> None:
        """Write what the heads are asked after histories."""

    def rank(self, histories: Histories, width: int) -> tuple[np.ndarray, np.ndarray]:
        """As `Engine.rank`."""
        k = min(max(self.beam_size, width), self.n_items - 1)
        items, scores = self._of_parts(lambda part: self._best(part, k, min(width, k)), histories)
        if not items[:, 0].all():
            raise InputError(_NOT_FINITE)
        return items[:, :width], scores[:, :width]

    def all_scores(self, histories: Histories) -> np.ndarray:
        """As `Engine.all_scores`."""
        return self._of_parts(lambda part: (self._all_scores(self.known(part)),), histories)[0]

    def scores(self, histories: Histories, items: np.ndarray) -> np.ndarray:
        """As `Engine.scores`."""
        check_items(items, self.n_items)
        return self._of_parts(lambda part: (self._scores(self.known(part), items),), histories)[0]

    def explain(self, histories: Histories, items: np.ndarray) -> list[dict[str, Any]]:
        """As `Engine.explain`."""
        check_items(items, self.n_items)
        check_items(histories.items, self.n_items)
        known = self.known(_contiguous(histories))
        return [self._explanation(known, histories, user, item) for user, item in enumerate(items.tolist())]

    def known(self, histories: Histories, k: int = 1) -> Known:
        """Return what is known of users by their histories, for a search of the best k."""
        n_users, hidden = len(histories.items), self.model.heads.gain.shape[1]
        k = k if self.index is None else max(k, self.index[0])
        n_levels, n_first = (self.codes.n_levels, self.codes.n_first) if self.heads else (0, 0)
        n_ranked = min(k, n_first) if self.decoding == "beam" else n_first
        asked = Asked(
            np.empty((n_users, n_levels, hidden), np.float32),
            np.empty((n_users, n_first), np.float32),
            np.empty((n_users, n_ranked), np.int64),
            np.empty((n_users, self.model.readout.norm1.shape[1] if self.item_head else 0), np.float32),
        )
        self._ask(histories, asked)
        if np.isnan(asked.first[:, :1]).any():  # the other head would hide it
            raise InputError(_NOT_FINITE)
        return Known(asked, None if self.memory is None else self.memory.look_up(histories, 1))

    def _of_parts(
        self, work: Callable[[Histories], tuple[np.ndarray, ...]], histories: Histories
    ) -> tuple[np.ndarray, ...]:
        """Return what `work` does of histories: of parts that are worked on together, shared among the threads."""
        check_items(histories.items, self.n_items)
        histories, n_users = _contiguous(histories), len(histories.items)
        size = min(_USERS, -(-n_users // self.n_threads))
        if self.item_head is not None:
            size = min(size, max(1, _SCORES // self.n_items))
        if n_users <= size:
            return work(histories)
        parts = [
            Histories(*(column[first : first + size] for column in histories)) for first in range(0, n_users, size)
        ]
        if self.n_threads > 1:
            with ThreadPoolExecutor(self.n_threads) as threads:
                found = list(threads.map(work, parts))
        else:
            found = [work(part) for part in parts]
        return tuple(np.concatenate(columns) for columns in zip(*found, strict=True))

    def _best(self, histories: Histories, k: int, width: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the best items int64 and scores, both [B, width] or wider, of histories that are worked on together.

        Args:
            k: the search's width, at least `width`.
        """
        known = self.known(histories, k)
        if self.heads is None or (self.item_head is not None and self.decoding != "beam"):
            return self._best_of_all(self._all_scores(known), k)
        if self.item_head is not None or known.looked is not None:
            return self._best_of_mixture(known, k, width)
        if self.decoding != "beam":
            return self.heads.exact(known.asked, k, 1)
        items, scores = np.empty((len(histories.items), k), np.int64), np.empty((len(histories.items), k), np.float32)
        search_codes(self.model, known.asked, k, items, scores)
        return items, scores

    def _best_of_all(self, scores: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        items, best = np.empty((len(scores), k), np.int64), np.empty((len(scores), k), np.float32)
        best_of(scores, items, best)
        order_ties(items, best)
        return items, best

    def _best_of_mixture(self, known: Known, k: int, width: int) -> tuple[np.ndarray, np.ndarray]:
        candidates = lookup.nothing(len(known.asked.first)) if known.looked is None else known.looked
        sharpness = 0.0 if self.memory is None else self.memory.sharpness
        mixing, users = Mixing.of_one_head(candidates.remaining, sharpness), self.heads.users(known.asked)
        decoding = "beam" if self.decoding == "beam" else "exact"
        if decoding == "beam":
            candidates = lookup.heaviest(candidates, k)
        if self.item_head is not None:
            rows, log_shares = self.item_head.rows(known.asked.query), np.log(self.shares)
            mixing = mixing._replace(log_share=np.float32(log_shares[0]), rows=rows)
            if self.index is not None:
                items, scores = decoders.mixture_by_index(
                    users, self.codes.places, mixing, candidates, self.index, log_shares[1], k, width, 1
                )
                order_ties(items, scores)
                return items, scores
            items, logits = self.item_head.best(rows, k)
            rows.totals[:] -= log_shares[1]
            mixing.rest[:] = logits[:, -1] - rows.totals
            candidates = lookup.with_items(candidates, items)
        items, scores = decoders.mixture(users, decoding, self.codes.places, mixing, candidates, k, width, 1)
        order_ties(items, scores)
        return items, scores

    def _all_scores(self, known: Known) -> np.ndarray:
        parts = [] if self.heads is None else [self.heads.log_probs(known.asked, 1)]
        if self.item_head is not None:
            parts.append(self._of_items(known.asked))
        return self._with_memory(self._mixed(parts), known.looked, np.arange(self.n_items))

    def _scores(self, known: Known, items: np.ndarray) -> np.ndarray:
        parts = [] if self.heads is None else [self.heads.log_probs_of(known.asked, items)]
        if self.item_head is not None:
            parts.append(self._of_items(known.asked)[:, items])
        return self._with_memory(self._mixed(parts), known.looked, items)

    def _of_items(self, asked: Asked) -> np.ndarray:
        """Return the log-probabilities [B, n_items] by the head over items."""
        if self.index is None:
            return self.item_head.log_probs(asked.query)
        rows = self.item_head.rows(asked.query)
        decoders.write_totals(self.heads.users(asked), self.codes.places, rows, self.index)
        return self.item_head.log_probs(asked.query, rows.totals)

    def _mixed(self, parts: list[np.ndarray]) -> np.ndarray:
        """Return log p0 of what heads over codes and items say."""
        if len(parts) == 1:
            return parts[0]
        of_codes, of_items = (part + np.float32(np.log(share)) for part, share in zip(parts, self.shares, strict=True))
        return np.logaddexp(of_codes, of_items)

    def _with_memory(self, log_p0: np.ndarray, looked: Looked | None, items: np.ndarray) -> np.ndarray:
        """Return the scores [B, M] of items int64 [M] from their log p0 [B, M]."""
        if looked is not None and self.memory is not None:
            with self.memory.sums() as sums:
                mix_in(looked, items, np.float32(self.memory.sharpness), sums, log_p0)
        return log_p0

    def _explanation(self, known: Known, histories: Histories, user: int, item: int) -> dict[str, Any]:
        one = known.of(user)
        logs: list[np.ndarray] = []
        parts: dict[str, float] = {}
        levels: list[dict[str, Any]] = []
        if self.heads is not None:
            levels = self.heads.path(one.asked, 0, item, _SIBLINGS)
            logs.append(self.heads.log_probs_of(one.asked, np.array([item])))
            parts["semantic IDs"] = float(np.exp(logs[-1][0, 0]))
        if self.item_head is not None:
            logs.append(self._of_items(one.asked)[:, [item]])
            parts["items"] = float(np.exp(logs[-1][0, 0]))
        log_p0 = self._mixed(logs)
        remembered: list[int] = []
        probability = float(np.exp(log_p0[0, 0]))
        if self.memory is not None:
            parts["memory"] = self.memory.mass_of(one.looked, item)
            probability = parts["memory"] + float(one.looked.remaining[0]) * probability
            remembered = self.memory.precursors(histories.items[user, : histories.lengths[user]], item)
        score = float(self._with_memory(log_p0, one.looked, np.array([item]))[0, 0])
        return {
            "probability": probability,
            "score": score,
            "levels": levels,
            "parts": parts,
            "remembered": remembered,
        }


def _contiguous(histories: Histories) -> Histories:
    """Return histories as loops are compiled for; for arrays of other kinds they would be compiled again."""
    return Histories(*(np.ascontiguousarray(column, np.int64) for column in histories))
