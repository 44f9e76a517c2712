"""Configuration: order of property files, refused input, fingerprints; and what `compat` mends in RecBole."""

from __future__ import annotations

import importlib.metadata
import json
import pickle
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import SMALL, write_dataset
from recbole.config import Config as RecBoleConfig
from recbole.data import create_dataset as recbole_create_dataset
from recbole.data import data_preparation as recbole_data_preparation
from recbole.model.general_recommender import BPR
from recbole.trainer import Trainer
from recbole.utils import init_seed
from scipy.sparse import dok_matrix

import recbole_sid
from recbole_sid import compat
from recbole_sid.config import DERIVED_KEYS, Config, parse_value
from recbole_sid.data import create_dataset, data_preparation
from recbole_sid.errors import InputError
from recbole_sid.registry import MODELS


def write_yaml(name: str, text: str) -> str:
    Path(name).write_text(text, encoding="utf-8")
    return name


def test_later_property_files_win() -> None:
    first = write_yaml("first.yaml", "learning_rate: 0.1\nweight_decay: 0.1\nepochs: 7")
    second = write_yaml("second.yaml", "learning_rate: 0.2\nweight_decay: 0.2")
    config = Config("TIGER", "tiny", [first, second], {"learning_rate": 0.3})
    assert config["train_batch_size"] == 256  # ours; RecBole's overall.yaml says 2048
    assert config["epochs"] == 7  # the user's first file; ours says 150
    assert config["weight_decay"] == 0.2  # the user's second file
    assert config["learning_rate"] == 0.3  # config_dict
    assert config["loss_decimal_place"] == 4  # only in RecBole's overall.yaml


def test_our_overall_settings_hold_for_recboles_models() -> None:
    config = Config("BPR", "tiny")
    assert config["topk"] == [5, 10]
    assert config["eval_args"]["split"] == {"LS": "valid_and_test"}
    assert config["embedding_size"] == 64  # RecBole's model/BPR.yaml


def test_our_model_and_dataset_files_go_over_recboles() -> None:
    assert Config("SASRec", "ml-100k")["loss_type"] == "CE"
    assert Config("SASRec", "ml-100k")["text_fields"] == ["movie_title", "class"]
    assert Config("SASRec", "ml-100k")["load_col"] == {"inter": ["user_id", "item_id", "timestamp"]}


def test_command_line_of_the_process_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["program", "--learning_rate=9", "--nonsense=1", "-x"])
    assert Config("TIGER", "tiny")["learning_rate"] == 0.003


def test_model_and_dataset_may_come_from_a_file() -> None:
    config = Config(config_file_list=[write_yaml("run.yaml", "model: SIDMLP\ndataset: tiny")])
    assert (config["model"], config["dataset"]) == ("SIDMLP", "tiny")


def test_model_may_be_a_class() -> None:
    assert Config(BPR, "tiny").model_class is BPR


@pytest.mark.parametrize(("model", "dataset"), [(None, "tiny"), ("TIGER", None)])
def test_model_and_dataset_are_needed(model: str | None, dataset: str | None) -> None:
    with pytest.raises(InputError, match="Name a model and a dataset"):
        Config(model, dataset)


@pytest.mark.parametrize(
    ("model", "key", "near"),
    [
        ("TIGER", "learning_rat", "learning_rate"),
        ("SIDMLP", "alhpa", "alpha"),
        ("BPR", "embeding_size", "embedding_size"),
    ],
)
def test_unknown_key_names_the_nearest(model: str, key: str, near: str) -> None:
    with pytest.raises(InputError, match=f"Unknown configuration key '{key}' .did you mean '{near}'"):
        Config(model, "tiny", config_dict={key: 1})


def test_a_key_of_other_models_is_said_to_be_theirs() -> None:
    message = "Unknown configuration key 'memory': TransitionMemory has no such key; CausalSID, .*TIGER have"
    with pytest.raises(InputError, match=message):
        Config("TransitionMemory", "tiny", config_dict={"memory": "transitions"})


def test_unknown_key_in_a_file_is_refused() -> None:
    with pytest.raises(InputError, match="Unknown configuration key 'codebook'"):
        Config("TIGER", "tiny", [write_yaml("user.yaml", "codebook: [3]")])


@pytest.mark.parametrize(("model", "key"), [("NeuMF", "mf_embedding_size"), ("BPR", "tail_ratio"), ("BPR", "encoding")])
def test_key_that_only_recboles_source_names_is_accepted(model: str, key: str) -> None:
    """No property file of RecBole lists these; its models, evaluator and datasets read them."""
    assert Config(model, "tiny", config_dict={key: 3})[key] == 3


def test_model_of_a_package_that_is_missing_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lightgbm", None)
    with pytest.raises(InputError, match=r"RecBole's LightGBM cannot be imported .*lightgbm"):
        Config("LightGBM", "tiny")


def test_key_of_another_model_is_refused() -> None:
    with pytest.raises(InputError, match="mf_embedding_size"):
        Config("BPR", "tiny", config_dict={"mf_embedding_size": 3})


def test_every_key_our_code_reads_has_a_default() -> None:
    package = Path(recbole_sid.__file__).parent
    source = "\n".join(path.read_text(encoding="utf-8") for path in package.rglob("*.py"))
    read = set(re.findall(r"""config\[["'](\w+)["']\]""", source))
    known = set(DERIVED_KEYS)
    for model in MODELS:
        config = Config(model, "tiny")
        known |= set(config.final_config_dict) | {key for keys in config.parameters.values() for key in keys}
    assert len(read) > 40
    assert read <= known


def test_missing_configuration_file_is_refused() -> None:
    with pytest.raises(InputError, match=r"configuration file 'none\.yaml' does not exist"):
        Config("TIGER", "tiny", ["none.yaml"])


def test_configuration_file_may_be_empty() -> None:
    assert Config("TIGER", "tiny", [write_yaml("empty.yaml", "# nothing yet")])["epochs"] == 150


@pytest.mark.parametrize("text", ["[1, 2]", "a: b: c", "word"])
def test_malformed_configuration_file_is_refused(text: str) -> None:
    with pytest.raises(InputError, match=r"must hold lines of `key: value`|no valid YAML"):
        Config("TIGER", "tiny", [write_yaml("bad.yaml", text)])


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"topk": 0}, "topk must be a positive integer"),
        ({"topk": "ten"}, "must be a integer"),
        ({"metrics": ["Foo"]}, "no metric named 'Foo'"),
        ({"metrics": ["AUC", "NDCG"]}, "can not be used at the same time"),
        ({"repeatable": False}, "set `repeatable` as `True`"),
    ],
)
def test_value_that_recbole_refuses_is_refused(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(InputError, match=f"RecBole cannot use the configuration .*{reason}"):
        Config("TIGER", "tiny", config_dict=changes)


@pytest.mark.parametrize(("name", "near"), [("TIGR", "TIGER"), ("SIDMLPPlus", "SIDMLPPlusPlus"), ("SASRecs", "SASRec")])
def test_unknown_model_names_the_nearest(name: str, near: str) -> None:
    with pytest.raises(InputError, match=f"Unknown model '{name}' .did you mean '{near}'"):
        Config(name, "tiny")


@pytest.mark.parametrize(("topk", "beam_size"), [([5, 10], 9), (20, 10)])
def test_beam_smaller_than_topk_is_refused(topk: Any, beam_size: int) -> None:
    with pytest.raises(InputError, match=f"beam_size={beam_size} is smaller than the largest topk"):
        Config("TIGER", "tiny", config_dict={"topk": topk, "beam_size": beam_size})


@pytest.mark.parametrize("key", ["save_dataset", "save_dataloaders"])
def test_pickled_datasets_are_refused(key: str) -> None:
    with pytest.raises(InputError, match="instead of pickling"):
        Config("TIGER", "tiny", config_dict={key: True})


@pytest.mark.parametrize(("use_gpu", "device"), [(False, "cpu"), (True, "cuda")])
def test_use_gpu_decides_the_device(monkeypatch: pytest.MonkeyPatch, use_gpu: bool, device: str) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")  # RecBole sets it; put back what was there
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert Config("TIGER", "tiny", config_dict={"use_gpu": use_gpu})["device"].type == device


WHERE = [
    {"data_path": "elsewhere"},
    {"checkpoint_dir": "elsewhere"},
    {"state": "ERROR", "show_progress": False},
    {"gpu_id": 3},
    {"use_gpu": False},
    {"resume": True},
    {"eval_batch_size": 7},
    {"distill_cache": "disk", "distill_cache_dir": "elsewhere"},
]
WHAT = [
    {"seed": 1},
    {"learning_rate": 0.5},
    {"codebook_sizes": [4, 4]},
    {"MAX_ITEM_LIST_LENGTH": 3},
    {"eval_args": {"split": {"LS": "test_only"}, "order": "TO", "group_by": "user", "mode": "full"}},
    {"user_inter_num_interval": "[5,inf)"},
    {"teacher_config": {"d_model": 8}},
    {"teacher_path": "here/other.pth"},
    {"student_path": "here/other.pth"},
    {"alpha": 0.1},
    {"distill_stages": ["encoder"]},
]
BASE = {"data_path": "here", "teacher_path": "here/teacher.pth", "student_path": "here/student.pth"}


def fingerprint(**changes: Any) -> str:
    return Config("SIDMLPPlusPlus", "tiny", config_dict={**BASE, **changes}).fingerprint()


@pytest.mark.parametrize("changes", WHERE, ids=str)
def test_fingerprint_ignores_where_a_run_happens(changes: dict[str, Any]) -> None:
    assert fingerprint(**changes) == fingerprint()


def test_fingerprint_changes_with_what_a_run_computes() -> None:
    found = [fingerprint(), *(fingerprint(**changes) for changes in WHAT)]
    found += [Config("SIDMLP", "tiny", config_dict=BASE).fingerprint(), Config("SIDMLP", "other").fingerprint()]
    assert len(set(found)) == len(found)
    assert all(re.fullmatch("[0-9a-f]{16}", one) for one in found)


@pytest.mark.parametrize("model", ["TIGER", "SIDMLP", "SIDMLPPlusPlus", "SASRec", "BPR", "Pop"])
@pytest.mark.parametrize("dataset", ["tiny", "ml-100k"])
def test_plain_settings_make_an_equal_configuration(model: str, dataset: str) -> None:
    config = Config(model, dataset, config_dict={"data_path": "here/there", "gpu_id": "1", "clip_grad_norm": None})
    plain = config.plain()
    again = Config(plain["model"], plain["dataset"], config_dict=json.loads(json.dumps(plain)))
    assert again.fingerprint() == config.fingerprint()
    assert again.plain() == plain
    assert again["data_path"] == config["data_path"] or dataset == "ml-100k"
    assert again["MODEL_INPUT_TYPE"] == config["MODEL_INPUT_TYPE"]


def test_a_users_own_ml_100k_is_read_and_recboles_copy_where_there_is_none(tmp_path: Path) -> None:
    root = write_dataset(tmp_path / "mine", [[0, 1, 2, 3, 4]] * 3, "ml-100k")
    config = Config("SIDMLP", "ml-100k", config_dict={**SMALL, "data_path": str(root)})
    assert config["data_path"] == str(root / "ml-100k")
    assert create_dataset(config).inter_num == 15
    for settings in (config.plain(), config.shared_with_teacher()):
        assert settings["data_path"] == str(root)
    again = Config("SIDMLP", "ml-100k", config_dict=config.plain())
    assert again["data_path"] == config["data_path"]
    other = Config("SIDMLP", "ml-100k", config_dict={"data_path": str(tmp_path)})
    assert create_dataset(other).inter_num == 100_000
    assert create_dataset(Config("SIDMLP", "ml-100k", config_dict=other.plain())).inter_num == 100_000


def test_making_the_data_does_not_change_the_fingerprint(settings: Callable[..., dict[str, Any]]) -> None:
    config = Config("TIGER", "tiny", config_dict=settings("TIGER"))
    before = config.fingerprint()
    data_preparation(config, create_dataset(config))
    assert config.fingerprint() == before


_DEEP = ["[" * 100_000, "(" * 100_000, "-" * 200_000 + "1", "[" + "[a," * 3000, "1+" * 50_000 + "1j", "[a: &b [*b]]"]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3),
        ("1e-3", 0.001),
        ("true", True),
        ("False", False),
        ("None", None),
        ("~", None),
        ("[5, 3]", [5, 3]),
        ("{'LS': 'test_only'}", {"LS": "test_only"}),
        ("cosine", "cosine"),
        ("a=b", "a=b"),
        ("[1,inf)", "[1,inf)"),
        ("__import__('os')", "__import__('os')"),
        ("2024/11/28", "2024/11/28"),
        ("[lin, 1e-3]", ["lin", 0.001]),
        *(pytest.param(text, text, id=f"deep {place}") for place, text in enumerate(_DEEP)),
        ("", ""),
    ],
)
def test_command_line_values(text: str, value: Any) -> None:
    assert parse_value(text) == value
    assert type(parse_value(text)) is type(value)


def test_numpy_aliases_exist_after_a_configuration() -> None:
    Config("TIGER", "tiny")
    expected = {"bool": np.bool_, "int": np.int_, "float": np.float64, "complex": np.complex128, "object": np.object_}
    expected |= {"str": np.str_, "unicode": np.str_, "long": np.int_}
    assert {name: getattr(np, name) for name in expected} == expected


def test_applying_the_patches_again_changes_nothing() -> None:
    before = (Trainer.evaluate, Trainer.resume_checkpoint, torch.load)
    compat.apply()
    assert (Trainer.evaluate, Trainer.resume_checkpoint, torch.load) == before
    assert Config("TIGER", "tiny")["learning_rate"] == 0.003


def test_recbole_fills_its_graphs_with_any_scipy() -> None:
    matrix = dok_matrix((2, 3), dtype=np.float32)
    matrix._update({(0, 1): 1, (1, 2): 4})
    assert matrix.toarray().tolist() == [[0, 1, 0], [0, 0, 4]]


def test_looking_up_a_recbole_model_leaves_anomaly_detection_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """RecBole turns it on for the whole process when its sequential models are first imported."""
    package = "recbole.model.sequential_recommender"
    for enabled in (False, True):
        for name in [name for name in sys.modules if name.startswith(package)]:
            monkeypatch.delitem(sys.modules, name)
        with torch.autograd.set_detect_anomaly(enabled):
            Config("SASRec", "tiny")
            assert torch.is_anomaly_enabled() is enabled
        assert f"{package}.sine" in sys.modules


def test_require_recbole_accepts_what_is_installed() -> None:
    assert importlib.metadata.version("recbole") == compat.RECBOLE_VERSION
    compat.require_recbole()


def test_another_recbole_is_refused_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "1.1.1")
    with pytest.raises(
        ImportError, match=r"needs RecBole 1\.2\.1 but found 1\.1\.1: run `pip install --no-deps recbole"
    ):
        compat.require_recbole()


def test_missing_recbole_is_refused_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    with pytest.raises(ImportError, match=r"not installed: run `pip install --no-deps recbole==1\.2\.1`"):
        compat.require_recbole()


@pytest.fixture
def recboles_trainer(data_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, Any]:
    """RecBole's own trainer with a BPR that it trained, and test data, all by RecBole's own code."""
    monkeypatch.setattr(sys, "argv", ["program"])
    settings = {"data_path": str(data_path), "epochs": 1, "state": "ERROR", "show_progress": False, "topk": [5]}
    settings |= {
        "gpu_id": "",
        "valid_metric": "Recall@5",
        "repeatable": True,
        "load_col": {"inter": ["user_id", "item_id"]},
    }
    config = RecBoleConfig("BPR", "tiny", config_dict=settings)
    init_seed(config["seed"], config["reproducibility"])
    train, valid, test = recbole_data_preparation(config, recbole_create_dataset(config))
    trainer = Trainer(config, BPR(config, train._dataset))
    trainer.fit(train, valid, verbose=False)
    return trainer, test


def test_recboles_trainer_loads_its_checkpoint(recboles_trainer: tuple[Any, Any]) -> None:
    trainer, test = recboles_trainer
    weights = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    result = trainer.evaluate(test, load_best_model=False)
    trainer.model.user_embedding.weight.data.normal_()
    load = torch.load
    assert trainer.evaluate(test, load_best_model=True) == result
    assert all(torch.equal(value, weights[name]) for name, value in trainer.model.state_dict().items())
    assert torch.load is load


def test_recboles_trainer_resumes_from_its_checkpoint(recboles_trainer: tuple[Any, Any]) -> None:
    trainer, _ = recboles_trainer
    again = Trainer(trainer.config, trainer.model)
    again.resume_checkpoint(trainer.saved_model_file)
    assert again.start_epoch == 1


def test_recboles_checkpoint_keeps_its_settings(recboles_trainer: tuple[Any, Any]) -> None:
    trainer, _ = recboles_trainer
    checkpoint = compat.load_recbole_checkpoint(trainer.saved_model_file)
    assert checkpoint["config"].final_config_dict == trainer.config.final_config_dict
    assert checkpoint["config"]["model"] == "BPR"
    assert checkpoint["config"]["no such key"] is None
    assert all(torch.equal(value, checkpoint["state_dict"][name]) for name, value in trainer.model.state_dict().items())


class Calls:
    """Pickles as a call of any global, which a loader that looks it up would make."""

    def __init__(self, module: str, name: str, *arguments: Any) -> None:
        self.module, self.name, self.arguments = module, name, arguments

    def write(self, path: Path) -> Path:
        """Write a torch file whose pickle calls the global."""

        def text(word: str) -> bytes:
            return b"\x8c" + bytes([len(word)]) + word.encode()

        arguments = pickle.dumps(self.arguments, protocol=4)[11:-1]  # without protocol, frame and stop
        code = b"\x80\x04" + text(self.module) + text(self.name) + b"\x93" + arguments + b"R."
        torch.save({"config": 0}, path)
        import zipfile

        with zipfile.ZipFile(path) as old:
            parts = {name: old.read(name) for name in old.namelist()}
        with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as new:
            for name, content in parts.items():
                new.writestr(name, code if name.endswith("data.pkl") else content)
        return path


TOUCH = "__import__('pathlib').Path('called').touch()"


@pytest.mark.parametrize(
    "call",
    [
        Calls("os", "system", "touch called"),
        Calls("posix", "system", "touch called"),
        Calls("builtins", "eval", TOUCH),
        Calls("recbole.utils.utils", "os.system", "touch called"),
        Calls("recbole.utils", "ensure_dir", "called"),
        Calls("recbole.config", "Config", "BPR", "tiny", None, {"seed": TOUCH}),
        Calls("recbole_sid.config", "Config", "BPR", "tiny", None, {"seed": TOUCH}),
        Calls("recbole_sid.util.files", "write_text", "called", ""),
    ],
    ids=lambda call: f"{call.module}.{call.name}",
)
def test_checkpoint_that_calls_something_is_refused(tmp_path: Path, call: Calls) -> None:
    file = call.write(tmp_path / "bad.pth")
    with pytest.raises(InputError, match=r"bad\.pth' is not a readable checkpoint of RecBole"):
        compat.load_recbole_checkpoint(file)
    assert not Path("called").exists()


@pytest.mark.parametrize(
    "content", [b"", b"text, no checkpoint", pickle.dumps([1, 2]), b"PK\x03\x04 cut short"], ids=repr
)
def test_damaged_recbole_checkpoint_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bad.pth").write_bytes(content)
    with pytest.raises(InputError, match=r"bad\.pth' is not a readable checkpoint of RecBole"):
        compat.load_recbole_checkpoint(tmp_path / "bad.pth")


def test_missing_recbole_checkpoint_is_refused() -> None:
    with pytest.raises(InputError, match=r"no checkpoint at 'none\.pth'"):
        compat.load_recbole_checkpoint("none.pth")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("epochs", 0, "epochs=0 must be a whole number of at least 1"),
        ("epochs", "many", "epochs='many' must be a whole number"),
        ("train_batch_size", 0, "train_batch_size=0 must be"),
        ("MAX_ITEM_LIST_LENGTH", 0, "MAX_ITEM_LIST_LENGTH=0 must be"),
        ("codebook_sizes", [4, 0], r"codebook_sizes=\[4, 0\] must be a list, each a whole number of at least 1"),
        ("codebook_sizes", "256", "must be a list, each a whole number of at least 1"),
        ("codebook_sizes", [True, 4], "must be a list, each a whole number of at least 1"),
        ("rq_vae_hidden", 256, "rq_vae_hidden=256 must be a list, each a whole number of at least 1"),
        ("rq_vae_hidden", [64, 0], r"rq_vae_hidden=\[64, 0\] must be a list"),
        ("rq_vae_hidden", [64.0], "must be a list, each a whole number of at least 1"),
        ("rq_vae_dim", None, "rq_vae_dim=None must be a whole number of at least 1"),
        ("rank_size", 0, "rank_size=0 must be a whole number of at least 1"),
        ("text_dim", 0, "text_dim=0 must be a whole number of at least 1"),
        ("text_dim", 2.5, "text_dim=2.5 must be a whole number"),
        ("collaborative_dim", -1, "collaborative_dim=-1 must be"),
        ("codebook_sizes", [4, 10**9], "each a whole number of at least 1 and at most 16,777,216"),
        ("MAX_ITEM_LIST_LENGTH", 10**9, "MAX_ITEM_LIST_LENGTH=1000000000 must be .* at most 100,000"),
        ("clip_grad_norm", {"max_norm": -1.0}, "clip_grad_norm=.* must be a dictionary .* of numbers above 0"),
        ("clip_grad_norm", {"max_norm": None}, "clip_grad_norm=.* must be a dictionary"),
        ("clip_grad_norm", {"max_norm": 1.0, "norm_type": "x"}, "clip_grad_norm=.* must be a dictionary"),
        ("eval_args", {"split": {"LS": "valid_and_test"}}, "eval_args.order='RO': TIGER learns from .* `order: TO`"),
        ("eval_args", {"order": "TO", "foo": 1}, "key of eval_args='foo'"),
        ("eval_args", {"order": "TO", "group_by": "item"}, "eval_args.group_by='item' must be user or none"),
        ("tokenizer", "file", "tokenizer=file takes ready-made semantic IDs: name their file in semantic_ids_path"),
        ("learning_rate", "fast", r"learning_rate='fast' must be a number of at least 0 \(default: 0\.003\)"),
        ("d_model", -4, "d_model=-4 must be a whole number of at least 1"),
        ("valid_metric", "NDGC@10", r"valid_metric=NDGC@10 is not measured \(did you mean 'ndcg@10'\?\)"),
    ],
)
def test_impossible_value_is_refused(key: str, value: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Config("TIGER", "ml-100k", config_dict={key: value})


def test_keys_of_students_are_unknown_to_teachers() -> None:
    with pytest.raises(InputError, match="Unknown configuration key 'teacher_path'"):
        Config("TIGER", "ml-100k", config_dict={"teacher_path": "x"})


@pytest.mark.parametrize("name", ["a/b", "../x", "tiny/", "x" * 300, "\ud800", "."])
def test_a_dataset_whose_name_leads_elsewhere_is_refused(name: str) -> None:
    with pytest.raises(InputError, match="dataset="):
        Config("TIGER", name)


@pytest.mark.parametrize(
    ("model", "changes", "message"),
    [
        ("TIGER", {"decoding": "bem"}, r"decoding='bem' \(did you mean 'beam'\?\) must be one of beam, exact, full\."),
        ("TIGER", {"code_init": "zero"}, "code_init='zero'.* must be one of random, features"),
        ("CausalSID", {"d_model": 20, "n_heads": 4}, "d_model=20 must be a multiple of twice n_heads=4"),
        ("SIDMLP", {"normaliser": "all"}, "normaliser='all'.* must be one of children, codes"),
        ("SIDMLP", {"alpha": 1.5}, r"alpha=1\.5 must be a number of at least 0 and at most 1"),
        ("SIDMLP", {"temperature": 0.0}, r"temperature=0\.0 must be above 0"),
        ("SIDMLP", {"attention_dim": 10, "attention_heads": 4}, "attention_dim=10 must be a multiple of"),
        ("SIDMLP", {"distill_cache": "ram"}, "distill_cache='ram'.* must be one of none, memory, disk"),
        ("SIDMLP", {"distill_stages": ["encoder", "decoder"]}, "distill_stages=.* is not possible for SIDMLP"),
        ("SIDMLPPlusPlus", {"alpha": -0.1}, r"alpha=-0\.1"),
        ("SIDMLPPlusPlus", {"encoder": "itm"}, r"encoder='itm' .* must be one of token, item\."),
        ("SIDMLPPlusPlus", {"encoder_mixing": "max"}, "encoder_mixing='max'.* must be one of mean, weighted"),
        ("SIDMLPPlusPlus", {"encoder_positions": "last"}, "encoder_positions='last'.* must be one of start, end"),
        ("SIDMLPPlusPlus", {"item_mixing": "postion"}, r"item_mixing='postion' .*must be one of position, attention"),
        ("SIDMLPPlusPlus", {"encoder_dtype": "bfloat16"}, "computes in float32 only"),
        ("SIDMLP", {"distill_stages": 5}, r"distill_stages=\[5\] is not possible"),
        ("SIDMLP", {"teacher_model": "SASRec"}, "SASRec cannot be a teacher"),
        ("SIDMLP", {"teacher_config": {"n_hads": 3}}, "Unknown configuration key 'n_hads'"),
        ("TIGER", {"lr_scheduler": "cosin"}, "lr_scheduler='cosin' .* must be one of constant, linear, cosine"),
        ("TIGER", {"learner": "admw"}, "learner='admw' .* must be one of adam, adamw"),
        ("TIGER", {"dropout_prob": 1.5}, "dropout_prob=1.5 must be a number of at least 0 and below 1"),
        ("SIDMLPPlusPlus", {"distill_stages": "decoder"}, "untrained encoder: begin with 'encoder', or name"),
        ("SIDMLPPlusPlus", {"encoder": "item", "distill_stages": ["joint"]}, r"choose from direct\."),
        ("AdaptiveEnsemble", {"fusion": "mean"}, "fusion='mean'.* must be one of adaptive, fixed"),
        ("AdaptiveEnsemble", {"q_grid": [-1]}, r"q_grid=\[-1\] must be a list of numbers of at least 0"),
    ],
)
def test_models_refuse_their_wrong_values_when_a_configuration_is_made(
    model: str, changes: dict[str, Any], message: str
) -> None:
    Config(model, "ml-100k")
    with pytest.raises(InputError, match=message):
        Config(model, "ml-100k", config_dict=changes)


def test_lists_need_no_inner_quotes_on_the_command_line() -> None:
    assert parse_value("[collaborative, text]") == parse_value("['collaborative','text']") == ["collaborative", "text"]
    assert parse_value("{max_norm: 1.0}") == {"max_norm": 1.0}
