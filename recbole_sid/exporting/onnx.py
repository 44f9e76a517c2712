"""A model's ranking as one ONNX graph, which onnxruntime alone can run.

Its input is ``histories`` int64 [B, T]: item numbers, the oldest first, 0 behind the last. Its outputs are ``items``
int64 [B, k] and ``scores`` float32 [B, k], by falling score, 0 and -inf beyond those found.
"""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.export import ExportedProgram

from recbole_sid.errors import InputError, first_line, missing
from recbole_sid.exporting.agreement import RankedItems
from recbole_sid.exporting.program import quiet

_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
# Of a message of protobuf.
_LARGEST = (1 << 31) - 1


def require_packages() -> None:
    """Raise InputError if a package that writes or runs graphs is missing."""
    lacking = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    if lacking:
        raise missing(f"ONNX needs {', '.join(lacking)}", "onnx")


def onnx_bytes(program: ExportedProgram, inputs: list[str], outputs: list[str], about: Mapping[str, Any]) -> bytes:
    """Return a recorded program as an ONNX graph.

    Args:
        inputs, outputs: their names.
        about: what the graph's metadata say.

    Raises:
        InputError: if a package is missing, the graph cannot be made, or it is larger than a graph can be.
    """
    require_packages()
    try:
        with quiet(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            made = torch.onnx.export(
                program, dynamo=True, input_names=inputs, output_names=outputs, verbose=False, optimize=True
            )
            assert made is not None
            graph = made.model_proto
    except Exception as error:  # of many classes, none of them documented
        raise InputError(
            f"torch {torch.__version__} cannot write this model as ONNX ({first_line(error)}): this is known to work "
            "with torch 2.13, onnx 1.23 and onnxscript 0.7."
        ) from error
    for name, value in about.items():
        graph.metadata_props.add(key=name, value=str(value))
    if graph.ByteSize() > _LARGEST:
        raise InputError(f"The graph takes {graph.ByteSize() / 1e9:.1f} GB, more than the 2 GB of an ONNX file.")
    return graph.SerializeToString()


def run_onnx(graph: bytes, n_threads: int = 0) -> Callable[[torch.Tensor], RankedItems]:
    """Return what ranks histories int64 [B, T] by a graph, in onnxruntime."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = n_threads
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])

    def run(histories: torch.Tensor) -> RankedItems:
        items, scores = session.run(None, {"histories": histories.numpy()})
        return RankedItems(torch.from_numpy(items), torch.from_numpy(scores))

    return run
