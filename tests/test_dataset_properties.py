"""Property files of datasets: known keys only, and each loads a dataset of the layout that it is for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from recbole_sid.config import PROPERTIES, Config
from recbole_sid.data import create_dataset
from recbole_sid.features.text import item_texts

FILES = sorted((PROPERTIES / "dataset").glob("*.yaml"))
N = 6  # users and items, each with N interactions
TIME = 1_550_000_000  # in 2019


def content(file: Path) -> dict[str, Any]:
    return yaml.safe_load(file.read_text(encoding="utf-8"))


def write(folder: Path, name: str, settings: dict[str, Any]) -> None:
    """Write a dataset of the fields that a property file names: a 5-core, and a user with a single interaction."""
    user, item, time = settings["load_col"]["inter"]
    target = folder / name
    target.mkdir(parents=True)
    pairs = [(f"u{u}", f"{i}", TIME + u + i) for u in range(N) for i in range(N)] + [("alone", "0", TIME)]
    lines = [f"{user}:token\t{item}:token\tignored:float\t{time}:float", *(f"{u}\t{i}\t0\t{t}" for u, i, t in pairs)]
    (target / f"{name}.inter").write_text("\n".join(lines) + "\n", encoding="utf-8")
    fields = settings.get("text_fields", [])
    item_field = settings.get("text_item_field", item)
    lines = ["\t".join([f"{item_field}:token", *(f"{field}:token_seq" for field in fields)])]
    lines += ["\t".join([str(i), *(f"{field} of {i}" for field in fields)]) for i in range(N)]
    (target / f"{name}.item").write_text("\n".join(lines) + "\n", encoding="utf-8")


def test_there_is_a_file_for_each_dataset_of_the_documentation() -> None:
    page = (PROPERTIES.parent / "docs" / "datasets.md").read_text(encoding="utf-8")
    assert all(f"`{file.stem}`" in page for file in FILES)
    assert len(FILES) >= 14


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_property_file_holds_known_keys_and_the_protocol(file: Path) -> None:
    known = Config("TIGER", "no-such-dataset").known_keys()
    assert set(content(file)) <= known
    config = Config("TIGER", file.stem)
    for key, value in content(file).items():
        assert config[key] == value
    assert config["MAX_ITEM_LIST_LENGTH"] == 20
    assert config["eval_args"]["split"] == {"LS": "valid_and_test"}
    assert config["eval_args"]["order"] == "TO"


@pytest.mark.parametrize("file", [file for file in FILES if file.stem != "ml-100k"], ids=lambda file: file.stem)
def test_a_property_file_loads_a_dataset_of_its_layout(tmp_path: Path, file: Path) -> None:
    settings = content(file)
    write(tmp_path, file.stem, settings)
    config = Config("SASRec", file.stem, config_dict={"data_path": str(tmp_path), "use_gpu": False})
    dataset = create_dataset(config)
    is_cut = "user_inter_num_interval" in settings
    assert dataset.user_num - 1 == (N if is_cut else N + 1)
    assert dataset.item_num - 1 == N
    assert sorted(dataset.field2id_token[dataset.iid_field][1:]) == [str(i) for i in range(N)]
    if fields := settings.get("text_fields"):
        texts = item_texts(config, dataset.field2id_token[dataset.iid_field][1:].astype(str))
        tokens = dataset.field2id_token[dataset.iid_field][1:]
        assert texts == [" ".join(f"{field} of {token}" for field in fields) for token in tokens]


def test_ml_100k_is_what_recbole_ships() -> None:  # whatever data_path says
    dataset = create_dataset(Config("SASRec", "ml-100k", config_dict={"use_gpu": False}))
    assert (dataset.user_num - 1, dataset.item_num - 1, len(dataset.inter_feat)) == (943, 1682, 100_000)


def test_yelp_is_cut_to_2019(tmp_path: Path) -> None:
    settings = content(PROPERTIES / "dataset" / "yelp.yaml")
    write(tmp_path, "yelp", settings)
    file = tmp_path / "yelp" / "yelp.inter"
    text = file.read_text(encoding="utf-8")
    file.write_text(
        text + f"u0\t1\t0\t{TIME - 10**8}\nu0\t1\t0\t{TIME + 10**8}\nu0\t1\t0\t1577714400\n", encoding="utf-8"
    )
    config = Config("SASRec", "yelp", config_dict={"data_path": str(tmp_path), "use_gpu": False})
    assert len(create_dataset(config).inter_feat) == N * N + 1
