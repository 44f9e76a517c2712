"""Every model of RecBole runs by its name on ml-100k, can be loaded again, and gives plain RecBole's metrics."""

from __future__ import annotations

import importlib
import inspect
import os
import pkgutil
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import recbole.model
import torch
from recbole.config import Config as RecBoleConfig
from recbole.data import create_dataset as recbole_create_dataset
from recbole.data import data_preparation as recbole_data_preparation
from recbole.model.general_recommender import BPR
from recbole.model.sequential_recommender import GRU4Rec
from recbole.utils import ModelType, init_seed
from recbole.utils import get_trainer as recbole_get_trainer
from scipy import sparse

from recbole_sid.comparison.job import make_jobs, run_job
from recbole_sid.comparison.plan import make_plan
from recbole_sid.comparison.runner import run_jobs
from recbole_sid.comparison.summary import summarise
from recbole_sid.config import Config
from recbole_sid.data.dataset import StoredHistoryDataset
from recbole_sid.errors import InputError
from recbole_sid.model.tiger import TIGER
from recbole_sid.quick_start import Run, count_parameters, load_data_and_model, run_model, run_recbole_sid
from recbole_sid.registry import get_trainer
from recbole_sid.trainer.sid_trainer import SIDTrainer
from recbole_sid.util.plain_values import as_plain, from_plain

TINY = {"epochs": 1, "train_batch_size": 64, "use_gpu": False, "show_progress": False, "state": "ERROR"}
# What is larger than the tiny dataset, or takes hundreds of epochs.
SMALLER: dict[str, dict[str, Any]] = {
    "NCL": {"num_clusters": 5},
    "GRU4RecCPR": {"reranker_CAN_NUM": 5},
    "SASRecCPR": {"reranker_CAN_NUM": 5},
    "S3Rec": {"pretrain_epochs": 1, "save_step": 1},
    "LightGBM": {"lgb_num_boost_round": 2},
    "XGBoost": {"xgb_num_boost_round": 2},
}
# What does not run by its name, and a part of what is said of it; a model that begins to run must leave this list.
CANNOT_RUN = {
    "GRU4RecKG": r"ml-100k.ent\] not found",  # embeddings of entities, which ml-100k does not have
    "KSR": r"ml-100k.ent\] not found",
}
NEEDS = {
    "LightGBM": "lightgbm",
    "XGBoost": "lightgbm",
    "KGAT": "dgl",
    "KGIN": "torch_scatter",
    "MCCLK": "torch_scatter",
}
RANDOM_SCORES = {"Random", "KTUP"}  # their scores are drawn
DRAWN_CANDIDATES = {"DIN", "DIEN"}  # RecBole evaluates them on sampled negatives
KINDS = "general sequential context_aware knowledge_aware exlib".split()


def recbole_models() -> Iterator[str]:
    """Return the names of RecBole's models, without importing what needs further packages."""
    for kind in KINDS:
        folder = Path(recbole.model.__path__[0]) / f"{kind}_recommender"
        for module in pkgutil.iter_modules([str(folder)]):
            if kind == "exlib":
                yield {"lightgbm": "LightGBM", "xgboost": "XGBoost"}[module.name]
                continue
            found = importlib.import_module(f"recbole.model.{kind}_recommender.{module.name}")
            classes = inspect.getmembers(found, inspect.isclass)
            yield from (name for name, each in classes if each.__module__ == found.__name__ and _is_model(each))
    torch.autograd.set_detect_anomaly(False)  # importing sine.py turns it on


def _is_model(each: type) -> bool:
    return isinstance(getattr(each, "type", None), ModelType)


ALL_MODELS = sorted(recbole_models())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset with the files and fields of ml-100k, a few rows of each."""
    rng = np.random.default_rng(0)
    n_users, n_items, time = 30, 24, 0  # times so small that RecBole's float32 holds them
    rows: dict[str, list[str]] = {
        "inter": ["user_id:token\titem_id:token\trating:float\ttimestamp:float"],
        "item": ["item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq"],
        "user": ["user_id:token\tage:token\tgender:token\toccupation:token\tzip_code:token"],
        "kg": ["head_id:token\trelation_id:token\ttail_id:token"],
        "link": ["item_id:token\tentity_id:token"],
    }
    for user in range(n_users):
        items = rng.permutation(n_items)[: int(rng.integers(8, 16))] if user else np.arange(n_items)
        for item in items:
            time += int(rng.integers(1, 9))
            rows["inter"].append(f"{user + 1}\t{item + 1}\t{rng.integers(1, 6)}\t{time}")
        rows["user"].append(f"{user + 1}\t{20 + user % 7}\t{'MF'[user % 2]}\t{'abc'[user % 3]}\t{user}")
    for item in range(n_items):
        classes = " ".join(["Action", "Comedy", "Drama"][: 1 + item % 3])
        rows["item"].append(f"{item + 1}\tFilm {item}\t{1990 + item % 5}\t{classes}")
        rows["kg"] += [f"m.{item}\tr{relation}\tm.{100 + item * (relation + 1) % 9}" for relation in range(3)]
        rows["link"].append(f"{item + 1}\tm.{item}")
    target = tmp_path_factory.mktemp("data") / "ml-100k"
    target.mkdir()
    for suffix, lines in rows.items():
        (target / f"ml-100k.{suffix}").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return target


@pytest.fixture(autouse=True)
def in_place_of_ml_100k(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the name ml-100k mean the tiny dataset."""
    original = RecBoleConfig._set_default_parameters

    def set_default_parameters(self: Any) -> None:
        original(self)
        self.final_config_dict["data_path"] = str(folder)

    monkeypatch.setattr(RecBoleConfig, "_set_default_parameters", set_default_parameters)


def config_of(model: str | type, **changes: Any) -> Config:
    name = model if isinstance(model, str) else model.__name__
    return Config(model, "ml-100k", config_dict={**TINY, **SMALLER.get(name, {}), **changes})


def is_missing(package: str) -> bool:
    try:
        importlib.import_module(package)
    except ImportError:
        return True
    return False


def check_loads_again(run: Run) -> None:
    """Assert that a run's checkpoint gives the same weights, the same values beside them, and the same metrics."""
    name, trained = run.config["model"], run.trainer.model
    config, model, _, _, _, test = load_data_and_model(run.trainer.saved_model_file)
    weights = model.state_dict()
    assert weights.keys() == trained.state_dict().keys()
    assert all(torch.equal(weights[key], value) for key, value in trained.state_dict().items())
    assert model.other_parameter().keys() == trained.other_parameter().keys()
    if name not in RANDOM_SCORES | DRAWN_CANDIDATES:
        trainer = get_trainer(config)(config, model)
        assert dict(trainer.evaluate(test, load_best_model=False)) == dict(run.test_result)


def test_the_list_of_models_is_recboles() -> None:
    assert len(ALL_MODELS) == len(set(ALL_MODELS)) == 94
    assert set(CANNOT_RUN) | set(NEEDS) | set(SMALLER) <= set(ALL_MODELS)


@pytest.mark.slow
@pytest.mark.parametrize("model", ALL_MODELS)
def test_runs_by_its_name_and_loads_again(model: str) -> None:
    reason = CANNOT_RUN.get(model)
    if model in NEEDS and is_missing(NEEDS[model]):
        reason = NEEDS[model]
    if reason:
        with pytest.raises(InputError, match=reason):
            run_model(config_of(model))
        return
    run = run_model(config_of(model))
    assert run.test_result
    assert all(np.isfinite(value) for value in run.test_result.values())
    if run.config["MODEL_TYPE"] == ModelType.DECISIONTREE:
        assert count_parameters(run.trainer.model) == 0
        with pytest.raises(InputError, match="trees"):
            load_data_and_model(run.trainer.saved_model_file)
        return
    assert count_parameters(run.trainer.model) >= 0
    check_loads_again(run)


@pytest.mark.slow
@pytest.mark.parametrize("model", ["BPR", "SASRec", "GRU4Rec", "FM", "CFKG"])
def test_metrics_are_those_of_plain_recbole(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # Each of its own parts: only the settings are shared, and the package's import mends RecBole for this stack.
    config = config_of(model, shuffle=False)
    ours = run_model(config)
    monkeypatch.setattr("sys.argv", ["pytest"])  # which RecBole reads
    plain = RecBoleConfig(model, "ml-100k", config_dict={**config.plain(), "checkpoint_dir": "plain"})
    init_seed(plain["seed"], plain["reproducibility"])
    train, valid, test = recbole_data_preparation(plain, recbole_create_dataset(plain))
    init_seed(plain["seed"], plain["reproducibility"])
    trainer = recbole_get_trainer(plain["MODEL_TYPE"], model)(plain, config.model_class(plain, train._dataset))
    trainer.fit(train, valid, show_progress=False)
    theirs = trainer.evaluate(test, show_progress=False)
    assert dict(ours.test_result) == pytest.approx(dict(theirs), abs=1e-6)


@pytest.mark.parametrize("model", ["EASE", "ItemKNN", "AsymKNN", "SLIMElastic", "GRU4RecF", "RippleNet", "FwFM"])
def test_values_beside_the_weights_come_back(model: str) -> None:
    check_loads_again(run_model(config_of(model)))


@pytest.mark.parametrize(
    "value",
    [
        sparse.csr_matrix(np.array([[0, 1.5], [2, 0]])),
        sparse.csc_matrix(np.eye(3, dtype=np.float32)),
        sparse.lil_matrix(np.eye(2)),
        sparse.csr_array(np.eye(2)),
        np.arange(6).reshape(2, 3),
        np.array(["a", "bc"]),
        np.array([[1, None], ["a", 2.5]], dtype=object),
        defaultdict(list, {1: [(torch.tensor([1, 2]), 3)]}),
        {(1, 2): {"a": {3}}, "b": None},
        np.float32(1.5),
        True,
    ],
    ids=lambda value: type(value).__name__,
)
def test_values_survive_a_checkpoint_without_pickle(value: Any, tmp_path: Path) -> None:
    torch.save(as_plain(value), tmp_path / "value.pt")
    back = from_plain(torch.load(tmp_path / "value.pt", weights_only=True))
    if sparse.issparse(value):
        assert type(back) is type(value)
        assert back.dtype == value.dtype
        assert (back.toarray() == value.toarray()).all()
    elif isinstance(value, np.ndarray):
        assert back.dtype == value.dtype
        assert (back == value).all()
    else:
        assert repr(back) == repr(value.item() if isinstance(value, np.generic) else value)
        assert isinstance(back, type(value)) or isinstance(value, np.generic)


def test_what_is_code_is_not_written() -> None:
    with pytest.raises(InputError, match="function cannot be written"):
        as_plain([lambda: 1])


@pytest.mark.parametrize(
    "damage", [{"row": torch.tensor([5, 0])}, {"format": "exec"}, {"shape": [1]}, {"values": torch.ones(7)}]
)
def test_a_damaged_matrix_is_refused(damage: dict[str, Any]) -> None:
    written = {**as_plain(sparse.csr_matrix(np.array([[0, 1.5], [2, 0]]))), **damage}
    with pytest.raises(InputError, match="damaged value"):
        from_plain(written)


@pytest.mark.parametrize("model", ["GRU4Rec", "BERT4Rec", "NARM", "SASRec"])
def test_cross_entropy_takes_no_negatives_and_other_losses_do(model: str) -> None:
    assert config_of(model)["train_neg_sample_args"]["distribution"] == "none"
    assert config_of("SASRec", loss_type="BPR")["train_neg_sample_args"]["distribution"] == "uniform"
    with pytest.raises(InputError, match="train_neg_sample_args"):
        config_of(model, train_neg_sample_args={"distribution": "uniform"})


def test_defaults_lie_below_what_a_kind_of_model_needs() -> None:
    fm, kg, general = config_of("FM"), config_of("CFKG"), config_of("BPR")
    assert (fm["metrics"], fm["valid_metric"], fm["threshold"]) == (["AUC", "LogLoss"], "AUC", {"rating": 4})
    assert fm["load_col"].keys() == {"inter", "user", "item"}
    assert kg["load_col"].keys() == {"inter", "kg", "link"}
    assert (kg["metrics"], kg["topk"]) == (["Recall", "NDCG"], [5, 10])
    assert general["load_col"] == {"inter": ["user_id", "item_id", "timestamp"]}
    assert "class" in config_of("SASRecF")["load_col"]["item"]
    assert Config("CFKG", "yelp")["load_col"]["inter"] == ["user_id", "business_id", "date"]
    assert Config("CFKG", "yelp")["load_col"].keys() == {"inter", "kg", "link"}


def test_overrides_of_a_comparison_reach_recboles_models() -> None:
    models = {"BPR": {}, "GRU4Rec": {"hidden_size": 8}, "BERT4Rec": {}, "FM": {}, "CFKG": {}, "TIGER": {}}
    plan = make_plan("ml-100k", models, [1], overrides={"epochs": 3, "d_model": 16, "embedding_size": 4})
    settings = {entry.name: entry.settings for entry in plan.entries}
    assert all(each["epochs"] == 3 for each in settings.values())
    assert settings["GRU4Rec"]["hidden_size"] == 8
    assert [name for name, each in settings.items() if "d_model" in each] == ["TIGER"]
    with pytest.raises(InputError, match="epohcs"):
        make_plan("ml-100k", models, [1], overrides={"epohcs": 3})


@pytest.mark.parametrize("model", ALL_MODELS)
def test_every_model_takes_overrides_of_a_comparison(model: str) -> None:
    if model in NEEDS and is_missing(NEEDS[model]) and NEEDS[model] == "lightgbm":
        pytest.skip("not installed")
    plan = make_plan("ml-100k", {model: {}}, [1], overrides={"epochs": 3})
    assert Config(model, "ml-100k", config_dict=plan.entries[0].settings)["epochs"] == 3


RANKED = {
    "eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "mode": "full"},
    "metrics": ["Recall", "NDCG"],
    "valid_metric": "NDCG@10",
}


def test_a_comparison_takes_models_of_every_kind_that_rank_all_items(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="FM is evaluated on labels"):
        make_jobs(make_plan("ml-100k", {"FM": TINY}, [1]), tmp_path)
    models = {"EASE": TINY, "GRU4Rec": TINY, "CFKG": TINY, "SASRecF": TINY, "FM": {**TINY, **RANKED}}
    jobs = make_jobs(make_plan("ml-100k", models, [1], overrides={"eval_batch_size": 16}), tmp_path)
    outcomes = run_jobs(jobs, run_job, report=lambda line: None)
    assert [outcome.failure for outcome in outcomes] == [None] * 5
    summary = summarise(outcomes)
    assert [row["model"] for row in summary.rows] == list(models)
    assert all(0 <= row["ndcg@10"] <= 1 for row in summary.rows)


def test_a_comparison_of_files_that_are_split_already_is_refused_before_anything_is_trained(tmp_path: Path) -> None:
    split = {**TINY, "benchmark_filename": ["train", "valid", "test"]}
    with pytest.raises(InputError, match="whole sequences of interactions: leave out benchmark_filename"):
        make_jobs(make_plan("ml-100k", {"BPR": split}, [1]), tmp_path)


def test_fearec_finds_the_stored_histories() -> None:
    run = run_model(config_of("FEARec"))
    dataset = run.test_data._dataset
    assert isinstance(dataset, StoredHistoryDataset)
    rows = dataset[torch.arange(5)]
    assert torch.equal(dataset.inter_feat["item_id_list"][:5], rows["item_id_list"])
    assert (rows["item_id_list"] > 0).sum(1).tolist() == rows["item_length"].tolist()
    # It puts whole columns into batches, where older versions of torch index by 64 bits alone.
    assert {values.dtype for values in dataset.inter_feat.interaction.values()} <= {torch.int64, torch.float32}


@pytest.mark.parametrize("model", ["BPR", "SASRec"])
def test_metrics_of_coverage_and_popularity(model: str) -> None:
    metrics = ["Recall", "ItemCoverage", "AveragePopularity", "ShannonEntropy", "GiniIndex", "TailPercentage"]
    run = run_model(config_of(model, metrics=metrics, valid_metric="Recall@5"))
    assert {name.split("@")[0] for name in run.test_result} == {metric.lower() for metric in metrics}
    dataset = run.test_data._dataset
    lists = []
    for batch in run.test_data:
        lists.append(run.trainer._full_sort_batch_eval(batch)[1].topk(10).indices)
    expected = len(torch.cat(lists).unique()) / dataset.item_num
    assert run.test_result["itemcoverage@10"] == pytest.approx(expected, abs=1e-6)
    again = run.trainer.evaluate(run.test_data, load_best_model=False)  # nothing is left of the last time
    assert dict(again) == dict(run.test_result)


def test_gauc_selects_and_long_lists_need_no_beam() -> None:
    assert set(run_model(config_of("BPR", metrics=["GAUC"], valid_metric="GAUC")).test_result) == {"gauc"}
    assert config_of("BPR", topk=[100], valid_metric="NDCG@100")["topk"] == [100]
    with pytest.raises(InputError, match="beam_size"):
        config_of("TIGER", topk=[100], valid_metric="NDCG@100")
    with pytest.raises(InputError, match="valid_metric"):
        config_of("FM", valid_metric="NDCG@10")  # value metrics too are checked before the training


def test_dynamic_negatives_are_refused_for_semantic_ids() -> None:
    with pytest.raises(InputError, match="leave out train_neg_sample_args"):
        config_of("TIGER", train_neg_sample_args={"distribution": "uniform", "dynamic": True, "candidate_num": 2})


class MyGRU(GRU4Rec):
    """A user's own class: scores are GRU4Rec's, turned round."""

    def full_sort_predict(self, interaction: Any) -> torch.Tensor:
        return -super().full_sort_predict(interaction)


class MyTIGER(TIGER):
    """A user's own class made from one of ours."""


def test_a_users_own_class_is_trained_and_loaded() -> None:
    result = run_recbole_sid(MyGRU, "ml-100k", config_dict={**TINY, "hidden_size": 8})
    _, model, _, _, _, _ = load_data_and_model(result["model_file"], model_class=MyGRU)
    assert type(model) is MyGRU
    assert (
        result["test_result"]
        != run_recbole_sid("GRU4Rec", "ml-100k", config_dict={**TINY, "hidden_size": 8})["test_result"]
    )
    with pytest.raises(InputError, match="give it as model_class"):
        load_data_and_model(result["model_file"])
    with pytest.raises(InputError, match="holds a MyGRU, not a BPR"):
        load_data_and_model(result["model_file"], model_class=BPR)


def test_a_class_made_from_one_of_ours_gets_its_settings_and_trainer() -> None:
    small = {"d_model": 16, "d_ff": 32, "n_heads": 2, "d_kv": 8, "encoder_layers": 1, "decoder_layers": 1}
    semantic_ids = {"codebook_sizes": [4, 3], "collaborative_dim": 8, "beam_size": 10}
    config = config_of(MyTIGER, **small, **semantic_ids)
    assert config["warmup_steps"] == config_of("TIGER")["warmup_steps"]
    run = run_model(config)
    assert isinstance(run.trainer, SIDTrainer)
    assert type(run.trainer.model) is MyTIGER
    assert type(load_data_and_model(run.trainer.saved_model_file, model_class=MyTIGER)[1]) is MyTIGER


def test_popularity_counts_each_interaction_and_no_negative(data_path: Path) -> None:
    """RecBole's counts the batches that hold an item, as target or as negative."""
    settings = {"data_path": str(data_path), "train_batch_size": 64, "use_gpu": False, "show_progress": False}
    run = run_model(Config("Pop", "tiny", config_dict=settings))
    lines = (data_path / "tiny" / "tiny.inter").read_text().splitlines()[1:]
    pairs = [line.split("\t")[:2] for line in lines]
    left_out = {len(pairs) - 1 - [user for user, _ in pairs[::-1]].index(name) for name, _ in pairs}
    left_out |= {last - 1 for last in left_out}
    expected = Counter(item for number, (_, item) in enumerate(pairs) if number not in left_out)
    tokens = run.test_data._dataset.field2id_token["item_id"]
    counted = run.trainer.model.item_cnt.squeeze(1).tolist()
    assert {token: count for token, count in zip(tokens, counted, strict=True) if count} == expected
    assert expected.most_common(1)[0][1] > len(pairs) // 64 + 1  # more often than there are batches


@pytest.mark.parametrize(
    "module",
    [
        "recbole.utils",
        "recbole.utils.logger",
        "recbole.trainer.trainer",
        "recbole.data.utils",
        "recbole.data.dataset.dataset",
    ],
)
def test_a_directory_may_be_made_by_another_process_meanwhile(
    module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os.path, "exists", lambda path: False)  # as it was when this process looked
    importlib.import_module(module).ensure_dir(str(tmp_path))
    assert tmp_path.is_dir()


def test_a_model_of_one_epoch_is_kept_whatever_eval_step(data_path: Path) -> None:
    settings = {"data_path": str(data_path), "use_gpu": False, "show_progress": False, "state": "ERROR"}
    found = run_recbole_sid("EASE", "tiny", config_dict={**settings, "eval_step": 5})
    assert found["test_result"] == run_recbole_sid("EASE", "tiny", config_dict=settings)["test_result"]
    assert Path(found["model_file"]).is_file()
