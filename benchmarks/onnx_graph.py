"""Milliseconds of a bundle's ONNX graph, of its own engine, and of the model in torch.

    python benchmarks/onnx_graph.py CHECKPOINT BUNDLE [data_path=DIR]

BUNDLE is what `recbole-sid export-model CHECKPOINT --output=BUNDLE --format=onnx` wrote. One thread each; medians of
interleaved runs, in wall and in CPU time.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from time import perf_counter, process_time

import numpy as np
import onnxruntime
import torch

from recbole_sid.quick_start import load_data_and_model
from recbole_sid.serving.bundle import Bundle
from recbole_sid.serving.engine import Histories

checkpoint, bundle, *overrides = sys.argv[1:]
torch.set_num_threads(1)
_, model, _, _, _, test = load_data_and_model(
    checkpoint, {"use_gpu": False, **dict(o.split("=", 1) for o in overrides)}
)
engine = Bundle.load(bundle).engine()
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
graph = Path(bundle, "model.onnx").read_bytes()
session = onnxruntime.InferenceSession(graph, options)
print(f"graph {len(graph) / 1e6:.1f} MB, {engine.n_items - 1:,} items, beam {engine.beam_size}")
batch = next(iter(test))[0]
for size in (1, 32):
    rows = batch[:size]
    items, lengths = rows[model.ITEM_SEQ].numpy(), rows[model.ITEM_SEQ_LEN].numpy()
    ways: dict[str, Callable[[], object]] = {
        "onnx": lambda items=items: session.run(None, {"histories": items}),
        "engine": lambda items=items, lengths=lengths: engine.rank(Histories(items, lengths), engine.beam_size),
        "torch": lambda rows=rows: model.retrieve(rows),
    }
    wall, cpu = ({name: [] for name in ways} for _ in range(2))
    for _ in range(200 if size == 1 else 30):
        for name, run in ways.items():
            started = perf_counter(), process_time()
            run()
            wall[name].append(perf_counter() - started[0])
            cpu[name].append(process_time() - started[1])
    for name in ways:
        print(
            f"batch {size}, {name}: {1e3 * np.median(wall[name]):.2f} ms wall, {1e3 * np.median(cpu[name]):.2f} ms CPU"
        )
