"""The one exception that the package raises for input a user can mend."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

# What torch, numpy and transformers call the switches that let a file run code.
_UNSAFE_ADVICE = ("weights_only", "Weights only", "allow_pickle", "trust_remote_code")


class InputError(ValueError):
    """Input is wrong in a way the user can mend; the message says what and how, in one sentence."""


def missing(what: str, extra: str) -> InputError:
    """Return the error that `what`, a sentence without its point, lacks the packages of an `extra` of ours.

    pip adds an extra to what is installed already, a checkout (``pip install -e .``) too, and asks no index for it.
    """
    return InputError(f'{what}: pip install "recbole-sid[{extra}]" adds what is missing, to a checkout too.')


def nearest(word: str, known: Iterable[str]) -> str:
    """Return ``" (did you mean 'x'?)"`` for the closest of `known`, or an empty string."""
    match = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f" (did you mean '{match[0]}'?)" if match else ""


def require_known(key: str, value: object, known: Iterable[str]) -> None:
    """Raise InputError unless configuration key `key` has one of the `known` values."""
    names = list(known)
    if value not in names:
        raise InputError(f"{key}='{value}'{nearest(str(value), names)} must be one of {', '.join(names)}.")


def first_line(error: Exception) -> str:
    """Return the class and the first line of an exception, to quote in a message.

    Libraries that refuse a file for its pickled objects advise loading it unsafely; that advice is not passed on.
    """
    if any(word in str(error) for word in _UNSAFE_ADVICE):
        return "it is damaged, or holds Python objects, which can run code when they are loaded and so are not"
    lines = str(error).strip().splitlines()  # some begin with an empty line
    return f"{type(error).__name__}: {lines[0] if lines else ''}"
