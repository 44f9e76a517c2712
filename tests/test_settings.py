"""Declared keys: what they accept, and that the shipped property files say the same."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from recbole_sid.cli import COMMANDS
from recbole_sid.commands.page import cli_page
from recbole_sid.config import Config
from recbole_sid.errors import InputError
from recbole_sid.model.tiger import TIGER, TIGERSettings
from recbole_sid.property_files import PROPERTIES
from recbole_sid.registry import MODELS, get_model
from recbole_sid.settings import Settings, declare
from recbole_sid.settings.known import settings_of
from recbole_sid.settings.property_files import settings_page, shipped_files
from recbole_sid.util.values import PropertyLoader


@dataclass(frozen=True)
class Base(Settings):
    width: int = declare(8, "Of everything.", below=100)
    rate: float = declare(0.5, most=1)
    names: list[str] | str | None = declare(None, choices=("a", "b"))
    own: dict[str, Any] = declare({}, volatile=True)


@dataclass(frozen=True)
class Special(Base):
    """Another default."""

    depth: int | None = declare(None, least=0)
    width: int = 16


def given(**values: Any) -> dict[str, Any]:
    return {**Special.defaults(), **values}


def test_a_key_given_again_has_another_default_and_is_else_the_same() -> None:
    assert Special.of(given()).width == 16
    assert list(Special.declarations()) == ["depth", "width", "rate", "names", "own"]  # its own first
    assert Special.declarations()["width"].help == "Of everything."
    assert Special.flagged("volatile") == ("own",)
    Special.of(given()).own["x"] = 1
    assert Special.default("own") == {}  # no value is shared


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"width": 0}, r"width=0 must be a whole number of at least 1 and below 100\."),
        ({"width": 100}, "below 100"),
        ({"width": True}, r"width=True must be a whole number .*\(default: 16\)"),
        ({"width": 8.0}, "width=8.0 must be a whole number"),
        ({"width": None}, "width=None must be"),
        ({"rate": 1.5}, "at most 1"),
        ({"rate": float("nan")}, "rate=nan must be a number of at least 0"),
        ({"rate": "1"}, "rate='1' must be a number"),
        ({"names": ["a", "c"]}, "names='c'.* must be one of a, b"),
        ({"names": [1]}, "must be text or a list, each text"),
        ({"own": []}, "own=.* must be a dictionary"),
        ({"depth": -1}, "depth=-1 must be a whole number of at least 0"),
    ],
)
def test_a_value_of_another_kind_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Special.of(given(**values))


def test_values_in_bounds_are_taken() -> None:
    found = Special.of(given(width=99, rate=1, names="b", depth=0))
    assert (found.width, found.rate, found.names, found.depth) == (99, 1, "b", 0)


def test_an_undeclared_default_is_a_mistake_of_the_programmer() -> None:
    @dataclass(frozen=True)
    class Wrong(Settings):
        width: int = 3

    with pytest.raises(TypeError, match=r"Wrong\.width is declared without `declare"):
        Wrong.declarations()


def test_the_shipped_property_files_are_those_of_the_declarations() -> None:
    """After a change: python -m recbole_sid.settings.property_files"""
    for file, text in shipped_files().items():
        assert (PROPERTIES / file).read_text(encoding="utf-8") == text


def test_the_page_of_settings_is_that_of_the_declarations() -> None:
    """After a change: python -m recbole_sid.settings.property_files"""
    page = (PROPERTIES.parent / "docs" / "settings.md").read_text(encoding="utf-8")
    assert page == settings_page()
    for declared in {each for name in MODELS for each in settings_of(get_model(name))}:
        for key in declared.declarations():
            assert f"| `{key}` |" in page


def test_a_property_file_reads_as_the_declared_defaults() -> None:
    files = shipped_files()
    assert yaml.load(files[Path("model/TIGER.yaml")], PropertyLoader) == TIGERSettings.defaults()


@pytest.mark.parametrize("file", sorted(PROPERTIES.glob("size/*/*.yaml")), ids=str)
def test_sizes_set_declared_keys_to_possible_values(file: Path) -> None:
    settings = yaml.load(file.read_text(encoding="utf-8"), PropertyLoader)
    for model in [file.stem] if file.stem in MODELS else MODELS:
        Config(model, "tiny", config_dict=settings)


def test_a_users_own_model_has_the_keys_of_the_class_that_it_is_made_from() -> None:
    class Mine(TIGER):
        pass

    assert Config(Mine, "tiny")["d_kv"] == 64
    with pytest.raises(InputError, match="d_kv=0 must be a whole number"):
        Config(Mine, "tiny", config_dict={"d_kv": 0})


def test_a_users_own_keys_need_no_property_file() -> None:
    @dataclass(frozen=True)
    class MySettings(TIGERSettings):
        twist: float = declare(0.5, "Mine.", most=1)
        note: str | None = declare(None, volatile=True)

    class Mine(TIGER):
        settings = MySettings

    plain = Config(Mine, "tiny")
    assert (plain["twist"], plain["d_kv"]) == (0.5, 64)
    assert Config(Mine, "tiny", config_dict={"note": "x"}).fingerprint() == plain.fingerprint()
    assert Config(Mine, "tiny", config_dict={"twist": 0.6}).fingerprint() != plain.fingerprint()
    with pytest.raises(InputError, match="twist=2 must be a number of at least 0 and at most 1"):
        Config(Mine, "tiny", config_dict={"twist": 2})


def test_the_page_of_commands_is_that_of_the_declarations() -> None:
    """After a change: python -m recbole_sid.commands.page"""
    page = (PROPERTIES.parent / "docs" / "cli.md").read_text(encoding="utf-8")
    assert page == cli_page()
    for command in COMMANDS.values():
        assert f"\n## {command.name}\n" in page
        for option in command.options:
            assert f"`--{option.name}" in page
