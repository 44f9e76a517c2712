"""One HTML file that holds all it needs, with a policy by which it runs its own scripts alone and asks no server."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import os
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from recbole_sid import __version__
from recbole_sid.util.files import write_text

CHARTS = ("plotly", "charts")  # scripts of a page with charts, in this order
_STATIC = Path(__file__).parent / "static"
# What JSON within a script element must not hold as it is, whatever the data says.
_UNSAFE = {"<": r"\u003c", ">": r"\u003e", "&": r"\u0026", "\u2028": r"\u2028", "\u2029": r"\u2029"}


def write_page(path: str | os.PathLike[str], template: str, data: Any, scripts: Sequence[str], **values: Any) -> Path:
    """Write a page; all texts in `values` are escaped.

    Args:
        path: the file.
        template: name of one in ``templates/``.
        data: for its scripts, JSON types; numbers that are not finite become null.
        scripts: names of those in ``static/``, or plotly.
        values: for the template; title is one of them.
    """
    sources = [_script(name) for name in scripts]
    allowed = " ".join(f"'sha256-{_hash(source)}'" for source in sources)
    policy = (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data: blob:; base-uri 'none'; "
        "form-action 'none'"
    )
    text = (
        _environment()
        .get_template(f"{template}.html")
        .render(
            policy=policy,
            style=Markup(_static("page.css")),
            scripts=[Markup(source) for source in sources],
            data=Markup(as_script_data(data)),
            version=__version__,
            **values,
        )
    )
    write_text(path, text)
    return Path(path)


def as_script_data(value: Any) -> str:
    """Return JSON that stays data within a script element."""
    text = json.dumps(_finite(value), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return "".join(_UNSAFE.get(letter, letter) for letter in text) if set(text) & set(_UNSAFE) else text


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _finite(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _script(name: str) -> str:
    """Return the source of a script, with the ends of lines that a browser makes of them before it hashes."""
    source = _plotly() if name == "plotly" else _static(f"{name}.js")
    return source.replace("\r\n", "\n").replace("\r", "\n")


@cache
def _plotly() -> str:
    from plotly.offline import get_plotlyjs

    return get_plotlyjs()


@cache
def _static(name: str) -> str:
    return (_STATIC / name).read_text(encoding="utf-8")


def _hash(source: str) -> str:
    return base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()


@cache
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("recbole_sid.pages"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
