"""The graphs that a bundle can hold beside its own form: ``model.onnx`` and ``model.pt2``, checked before written."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from logging import getLogger
from typing import Any, NamedTuple

import torch
from torch.export import ExportedProgram

from recbole_sid.errors import require_known
from recbole_sid.exporting.agreement import LEAST, ListAgreement, RankedItems, compared, joined, lists_of, sampled
from recbole_sid.exporting.graph import ByBoth, RankingGraph, ranking_graph
from recbole_sid.exporting.onnx import onnx_bytes, require_packages, run_onnx
from recbole_sid.exporting.program import recorded, run_saved, saved

# Histories that are ranked together while graphs are checked.
_USERS = 64

RunsGraph = Callable[[torch.Tensor], RankedItems]

# A program, its graph and the name of the model to the content of a file, and what ranks by it.
WritesGraph = Callable[[ExportedProgram, RankingGraph, str], tuple[bytes, RunsGraph]]


class GraphFile(NamedTuple):
    """A file of a bundle.

    Attributes:
        name: of it.
        content: its bytes.
        agreement: with the model's own lists.
    """

    name: str
    content: bytes
    agreement: ListAgreement


def graph_files(model: Any, histories: Any, formats: Sequence[str]) -> list[GraphFile]:
    """Return the files of the formats, ``onnx`` or ``pt2``, of a model with the decoder of SID-MLP.

    Args:
        model: in evaluation mode, on the CPU.
        histories: an evaluation loader, by whose histories the files are checked.
        formats: names in `FORMATS`.

    Raises:
        InputError: if the model has no graph, a package is missing, or a graph does not rank as the model does.
    """
    check_formats(formats)
    if not formats:
        return []
    with torch.no_grad():
        batches = list(sampled(histories))
        items = [batch[model.ITEM_SEQ] for batch in batches]
        expected = joined(lists_of(model, batch) for batch in batches)
        graph = fitting_graph(model, items, expected)
        program = recorded(graph, graph.max_history)
        files = []
        for name in formats:
            content, run = FORMATS[name](program, graph, type(model).__name__)
            agreement = compared(expected, ranked(run, items))
            agreement.require(f"model.{name}")
            getLogger().info(f"model.{name} ({len(content) / 1e6:.1f} MB): {agreement}.")
            files.append(GraphFile(f"model.{name}", content, agreement))
        return files


def check_formats(formats: Sequence[str]) -> None:
    """Raise InputError for a format that there is not, or whose packages are missing."""
    for name in formats:
        require_known("format", name, FORMATS)
    if "onnx" in formats:
        require_packages()


def onnx_of(model: Any, histories: Any) -> bytes:
    """Return a model as one ONNX graph, checked; as `graph_files`."""
    return graph_files(model, histories, ["onnx"])[0].content


def fitting_graph(model: Any, histories: list[torch.Tensor], expected: RankedItems) -> RankingGraph:
    """Return the graph that ranks as the model does: candidates are walked as many as that takes."""
    graph = ranking_graph(model)
    while isinstance(graph, ByBoth) and graph.n_walked < graph.known.n_open:
        if compared(expected, ranked(_eagerly(graph), histories)).alike >= LEAST:
            break
        graph = ranking_graph(model, 2 * graph.n_walked)
    return graph


def ranked(run: RunsGraph, histories: list[torch.Tensor]) -> RankedItems:
    """Return the lists of batches of histories int64 [B, T]."""
    return joined(run(part.contiguous()) for batch in histories for part in batch.split(_USERS))


def _eagerly(graph: RankingGraph) -> RunsGraph:
    return lambda histories: RankedItems(*graph(histories))


def _onnx(program: ExportedProgram, graph: RankingGraph, model: str) -> tuple[bytes, RunsGraph]:
    about = {"model": model, "n_items": graph.n_items, "max_history": graph.max_history, "k": graph.k}
    content = onnx_bytes(program, ["histories"], ["items", "scores"], about)
    return content, run_onnx(content)


def _pt2(program: ExportedProgram, graph: RankingGraph, model: str) -> tuple[bytes, RunsGraph]:
    content = saved(program)
    return content, run_saved(content)


FORMATS: dict[str, Callable[[ExportedProgram, RankingGraph, str], tuple[bytes, RunsGraph]]] = {
    "onnx": _onnx,
    "pt2": _pt2,
}
