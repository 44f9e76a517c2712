"""A model's ranking as CUDA graphs: fixed shapes, one launch, no synchronisation before results are read."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, Generic, NamedTuple, TypeVar

import torch

from recbole_sid.nn.vocabulary import PAD

Result = TypeVar("Result")

# Runs before the capture, in which libraries choose kernels and allocate workspaces.
_WARM_UP = 3
# Graphs that a model holds, and how much more than a batch has one may compute that serves it in place of its own.
_MOST_GRAPHS, _SPARE = 16, 4
# Widths that histories are brought to, of the longest there can be.
_WIDTHS = 4


class FoundItems(NamedTuple):
    """What a model finds for B users.

    Attributes:
        scorer: of the users, and of others after them where the batch was filled up; until the model ranks again.
        items: int64 [B, K], 0 for none.
        scores: [B, K], -inf for none.
    """

    scorer: Any
    items: torch.Tensor
    scores: torch.Tensor


class Recording(Generic[Result]):
    """What a function of fixed tensors on a CUDA device launches, recorded once and launched again as one.

    Args:
        function: reads and writes the same tensors whenever it is called, and asks for no values.
        pool: that the graph's memory is of. Graphs of one pool share it: what one returned is gone when another runs.

    Attributes:
        result: what the function returned; its tensors hold new values after every `replay`.
    """

    def __init__(self, function: Callable[[], Result], pool: Any) -> None:
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(_WARM_UP):
                function()
        torch.cuda.current_stream().wait_stream(side)
        self.graph = torch.cuda.CUDAGraph()
        # Other threads may go on with what they do on the device.
        with torch.cuda.graph(self.graph, pool=pool, capture_error_mode="thread_local"):
            self.result = function()

    def replay(self) -> Result:
        """Do it again and return what it returns; the host does not wait."""
        self.graph.replay()
        return self.result


class CapturedSearch:
    """The ranking of a fixed number of users with histories of a fixed width, with the model's weights as they are.

    Args:
        model: on CUDA in eval mode, whose `found` works by shapes alone.
        n_users: rows of the captured batch; smaller batches are filled up.
        n_items: places of a history; shorter ones are filled up.
        device: the CUDA device.
        pool: as of `Recording`.
    """

    def __init__(self, model: Any, n_users: int, n_items: int, device: torch.device, pool: Any) -> None:
        vocabulary = model.vocabulary
        with torch.inference_mode(False), torch.no_grad():  # what it holds outlives the caller's mode
            self.empty = torch.full((n_users, 2 + n_items * vocabulary.n_levels), PAD, device=device)
            # Of no items: one without any tokens would give NaN, or be read before its beginning.
            self.empty[:, 0], self.empty[:, 1] = vocabulary.user_offset, vocabulary.eos
            self.tokens = self.empty.clone()
            self.recording: Recording[FoundItems] = Recording(lambda: model.found(self.tokens), pool)

    def __call__(self, tokens: torch.Tensor) -> FoundItems:
        """Return what is found for serialised histories int64 [b, S] of no more users and places."""
        n_users, n_tokens = tokens.shape
        self.tokens.copy_(self.empty)
        self.tokens[:n_users, :n_tokens].copy_(tokens)
        scorer, items, scores = self.recording.replay()
        return FoundItems(scorer, items[:n_users].clone(), scores[:n_users].clone())


class Shape(NamedTuple):
    """Of a batch that a graph ranks: its users, and the places of their histories."""

    n_users: int
    n_items: int

    @property
    def cells(self) -> int:
        """What ranking takes, roughly."""
        return self.n_users * self.n_items


class CapturedSearches:
    """A model's graphs by size of batches and settings, with the weights as they are; few serve all batches.

    Capturing takes as long as ranking some batches, so it is done when a size comes for the second time: the odd last
    batch of an evaluation runs operation by operation, or in the graph of others. The least recently used is dropped
    where there would be too many.
    """

    def __init__(self) -> None:
        self._graphs: OrderedDict[tuple[Hashable, Shape], CapturedSearch] = OrderedDict()
        self._met: set[tuple[Hashable, Shape]] = set()
        self._pool: Any = None

    def rank(self, model: Any, tokens: torch.Tensor, settings: Hashable) -> FoundItems:
        """Return what ``model.found(tokens)`` does, for serialised histories int64 [B, S].

        Args:
            settings: of the model: what a graph holds beside the weights.
        """
        n_users, n_tokens = tokens.shape
        longest, n_levels = model.max_seq_length, model.vocabulary.n_levels
        size = Shape(captured_users(n_users), captured_items((n_tokens - 2) // n_levels, longest))
        found = self._serving(settings, size)
        if found is None and (settings, size) in self._met:
            found = self._capture(model, settings, size, tokens.device)
        self._met.add((settings, size))
        if found is None:
            return model.found(tokens)
        self._graphs.move_to_end(found)
        return self._graphs[found](tokens)

    def _capture(self, model: Any, settings: Hashable, size: Shape, device: torch.device) -> tuple[Hashable, Shape]:
        while len(self._graphs) >= _MOST_GRAPHS:
            self._graphs.popitem(last=False)
        if self._pool is None and device.type == "cuda":
            self._pool = torch.cuda.graph_pool_handle()
        self._graphs[settings, size] = CapturedSearch(model, *size, device, self._pool)
        return settings, size

    def _serving(self, settings: Hashable, size: Shape) -> tuple[Hashable, Shape] | None:
        """Return the key of the smallest graph that serves batches of `size` without much waste; None if none does.

        One that was met before and has none of its own gets it.
        """
        if (settings, size) in self._graphs:
            return settings, size
        if (settings, size) in self._met:
            return None
        keys = [key for key in self._graphs if key[0] == settings and _holds(key[1], size)]
        return min(keys, key=lambda key: key[1].cells, default=None)


def _holds(graph: Shape, size: Shape) -> bool:
    fits = graph.n_users >= size.n_users and graph.n_items >= size.n_items
    return fits and graph.cells <= _SPARE * size.cells


def captured_users(n_users: int) -> int:
    """Return the users of the graph for a batch: the next power of two, so that few graphs serve all batches."""
    return 1 << (n_users - 1).bit_length()


def captured_items(n_items: int, longest: int) -> int:
    """Return the places of histories of the graph for some of `n_items`, of at most `longest`: one of four widths."""
    step = -(-longest // _WIDTHS)
    return max(min(-(-n_items // step) * step, longest), n_items)
