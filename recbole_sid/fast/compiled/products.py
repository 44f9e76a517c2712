"""Compiled: products of a few rows with weights in panels, fp32; a kernel in LLVM's own terms.

Loops that numba makes of Python reach 40 to 70 GFLOP/s on a core that does 110, and the BLAS of numpy 85, which
compiled loops could not call without scipy.
"""

from __future__ import annotations

from typing import Any

import llvmlite.binding
import numpy as np
from llvmlite import ir
from numba import types
from numba.core.cgutils import get_or_insert_function
from numba.extending import intrinsic

from recbole_sid.fast.compiled.arrays import PANEL
from recbole_sid.fast.compiled.jit import jit

_ROWS = 4  # of a tile
_LANES = 16  # of a vector; on processors without such the compiler takes several
# Columns of a tile: its sums have to fit the registers, 32 of 16 lanes or 16 of 8.
_COLUMNS = PANEL if llvmlite.binding.get_host_cpu_features().get("avx512f") else _LANES


def _tile_of(n_rows: int) -> Any:
    """Return the compiled ``tile(x, row_bytes, panel, k, bias, out, out_bytes)``, of addresses and sizes in bytes.

    It writes ``x W + b`` of `n_rows` rows of k numbers and `_COLUMNS` columns of a panel.
    """

    @intrinsic
    def tile(typing: Any, x: Any, row: Any, panel: Any, k: Any, bias: Any, out: Any, out_row: Any) -> Any:
        def code(context: Any, builder: Any, signature: Any, given: Any) -> Any:
            _emit(builder, n_rows, *given)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 7), code

    return tile


def _emit(builder: Any, n_rows: int, x: Any, row: Any, panel: Any, k: Any, bias: Any, out: Any, out_row: Any) -> None:
    """Write the loop over k: each step broadcasts a number of every row, and adds its products with the panel's row."""
    word, number = ir.IntType(64), ir.FloatType()
    vector = ir.VectorType(number, _LANES)
    n_vectors, of_vector = _COLUMNS // _LANES, 4 * _LANES
    fma = get_or_insert_function(builder.module, ir.FunctionType(vector, [vector] * 3), f"llvm.fma.v{_LANES}f32")

    def at(address: Any, n: int, size: Any = 1) -> Any:
        step = builder.mul(size, word(n)) if isinstance(size, ir.Value) else word(n * size)
        return builder.add(address, step)

    def load(address: Any, kind: Any) -> Any:
        found = builder.load(builder.inttoptr(address, kind.as_pointer()))
        found.align = 4
        return found

    start = [load(at(bias, place, of_vector), vector) for place in range(n_vectors)]
    before, loop, after = builder.block, builder.append_basic_block(), builder.append_basic_block()
    builder.branch(loop)
    builder.position_at_end(loop)
    step = builder.phi(word)
    step.add_incoming(word(0), before)
    sums = [builder.phi(vector) for _ in range(n_rows * n_vectors)]
    of_panel = builder.add(panel, builder.mul(step, word(4 * PANEL)))
    weights = [load(at(of_panel, place, of_vector), vector) for place in range(n_vectors)]
    undefined, lanes = ir.Constant(vector, ir.Undefined), ir.Constant(ir.VectorType(ir.IntType(32), _LANES), None)
    grown = []
    for line in range(n_rows):
        value = load(builder.add(at(x, line, row), builder.mul(step, word(4))), number)
        first = builder.insert_element(undefined, value, ir.IntType(32)(0))
        everywhere = builder.shuffle_vector(first, undefined, lanes)
        for place in range(n_vectors):
            grown.append(builder.call(fma, [everywhere, weights[place], sums[line * n_vectors + place]]))
    following = builder.add(step, word(1))
    step.add_incoming(following, loop)
    for place, (total, larger) in enumerate(zip(sums, grown, strict=True)):
        total.add_incoming(start[place % n_vectors], before)
        total.add_incoming(larger, loop)
    builder.cbranch(builder.icmp_signed("<", following, k), loop, after)
    builder.position_at_end(after)
    for line in range(n_rows):
        for place in range(n_vectors):
            address = at(at(out, line, out_row), place, of_vector)
            builder.store(grown[line * n_vectors + place], builder.inttoptr(address, vector.as_pointer())).align = 4


_tile, _row = _tile_of(_ROWS), _tile_of(1)


@jit
def affine(x: np.ndarray, panels: np.ndarray, bias: np.ndarray, out: np.ndarray) -> None:
    """Write ``x W^T + b``: out [n, m] of x [n, k], both contiguous.

    Args:
        panels: the weight [m, k] as `in_panels` packs it; ``bias``: of as many columns as the panels have.
    """
    n, k = x.shape
    m = out.shape[1]
    edge, tile_rows = np.empty((_ROWS, PANEL), np.float32), _ROWS if n >= _ROWS else 1
    for first in range(0, m, PANEL):
        whole = first + PANEL <= m
        for row in range(0, n, tile_rows):
            top = min(row, n - tile_rows)  # the last rows overlap with those before
            x_at, panel_at = x.ctypes.data + 4 * k * top, panels.ctypes.data + 4 * k * first
            bias_at = bias.ctypes.data + 4 * first
            out_at = out.ctypes.data + 4 * (m * top + first) if whole else edge.ctypes.data
            out_row = 4 * m if whole else 4 * PANEL
            for column in range(0, PANEL, _COLUMNS):
                step = 4 * column
                if tile_rows == _ROWS:
                    _tile(x_at, 4 * k, panel_at + step, k, bias_at + step, out_at + step, out_row)
                else:
                    _row(x_at, 4 * k, panel_at + step, k, bias_at + step, out_at + step, out_row)
            if not whole:
                for line in range(tile_rows):
                    for column in range(first, m):
                        out[top + line, column] = edge[line, column - first]
