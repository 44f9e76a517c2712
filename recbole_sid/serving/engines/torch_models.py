"""TIGER and CausalSID of bundles, which write semantic IDs by themselves: the package's own networks, in torch."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn

from recbole_sid.decoding import decoder_named
from recbole_sid.decoding.beam import unconstrained_beam_search
from recbole_sid.decoding.children import NORMALISERS, masked_log_softmax
from recbole_sid.decoding.full import items_of_leaves, leaf_log_probs, ranked_items
from recbole_sid.decoding.scorer import LevelScorer
from recbole_sid.decoding.trie import Trie
from recbole_sid.decoding.walk import walk
from recbole_sid.errors import InputError, first_line
from recbole_sid.memory import Memory, Recall
from recbole_sid.memory.mixture import best_with_memory, scores_of_all, sharpened
from recbole_sid.nn.causal_transformer import CausalCache, CausalSizes, CausalTransformer
from recbole_sid.nn.generator_scorers import CausalScorer, TiedCodes, TIGERScorer
from recbole_sid.nn.t5 import T5Decoder, T5DecoderCache, T5Encoder, T5Sizes
from recbole_sid.nn.vocabulary import PAD, TokenVocabulary
from recbole_sid.serving.engine import Histories
from recbole_sid.serving.engines.reading import Reader, check_items

DECODINGS = ("beam", "exact", "full")
# Users that are ranked together, and users times items whose scores are.
_USERS, _SCORES = 32, 1 << 23
_SIBLINGS = 10
_MOST_LAYERS = 256
_WEIGHTS = "network."  # what the names of the network's arrays begin with


class GeneratorEngine:
    """Base of engines whose model writes the codes of the next item (see `recbole_sid.serving.engine.Engine`).

    Args:
        arrays: of the bundle.
        settings: of the bundle.
    """

    def __init__(self, arrays: Mapping[str, np.ndarray], settings: Mapping[str, Any]) -> None:
        reader = Reader(arrays, settings)
        self.n_items = reader.whole("n_items", 2)
        self.max_history, self.beam_size = reader.whole("max_history", 1), reader.whole("beam_size", 1)
        self.decoding, self.constrained = reader.word("decoding", DECODINGS), reader.has("constrained")
        self.normaliser = reader.word("normaliser", NORMALISERS)
        self.vocabulary = TokenVocabulary(reader.sizes("codebook_sizes"))
        self.trie = read_trie(reader, self.vocabulary.codebook_sizes, self.n_items)
        tokens = torch.zeros(self.n_items, self.vocabulary.n_levels, dtype=torch.int64)
        self.item_tokens = tokens.index_copy_(0, self.trie.item.long(), self.vocabulary.code_tokens(self.trie.codes()))
        with torch.device("meta"):  # sizes that weights do not have would take memory
            network = self.network(reader)
        self.weights = _filled(network, reader, arrays).eval().requires_grad_(False)
        self.memory = _read_memory(reader, self.n_items) if reader.has("memory") else None
        self.sharpness = torch.tensor(reader.number("memory_sharpness"))

    @classmethod
    def of(cls, arrays: Mapping[str, np.ndarray], settings: Mapping[str, Any]) -> GeneratorEngine:
        """As `Engine.of`."""
        return cls(arrays, settings)

    @abstractmethod
    def network(self, reader: Reader) -> nn.ModuleDict:
        """Return the networks of the settings' sizes, without weights."""

    @abstractmethod
    def scorer(self, tokens: torch.Tensor) -> LevelScorer:
        """Return the level scorer of serialised histories int64 [B, S]."""

    @torch.no_grad()
    def rank(self, histories: Histories, width: int) -> tuple[np.ndarray, np.ndarray]:
        """As `Engine.rank`."""
        k = max(self.beam_size, width)
        shape = len(histories.items), min(width, self.n_items - 1)
        items, scores = np.zeros(shape, np.int64), np.full(shape, -np.inf, np.float32)
        for rows, part in self._parts(histories):
            of_items, of_scores = self._best(part, k)
            n = min(shape[1], of_items.shape[1])
            # By falling score, equal ones by number.
            of_items, by_number = of_items.sort(dim=1)
            of_scores, by_score = of_scores.gather(1, by_number).sort(dim=1, descending=True, stable=True)
            items[rows, :n] = of_items.gather(1, by_score)[:, :n].numpy()
            scores[rows, :n] = of_scores[:, :n].numpy()
        return items, scores

    @torch.no_grad()
    def all_scores(self, histories: Histories) -> np.ndarray:
        """As `Engine.all_scores`."""
        scores = np.empty((len(histories.items), self.n_items), np.float32)
        for rows, part in self._parts(histories, max(1, min(_USERS, _SCORES // self.n_items))):
            leaves = leaf_log_probs(self.scorer(self._tokens(part)), self.trie, self.normaliser)
            found, recall = items_of_leaves(leaves, self.trie, self.n_items), self._recall(part)
            scores[rows] = found if recall is None else scores_of_all(recall, found, self.sharpness)
        return scores

    @torch.no_grad()
    def scores(self, histories: Histories, items: np.ndarray) -> np.ndarray:
        """As `Engine.scores`."""
        check_items(items, self.n_items)
        wanted = torch.from_numpy(np.array(items, np.int64))
        scores = np.empty((len(histories.items), len(wanted)), np.float32)
        for rows, part in self._parts(histories):
            row = torch.arange(len(part.items)).repeat_interleave(len(wanted))
            column = wanted.repeat(len(part.items))
            scores[rows] = self._scores_of(part, row, column).view(len(part.items), -1)
        return scores

    @torch.no_grad()
    def explain(self, histories: Histories, items: np.ndarray) -> list[dict[str, Any]]:
        """As `Engine.explain`."""
        check_items(items, self.n_items)
        found: list[dict[str, Any]] = [{} for _ in items]
        for rows, part in self._parts(histories):
            wanted = torch.from_numpy(np.array(items[rows], np.int64))
            for row, explanation in zip(rows.tolist(), self._explained(part, wanted), strict=True):
                found[row] = explanation
        return found

    def _explained(self, part: Histories, items: torch.Tensor) -> Iterator[dict[str, Any]]:
        """Yield what `explain` says of one item int64 [B] of each user."""
        scorer, recall, user = self.scorer(self._tokens(part)), self._recall(part), torch.arange(len(items))
        p0 = walk(scorer, self.trie, user, self.trie.leaves_of(items), self.normaliser).exp()
        masses = torch.zeros(len(items)) if recall is None else recall.mass_of(user, items)
        remaining = torch.ones(len(items)) if recall is None else recall.remaining
        scores, levels = self._scores_of(part, user, items), self._levels(scorer, items)
        for place, item in enumerate(items.tolist()):
            parts = {"semantic IDs": float(p0[place])}
            if recall is not None:
                parts["memory"] = float(masses[place])
            yield {
                "probability": float(masses[place] + remaining[place] * p0[place]),
                "score": float(scores[place]),
                "levels": levels[place],
                "parts": parts,
                "remembered": self._precursors(part, place, item),
            }

    def _best(self, part: Histories, k: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the best items int64 and their scores, both [B, K]; 0 and -inf for none."""
        scorer = self.scorer(self._tokens(part))
        if self.constrained or self.decoding != "beam":
            leaves, log_p0 = decoder_named(self.decoding)(scorer, self.trie, k, self.normaliser)
            if (leaves[:, :1] < 0).any():
                raise InputError(
                    "The model's scores are not finite, so nothing can be ranked: its bundle is damaged, or its "
                    "training diverged."
                )
        else:
            leaves, log_p0 = unconstrained_beam_search(scorer, self.trie, k)
        items, log_p0 = ranked_items(leaves, log_p0, self.trie)
        recall = self._recall(part)
        if recall is None:
            return items, log_p0
        remembered = recall.heaviest(k) if self.decoding == "beam" else recall
        leaves = self.trie.leaves_of(remembered.items)
        of_remembered = walk(scorer, self.trie, remembered.rows, leaves, self.normaliser)
        return best_with_memory(recall, remembered, of_remembered, items, log_p0, self.sharpness, k)

    def _scores_of(self, part: Histories, rows: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
        """Return the scores [n] of items of users, both int64 [n]."""
        scorer, recall = self.scorer(self._tokens(part)), self._recall(part)
        log_p0 = walk(scorer, self.trie, rows, self.trie.leaves_of(items), self.normaliser)
        if recall is None:
            return log_p0
        return sharpened(recall.mass_of(rows, items), recall.remaining[rows], log_p0, self.sharpness)

    def _levels(self, scorer: LevelScorer, items: torch.Tensor) -> list[list[dict[str, Any]]]:
        """Return what `explain` says of the levels of one item int64 [B] of each user."""
        leaves = self.trie.leaves_of(items)
        nodes, state = [*self.trie.path(leaves.clamp(min=0)), leaves.clamp(min=0)], scorer.start()
        found: list[list[dict[str, Any]]] = [[] for _ in items]
        for level in range(self.trie.n_levels):
            mask = self.trie.child_mask(level, nodes[level])
            if self.normaliser == "codes":
                mask = torch.ones_like(mask)
            probabilities = masked_log_softmax(scorer.logits(state, None), mask).exp()
            codes = self.trie.code(level)[nodes[level + 1]].long()
            best = probabilities.topk(min(_SIBLINGS, probabilities.shape[1]), dim=1)
            for user in (leaves >= 0).nonzero().flatten().tolist():
                siblings = zip(best.indices[user].tolist(), best.values[user].tolist(), strict=True)
                of_level = {
                    "code": int(codes[user]),
                    "probability": float(probabilities[user, codes[user]]),
                    "siblings": [[code, p] for code, p in siblings if p > 0],
                }
                found[user].append(of_level)
            if level + 1 < self.trie.n_levels:
                state = scorer.extend(state, torch.zeros(len(items), 1, dtype=torch.int64), codes.unsqueeze(1))
        return found

    def _precursors(self, part: Histories, user: int, item: int) -> list[int]:
        """Return those of a history's last items that `item` was seen to follow, the most recent first."""
        if self.memory is None:
            return []
        last = part.items[user, : part.lengths[user]][::-1][: self.memory.numbers.window].tolist()
        counts = self.memory.table.counts
        return [before for before in dict.fromkeys(last) if (counts[before].indices == item).any()]

    def _tokens(self, part: Histories) -> torch.Tensor:
        items, lengths = (torch.from_numpy(column) for column in part)
        return self.vocabulary.serialise(self.item_tokens[items], lengths, torch.zeros_like(lengths))

    def _recall(self, part: Histories) -> Recall | None:
        if self.memory is None:
            return None
        items, lengths = (torch.from_numpy(column) for column in part)
        place = lengths.unsqueeze(1) - 1 - torch.arange(min(self.memory.numbers.window, items.shape[1]))
        return self.memory.recall(items.gather(1, place.clamp(min=0)).masked_fill(place < 0, 0))

    def _parts(self, histories: Histories, size: int = _USERS) -> Iterator[tuple[np.ndarray, Histories]]:
        """Yield the rows int64 of histories that are worked on together, and these, cut: of similar length."""
        check_items(histories.items, self.n_items)
        order = np.argsort(histories.lengths, kind="stable")
        for first in range(0, len(order), size):
            rows = order[first : first + size]
            lengths = np.array(histories.lengths[rows], np.int64)
            yield rows, Histories(np.array(histories.items[rows, : lengths.max()], np.int64), lengths)


class TIGEREngine(GeneratorEngine):
    """TIGER: a T5 encoder-decoder over semantic-ID tokens."""

    causal_encoder: ClassVar[bool] = False

    def network(self, reader: Reader) -> nn.ModuleDict:
        """As `GeneratorEngine.network`."""
        sizes = T5Sizes(
            vocabulary=self.vocabulary.size,
            d_model=reader.whole("d_model", 1),
            d_ff=reader.whole("d_ff", 1),
            n_heads=reader.whole("n_heads", 1),
            d_kv=reader.whole("d_kv", 1),
            encoder_layers=_n_layers(reader, "encoder_layers"),
            decoder_layers=_n_layers(reader, "decoder_layers"),
            causal_encoder=self.causal_encoder,
        )
        return nn.ModuleDict({"encoder": T5Encoder(sizes), "decoder": T5Decoder(sizes)})

    def scorer(self, tokens: torch.Tensor) -> LevelScorer:
        """As `GeneratorEngine.scorer`."""
        encoder: Any = self.weights["encoder"]
        decoder: Any = self.weights["decoder"]
        mask = tokens != PAD
        cache = T5DecoderCache(decoder, encoder.packed(tokens, mask).padded(), mask)
        return TIGERScorer(TiedCodes(encoder.embedding, self.vocabulary), cache, len(tokens))


class CausalTIGEREngine(TIGEREngine):
    """TIGER with ``encoder_attention: causal``."""

    causal_encoder = True


class CausalEngine(GeneratorEngine):
    """CausalSID: a causal transformer that goes on with the codes of the next item."""

    def network(self, reader: Reader) -> nn.ModuleDict:
        """As `GeneratorEngine.network`."""
        sizes = CausalSizes(
            vocabulary=self.vocabulary.size,
            d_model=reader.whole("d_model", 1),
            d_ff=reader.whole("d_ff", 1),
            n_heads=reader.whole("n_heads", 1),
            n_layers=_n_layers(reader, "n_layers"),
        )
        return nn.ModuleDict({"transformer": CausalTransformer(sizes, self.vocabulary.eos)})

    def scorer(self, tokens: torch.Tensor) -> LevelScorer:
        """As `GeneratorEngine.scorer`."""
        transformer: Any = self.weights["transformer"]
        cache = CausalCache(transformer, tokens, tokens != PAD)
        return CausalScorer(TiedCodes(transformer.embedding, self.vocabulary), cache)


def read_trie(reader: Reader, sizes: tuple[int, ...], n_items: int) -> Trie:
    """Return the trie of a bundle, whose arrays are those of `Trie.arrays` in int32.

    Raises:
        InputError: if they are none.
    """
    arrays: dict[str, np.ndarray] = {}
    n_nodes = 1
    for level, size in enumerate(sizes):
        start = reader.array(f"trie.start_{level}", np.int32, n_nodes + 1)
        code = reader.array(f"trie.code_{level}", np.int32, None)
        reader.starts(f"trie.start_{level}", start, len(code))
        reader.within(f"trie.code_{level}", code, 0, size)
        arrays |= {f"start_{level}": start, f"code_{level}": code}
        n_nodes = len(code)
    item = reader.array("trie.item", np.int32, None)
    start = reader.array(f"trie.start_{len(sizes)}", np.int32, n_nodes + 1)
    reader.starts(f"trie.start_{len(sizes)}", start, len(item))
    reader.within("trie.item", item, 1, n_items)
    return Trie.from_arrays({**arrays, f"start_{len(sizes)}": start, "item": item}, sizes)


def _read_memory(reader: Reader, n_items: int) -> Memory:
    memory = Memory(n_items)
    types = {
        "starts": np.int64,
        "successors": np.int32,
        "counts": np.float32,
        "row_sums": np.float64,
        "settings": np.float64,
    }
    state = {name: torch.from_numpy(reader.array(f"memory.{name}", dtype, None)) for name, dtype in types.items()}
    _load(memory, state)
    return memory


def _filled(network: nn.ModuleDict, reader: Reader, arrays: Mapping[str, np.ndarray]) -> nn.ModuleDict:
    """Return a network with the weights of a bundle, which it shares."""
    state = {}
    for name, empty in network.state_dict().items():
        state[name] = torch.from_numpy(reader.array(_WEIGHTS + name, np.float32, *empty.shape))
    surplus = {name for name in arrays if name.startswith(_WEIGHTS)} - {_WEIGHTS + name for name in state}
    if surplus:
        raise InputError(f"The bundle has weights that its settings know nothing of, as '{min(surplus)}'.")
    _load(network, state)
    return network


def _load(module: nn.Module, state: dict[str, torch.Tensor]) -> None:
    try:
        module.load_state_dict(state, assign=True)
    except RuntimeError as error:
        raise InputError(f"The bundle's weights do not fit its settings ({first_line(error)}).") from error


def _n_layers(reader: Reader, key: str) -> int:
    n_layers = reader.whole(key, 1)
    if n_layers > _MOST_LAYERS:
        raise InputError(f"The bundle's setting {key}={n_layers} is more than {_MOST_LAYERS}.")
    return n_layers
