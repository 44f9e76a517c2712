"""Compiled: the largest values, held as a heap with the least on top."""

from __future__ import annotations

import numpy as np

from recbole_sid.fast.compiled.jit import inlined, jit


@jit
def _sift_up(score: np.ndarray, entry: np.ndarray, place: int) -> None:
    while place > 0:
        above = (place - 1) >> 1
        if score[above] <= score[place]:
            return
        score[above], score[place] = score[place], score[above]
        entry[above], entry[place] = entry[place], entry[above]
        place = above


@jit
def _sift_down(score: np.ndarray, entry: np.ndarray, place: int, size: int) -> None:
    while True:
        below = 2 * place + 1
        if below >= size:
            return
        if below + 1 < size and score[below + 1] < score[below]:
            below += 1
        if score[place] <= score[below]:
            return
        score[below], score[place] = score[place], score[below]
        entry[below], entry[place] = entry[place], entry[below]
        place = below


@inlined
def offer(score: np.ndarray, entry: np.ndarray, size: int, value: np.float32, what: int) -> int:
    """Put a value among the largest len(score), held as a heap with the least on top; return the heap's size."""
    if size < len(score):
        score[size], entry[size] = value, what
        _sift_up(score, entry, size)
        return size + 1
    if value > score[0]:
        score[0], entry[0] = value, what
        _sift_down(score, entry, 0, size)
    return size


@jit
def offer_anew(score: np.ndarray, entry: np.ndarray, size: int, value: np.float32, what: int) -> int:
    """As `offer`, of what may be there already, with a lower value."""
    if size == len(score) and value <= score[0]:
        return size
    there = -1
    for place in range(size):
        if entry[place] == what:
            there = place
    if there < 0:
        return offer(score, entry, size, value, what)
    if value > score[there]:
        score[there] = value
        _sift_down(score, entry, there, size)
    return size


@jit
def sort_heap(score: np.ndarray, entry: np.ndarray, size: int) -> None:
    """Turn a heap into a list by falling score."""
    for last in range(size - 1, 0, -1):
        score[0], score[last] = score[last], score[0]
        entry[0], entry[last] = entry[last], entry[0]
        _sift_down(score, entry, 0, last)
