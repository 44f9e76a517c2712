"""Searches: spaces, what schedulers see, faults, interruption, sharing among trials, one look at the test split."""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import signal
import socket
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from recbole_sid.cluster import limit_threads, local_ray, ray_running
from recbole_sid.config import PROPERTIES, Config
from recbole_sid.errors import InputError
from recbole_sid.quick_start import run_model
from recbole_sid.tuning.search import (
    Options,
    check_options,
    make_plan,
    most_epochs,
    scheduler,
    train_common_teacher,
)
from recbole_sid.tuning.space import check_space, read_space
from recbole_sid.tuning.trainable import run_trial, train_together
from recbole_sid.tuning.trial import FINISHED, SAMPLE, SCORE, place_data, read_data, train_trial
from recbole_sid.tuning.tuning import search

_counting = False  # in a process of Ray's: whether events are counted
LOG = "TUNE_TEST_LOG"  # in the environment: a file that events are counted in, across processes


def note(event: str) -> None:
    with Path(os.environ[LOG]).open("a", encoding="utf-8") as stream:
        stream.write(event + "\n")


def events() -> Counter[str]:
    file = Path(os.environ[LOG])
    return Counter(file.read_text(encoding="utf-8").splitlines() if file.is_file() else ())


def count_teachers_and_test_reads(patch: Callable[[Any, str, Any], None] = setattr) -> None:
    """Note every training of a teacher, every filling of a distillation cache and every pass over a test split."""
    from recbole.data.dataloader import FullSortEvalDataLoader

    from recbole_sid.data import loader as loaders
    from recbole_sid.trainer.distill_cache import CachedSupervision
    from recbole_sid.trainer.sid_trainer import SIDTrainer

    prepare, fit, fill = loaders.recbole_data_preparation, SIDTrainer.fit, CachedSupervision._fill
    iterate = FullSortEvalDataLoader.__iter__

    def marking(config: Any, dataset: Any) -> Any:
        found = prepare(config, dataset)
        found[2].is_test = True
        return found

    def counted_fit(self: Any, *args: Any, **kwargs: Any) -> Any:
        note(f"train {self.config['model']}")
        return fit(self, *args, **kwargs)

    def counted_fill(self: Any, online: Any, *args: Any, **kwargs: Any) -> Any:
        note("states" if online.teacher is None else "logits")
        return fill(self, online, *args, **kwargs)

    def counted_iter(self: Any) -> Any:
        note("test" if getattr(self, "is_test", False) else "validation")
        return iterate(self)

    patch(loaders, "recbole_data_preparation", marking)
    patch(SIDTrainer, "fit", counted_fit)
    patch(CachedSupervision, "_fill", counted_fill)
    patch(FullSortEvalDataLoader, "__iter__", counted_iter)


@pytest.fixture(scope="module")
def ray_here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One Ray for all searches of this file."""
    before = os.environ.get(LOG)
    os.environ[LOG] = str(tmp_path_factory.mktemp("events") / "log")
    from ray import cloudpickle

    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    with local_ray(2):
        yield
    os.environ.pop(LOG) if before is None else os.environ.update({LOG: before})


@pytest.fixture
def ray(ray_here: None) -> None:
    Path(os.environ[LOG]).write_text("", encoding="utf-8")


@pytest.fixture
def config(data_path: Path) -> Config:
    quiet = {"use_gpu": False, "show_progress": False, "state": "ERROR", "data_path": str(data_path), "epochs": 9}
    return Config("SASRec", "tiny", config_dict=quiet)


def space_of(text: str, name: str = "space.yaml") -> Any:
    Path(name).write_text(text, encoding="utf-8")
    return read_space(name)


def parabola(given: dict[str, Any], plan: Any, data: Any = None) -> None:
    """Report a score that grows over the epochs towards a value that is largest at learning rate 0.01."""
    from ray import tune

    rate = given[SAMPLE]["learning_rate"]
    note(f"start {rate}")
    for epoch in range(1, 10):
        note(f"epoch {rate}")
        tune.report({"epoch": epoch, SCORE: -((math.log10(rate) + 2) ** 2) - 1 / epoch, "model_file": f"{rate}.pth"})
    folder = plan.trial_folder(tune.get_context().get_trial_id())
    folder.mkdir(parents=True, exist_ok=True)
    (folder / FINISHED).write_text("{}", encoding="utf-8")


def dying(given: dict[str, Any], plan: Any, data: Any = None) -> None:
    """As `parabola`, but the first process at 0.1 is killed, every one at 0.2 is, and 0.3 raises."""
    rate = given[SAMPLE]["learning_rate"]
    if rate == 0.2 or (rate == 0.1 and not events()[f"start {rate}"]):
        note(f"start {rate}")
        os.kill(os.getpid(), signal.SIGKILL)
    if rate == 0.3:
        raise InputError("the loss is no longer finite")
    parabola(given, plan)


def interrupting(given: dict[str, Any], plan: Any, data: Any = None) -> None:
    """As `parabola`, but the first process at 0.3 interrupts the search and waits to be stopped."""
    from ray import tune

    rate = given[SAMPLE]["learning_rate"]
    if rate == 0.3 and not events()["interrupted"]:
        note("interrupted")
        tune.report({"epoch": 1, SCORE: -9.0, "model_file": "none.pth"})
        os.kill(int(plan.settings["worker"]), signal.SIGINT)
        time.sleep(60)
    parabola(given, plan)


def counted(given: dict[str, Any], plan: Any, data: Any = None) -> None:
    """Run the real trial in a process that counts events."""
    global _counting
    if not _counting:
        count_teachers_and_test_reads()
        _counting = True
    run_trial(given, plan, data)


def no_test(plan: Any, findings: Any) -> dict[str, float]:
    note("test")
    return {"ndcg@10": 0.5}


def quick(config: Config, space: Any, trainable: Any = parabola, **options: Any) -> Any:
    resume = options.pop("resume", False)
    chosen = Options(**{"scheduler": "none", "concurrency": 1, **options})
    return search(config, space, chosen, resume=resume, trainable=trainable, evaluate=no_test, tell=lambda line: None)


def trials_of(folder: str | Path) -> pd.DataFrame:
    return pd.read_parquet(Path(folder) / "trials.parquet").set_index("learning_rate")


# Spaces.


def test_space_reads_every_kind() -> None:
    space = space_of(
        "epochs: 7\nlearning_rate: {loguniform: [1e-4, 1e-2]}\nn_layers: {int: [1, 2]}\n"
        "mlp: {choice: [[8, 8], null]}\ndropout: {quniform: [0.1, 0.3, 0.1]}\n"
    )
    assert space.constants == {"epochs": 7}
    rate, layers, mlp, dropout = space.parameters
    assert (rate.kind, rate.values) == ("loguniform", (1e-4, 1e-2))
    assert layers.grid() == (1, 2)
    assert [mlp.value(label) for label in mlp.labels] == [[8, 8], None]
    assert dropout.grid() == pytest.approx((0.1, 0.2, 0.3))
    assert space.settings({"n_layers": 2, "mlp": "[8, 8]"}, {"a": 1}, {}) == {
        "a": 1, "epochs": 7, "n_layers": 2, "mlp": [8, 8]
    }  # fmt: skip


def test_samples_lie_in_their_ranges() -> None:
    import random

    import numpy as np

    space = space_of("a: {int: [1, 3]}\nb: {loguniform: [1e-4, 1e-2]}\nc: {quniform: [0.0, 1.0, 0.25]}\n")
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 (what Ray samples from)
    drawn = {key: [domain.sample() for _ in range(200)] for key, domain in space.domains().items()}
    assert set(drawn["a"]) == {1, 2, 3}
    assert 1e-4 <= min(drawn["b"]) < 3e-4 < 3e-3 < max(drawn["b"]) <= 1e-2
    assert set(drawn["c"]) == {0.0, 0.25, 0.5, 0.75, 1.0}


def test_conditional_keys_apply_only_where_they_should() -> None:
    space = space_of(
        "tokenizer: {choice: [rq_vae, opq]}\nrq_vae_dim: {choice: [16, 32], when: {tokenizer: rq_vae}}\n"
        "beta: {choice: [1, 2], when: {rq_vae_dim: [32, 64], model_size: big}}\n"
    )
    sample = {"tokenizer": "opq", "rq_vae_dim": 32, "beta": 1}
    assert space.active(sample, {"model_size": "big"}) == {"tokenizer": "opq"}
    assert space.active({**sample, "tokenizer": "rq_vae"}, {"model_size": "big"})["beta"] == 1
    assert "beta" not in space.active({**sample, "tokenizer": "rq_vae"}, {"model_size": "small"})
    assert len(space.grid({"model_size": "big"})) == 4  # opq; rq_vae with 16; rq_vae with 32 and two betas


def test_keys_inside_a_dictionary_keep_their_neighbours() -> None:
    space = space_of("teacher_config.d_model: {choice: [64]}\n")
    settings = space.settings({"teacher_config.d_model": 64}, {"teacher_config": {"d_ff": 8}}, {})
    assert settings == {"teacher_config": {"d_ff": 8, "d_model": 64}}


def test_recboles_lines_mean_what_they_mean_in_recbole() -> None:
    pytest.importorskip("hyperopt")
    from hyperopt.pyll.stochastic import sample
    from recbole.trainer import HyperTuning

    lines = "learning_rate loguniform -8, -2\nn_layers choice [1, 2]\nmlp choice ['[8,8]','[4]']\nr quniform 0,1,0.5\n"
    space = space_of(lines + "\n# comment\n", "hyper.test")
    recboles = HyperTuning._build_space_from_file("hyper.test")
    rate, *others, step = space.parameters
    assert rate.values == pytest.approx((math.exp(-8), math.exp(-2)))
    assert [parameter.values for parameter in others] == [(1, 2), ("[8,8]", "[4]")]
    draws = [sample({key: recboles[key] for key in ("learning_rate", "n_layers", "mlp", "r")}) for _ in range(50)]
    assert all(rate.values[0] <= draw["learning_rate"] <= rate.values[1] for draw in draws)
    assert {draw["mlp"] for draw in draws} == set(others[1].values)
    assert {float(draw["r"]) for draw in draws} == set(step.grid())


SPACES = (PROPERTIES / "tune", Path(__file__).parents[1] / "benchmarks" / "spaces")


@pytest.mark.parametrize(
    "file",
    sorted(file for folder in SPACES for file in folder.glob("*.yaml")),
    ids=lambda file: f"{file.parent.name}-{file.stem}",
)
def test_shipped_spaces_fit_their_models(file: Path) -> None:
    check_space(read_space(file), Config("TIGER" if file.stem == "tokenizer" else file.stem, "ml-100k"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("epochs: 3\n", "is empty"),
        ("- a\n", "must hold lines"),
        ("a: {choice: [1\n", "no valid YAML"),
        ("a: {chioce: [1]}\n", "did you mean 'choice'"),
        ("a: {choice: []}\n", "needs a list of values"),
        ("a: {int: [1, 2.5]}\n", "whole numbers"),
        ("a: {uniform: [2, 1]}\n", r"\[low, high\]"),
        ("a: {loguniform: [0, 1]}\n", "above 0"),
        ("b: {choice: [1], when: {a: 1}}\na: {choice: [1]}\n", "write a above it"),
        ("a: {choice: [1], when: 3}\n", "must name a key"),
    ],
)
def test_space_that_cannot_be_understood_is_refused(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        space_of(text)


@pytest.mark.parametrize(("text", "message"), [("a foo 1,2", "unknown type"), ("a choice [1", "cannot be read")])
def test_recbole_lines_that_cannot_be_understood_are_refused(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        space_of(text, "hyper.test")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("learning_rat: {choice: [1]}\n", "did you mean 'learning_rate'"),
        ("teacher_config.d_modle: {choice: [64]}\n", "did you mean 'd_model'"),
        ("teacher_config.d_model: {choice: [64, wide]}\n", "d_model='wide'"),
        ("topk: {choice: [[5], [10]]}\n", "cannot be searched"),
        ("alpha: {choice: [high]}\n", "alpha='high'"),
        ("attention_dim: {choice: [384, 385]}\nalpha: {choice: [0.5, 0.7]}\n", "attention_dim=385 must be a multiple"),
        ("tokenizer: {choice: [opq]}\nalpha: {choice: [0.5], when: {tokeniser: opq}}\n", "no configuration key"),
    ],
)
def test_keys_and_values_are_checked_before_any_trial(
    settings: Callable[..., dict[str, Any]], text: str, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        make_plan(Config("SIDMLP", "tiny", config_dict=settings("SIDMLP")), space_of(text), Options())


def test_values_that_fit_some_other_searched_value_are_accepted(settings: Callable[..., dict[str, Any]]) -> None:
    text = "attention_dim: {choice: [150, 300]}\nattention_heads: {choice: [5, 6]}\n"  # the default is 384
    make_plan(Config("SIDMLP", "tiny", config_dict=settings("SIDMLP")), space_of(text), Options())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scheduler": "asah"}, "did you mean 'asha'"),
        ({"searcher": "bayes"}, "must be one of"),
        ({"samples": 0}, "samples=0"),
        ({"cpus": 0}, "cpus=0"),
        ({"gpus": "one"}, "gpus='one'"),
        ({"retries": -1}, "retries=-1"),
    ],
)
def test_impossible_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_options(Options(**options))


def test_grid_of_a_continuous_range_is_refused(config: Config) -> None:
    space = space_of("learning_rate: {uniform: [0.1, 0.2]}\n")
    with pytest.raises(InputError, match="A grid cannot hold"):
        space.grid({})


def test_hyperband_has_several_brackets(config: Config) -> None:
    plan = make_plan(config, space_of("epochs: {choice: [27, 81]}\n"), Options())
    assert [len(scheduler(plan, config, Options(scheduler=name))._brackets) for name in ("asha", "hyperband")] == [1, 3]
    assert most_epochs(plan, config) == 81


def test_storage_path_must_be_a_folder(config: Config) -> None:
    with pytest.raises(InputError, match="must be a folder"):
        make_plan(config, space_of("n_layers: {int: [1, 2]}\n"), Options(), "s3://bucket/searches")


# Trials' surroundings.


def test_data_is_placed_once_per_node(data_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    node = tmp_path / "node"
    node.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(node))
    data = read_data(data_path / "tiny")
    root = Path(place_data("tiny", data))
    placed = {file.name: file.read_bytes() for file in (root / "tiny").iterdir()}
    assert placed == {file.name: file.read_bytes() for file in (data_path / "tiny").iterdir()}
    before = (root / "tiny" / "tiny.inter").stat().st_mtime_ns
    assert place_data("tiny", data) == str(root)
    assert (root / "tiny" / "tiny.inter").stat().st_mtime_ns == before


def test_trial_has_as_many_threads_as_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    try:
        limit_threads(2.0)
        assert (torch.get_num_threads(), os.environ["OMP_NUM_THREADS"]) == (2, "2")
        limit_threads(0.5)
        assert (torch.get_num_threads(), os.environ["OMP_NUM_THREADS"]) == (1, "1")
    finally:
        limit_threads(1)


# Searches.


def test_grid_finds_the_optimum_and_reports_all_of_it(ray: None, config: Config) -> None:
    space = space_of("learning_rate: {choice: [0.1, 0.03, 0.01, 0.003]}\n")
    outcome = quick(config, space, searcher="grid")
    folder = Path(outcome.plan.folder)
    trials = trials_of(folder)
    assert outcome.result["trials"] == {"done": 4}
    assert trials.index[0] == 0.01
    assert trials.loc[0.1, "score"] == pytest.approx(-1 - 1 / 9)
    assert list(trials["epochs"]) == [9] * 4
    assert len(pd.read_csv(folder / "trials.csv")) == 4
    assert len(pd.read_csv(folder / "curves.csv")) == 36
    assert (folder / "tune.png").read_bytes().startswith(b"\x89PNG")
    best = yaml.safe_load((folder / "best.yaml").read_text(encoding="utf-8"))
    assert best["learning_rate"] == 0.01
    assert Config(None, None, [str(folder / "best.yaml")], {"data_path": config.plain()["data_path"]})["epochs"] == 9
    assert events()["test"] == 1
    with pytest.raises(InputError, match="--resume"):
        quick(config, space, searcher="grid")
    assert quick(config, space, searcher="grid", resume=True).result == outcome.result
    assert events()["test"] == 1
    assert events()["start 0.01"] == 1


@pytest.mark.parametrize("searcher", ["random", "optuna", "hyperopt"])
def test_searchers_come_near_the_optimum(ray: None, config: Config, searcher: str) -> None:
    if searcher != "random":
        pytest.importorskip(searcher)
    space = space_of("learning_rate: {loguniform: [1e-4, 1.0]}\n")
    outcome = quick(config, space, searcher=searcher, samples=12)
    trials = trials_of(outcome.plan.folder)
    assert len(trials) == 12
    assert trials.index.nunique() == 12
    assert abs(math.log10(trials.index[0]) + 2) < 0.6


def test_asha_stops_a_hopeless_trial_before_its_last_epoch(ray: None, config: Config) -> None:
    space = space_of("learning_rate: {choice: [0.01, 0.02, 0.005, 1.0]}\n")
    outcome = quick(config, space, searcher="grid", scheduler="asha", min_epochs=2)
    assert events()["epoch 0.01"] == 9
    assert events()["epoch 1.0"] == 2
    assert trials_of(outcome.plan.folder).loc[1.0, "status"] == "stopped"
    assert outcome.result["trials"]["stopped"] >= 1


def test_median_rule_stops_a_hopeless_trial(ray: None, config: Config) -> None:
    space = space_of("learning_rate: {choice: [0.01, 0.02, 0.03, 1.0]}\n")
    outcome = quick(config, space, searcher="grid", scheduler="median")
    assert [events()[f"epoch {rate}"] for rate in (0.01, 0.02, 0.03)] == [9, 9, 9]
    assert events()["epoch 1.0"] < 9
    assert outcome.result["trials"] == {"done": 3, "stopped": 1}


def test_killed_trials_are_retried_and_reported_without_losing_others(ray: None, config: Config) -> None:
    space = space_of("learning_rate: {choice: [0.01, 0.1, 0.2, 0.3]}\n")
    outcome = quick(config, space, dying, searcher="grid")
    trials = trials_of(outcome.plan.folder)
    assert dict(trials["status"]) == {0.01: "done", 0.1: "done", 0.2: "failed", 0.3: "failed"}
    assert (events()["start 0.1"], events()["start 0.2"]) == (2, 2)
    assert trials.loc[0.1, "restarts"] == 1
    assert "restarted" in outcome.table
    assert "no longer finite" in trials.loc[0.3, "error"]


def test_search_without_a_score_says_why(ray: None, config: Config) -> None:
    with pytest.raises(InputError, match=r"No trial of the search came to a score .*no longer finite"):
        quick(config, space_of("learning_rate: {choice: [0.3]}\n"), dying, searcher="grid", retries=0)


def test_interrupted_and_resumed_search_ends_with_the_same_trials(ray: None, data_path: Path) -> None:
    quiet = {"use_gpu": False, "show_progress": False, "state": "ERROR", "data_path": str(data_path)}
    config = Config("SASRec", "tiny", config_dict={**quiet, "worker": os.getpid()})
    space = space_of("learning_rate: {choice: [0.01, 0.1, 0.3, 0.4, 0.5]}\n")
    options: dict[str, Any] = {"searcher": "grid"}
    with pytest.raises(KeyboardInterrupt):
        quick(config, space, interrupting, **options)
    folder = make_plan(config, space, Options(scheduler="none", **options)).folder
    assert yaml.safe_load((Path(folder) / "best.yaml").read_text(encoding="utf-8"))["learning_rate"] == 0.01
    before = trials_of(folder)
    assert set(before.index[before["status"] == "done"]) == {0.01, 0.1}
    assert (events()["test"], events()["start 0.4"]) == (0, 0)
    outcome = quick(config, space, interrupting, resume=True, **options)
    after = trials_of(folder)
    assert outcome.result["trials"] == {"done": 5}
    assert set(after.index) == {0.01, 0.1, 0.3, 0.4, 0.5}
    assert all(events()[f"start {rate}"] == 1 for rate in after.index)
    assert events()["test"] == 1


def test_search_killed_before_its_first_trial_begins_anew(ray: None, config: Config) -> None:
    space = space_of("learning_rate: {choice: [0.01]}\n")
    left = Path(make_plan(config, space, Options(searcher="grid", scheduler="none")).folder, "ray", "tuner.pkl")
    left.parent.mkdir(parents=True)
    left.write_bytes(b"")
    assert quick(config, space, searcher="grid", resume=True).result["trials"] == {"done": 1}


_FOUND = {
    "metric": "NDCG@10",
    "trials": {"done": 2, "failed": 1},
    "restarts": 0,
    "best_trial": "a",
    "best_valid_score": 0.5,
    "model_file": "a.pth",
    "test_result": {"ndcg@10": 0.25},
}


@pytest.mark.parametrize(
    ("key", "value"), [*((key, None) for key in _FOUND), ("trials", ["done"]), ("test_result", {"ndcg@10": "high"})]
)
def test_a_complete_search_is_read_whole_or_refused(config: Config, key: str, value: Any) -> None:
    space = space_of("learning_rate: {choice: [0.01]}\n")
    folder = Path(make_plan(config, space, Options(searcher="grid", scheduler="none")).folder)
    folder.mkdir(parents=True)
    (folder / "table.md").write_text("| Trial |\n", encoding="utf-8")
    (folder / "result.json").write_text(json.dumps(_FOUND), encoding="utf-8")
    assert quick(config, space, searcher="grid", resume=True).result == _FOUND
    (folder / "result.json").write_text(json.dumps({**_FOUND, key: value}), encoding="utf-8")
    with pytest.raises(InputError, match=f"no result of a search \\(its {key} is missing or wrong"):
        quick(config, space, searcher="grid", resume=True)


def test_missing_data_is_said_before_ray_starts(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recbole_sid.tuning.tuning.ray_running", lambda address: pytest.fail("Ray was started"))
    other = Config("SASRec", "nowhere", config_dict=config.external_config_dict)
    with pytest.raises(InputError, match="no dataset folder"):
        quick(other, space_of("n_layers: {int: [1, 2]}\n"))


def test_trial_that_wants_more_than_there_is_is_refused(ray: None, config: Config) -> None:
    with pytest.raises(InputError, match="A trial wants 99 CPU"):
        quick(config, space_of("n_layers: {int: [1, 2]}\n"), searcher="grid", cpus=99)


def test_joint_search_trains_equal_teachers_once_and_reads_the_test_split_once(
    ray: None, settings: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    count_teachers_and_test_reads(monkeypatch.setattr)
    config = Config("SIDMLP", "tiny", config_dict=settings("SIDMLP", state="ERROR", epochs=3))
    space = space_of("teacher_config.d_model: {choice: [8, 16]}\nalpha: {choice: [0.3, 0.9]}\n")
    outcome = search(
        config, space, Options(searcher="grid", scheduler="none"), trainable=counted, tell=lambda line: None
    )
    folder = Path(outcome.plan.folder)
    assert outcome.result["trials"] == {"done": 4}
    found = events()
    assert (found["train TIGER"], found["train SIDMLP"]) == (2, 4)
    assert found["logits"] == 2
    assert found["test"] == 1
    curves = pd.read_csv(folder / "curves.csv")
    assert list(curves.groupby("trial")["epoch"].apply(list)) == [[1, 2, 3]] * 4
    best = str(folder / "best.yaml")
    run = run_model(Config(None, None, [best], {"data_path": config.plain()["data_path"], "use_gpu": False}))
    assert run.best_valid_score == pytest.approx(outcome.result["best_valid_score"], abs=1e-6)
    assert dict(run.test_result) == pytest.approx(outcome.result["test_result"], abs=1e-6)


def test_students_share_a_teacher_trained_before_the_search(
    ray: None, settings: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    count_teachers_and_test_reads(monkeypatch.setattr)
    config = Config("SIDMLPPlusPlus", "tiny", config_dict=settings("SIDMLPPlusPlus", state="ERROR"))
    space = space_of("alpha: {choice: [0.3, 0.9]}\n")
    outcome = search(config, space, Options(searcher="grid", concurrency=1), trainable=counted, tell=lambda line: None)
    found = events()
    assert (found["train TIGER"], found["train SIDMLPPlusPlus"]) == (1, 2)
    assert found["logits"] == 1
    assert not list(Path(outcome.plan.folder).glob("trials/*/distill_cache"))
    curves = pd.read_csv(Path(outcome.plan.folder) / "curves.csv")
    assert curves["score"].between(0, 1).all()  # the encoder stage's errors are not among them
    assert Path(outcome.result["model_file"]).is_file()


def test_recboles_own_models_report_every_epoch(ray: None, config: Config) -> None:
    space = space_of("epochs: 2\nhidden_size: {choice: [16, 32]}\n")
    outcome = search(config, space, Options(searcher="grid", scheduler="none", concurrency=1), tell=lambda line: None)
    curves = pd.read_csv(Path(outcome.plan.folder) / "curves.csv")
    assert list(curves.groupby("trial")["epoch"].apply(list)) == [[1, 2]] * 2
    assert set(outcome.result["test_result"]) == {"recall@5", "recall@10", "ndcg@5", "ndcg@10"}
    recorded = json.loads((Path(outcome.plan.folder) / "result.json").read_text(encoding="utf-8"))
    assert recorded == outcome.result


def closed_port() -> int:
    """Return a port of this machine at which nobody listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.mark.parametrize("prefix", ["", "ray://"])
def test_cluster_that_cannot_be_reached_is_one_sentence(monkeypatch: pytest.MonkeyPatch, prefix: str) -> None:
    import ray as library

    monkeypatch.setattr(library, "is_initialized", lambda: False)
    address = f"{prefix}127.0.0.1:{closed_port()}"
    with (
        pytest.raises(InputError, match=f"cluster at '{address}' cannot be reached"),
        ray_running(address),
    ):
        pass


# Trials of several processes.


_ONE_RATE = "learning_rate: {choice: [0.01]}\n"
_NO_DROPOUT = {"dropout_prob": 0.0, "eval_step": 1}


def test_stopped_trial_ends_its_processes(settings: Callable[..., dict[str, Any]]) -> None:
    config = Config("TIGER", "tiny", config_dict=settings("TIGER", nproc=2, checkpoint_dir="saved", **_NO_DROPOUT))
    plan = make_plan(config, space_of(_ONE_RATE), Options(searcher="grid"))
    told: list[int] = []

    def report(values: dict[str, Any]) -> None:
        told.append(values["epoch"])
        raise SystemExit

    with pytest.raises(SystemExit):
        train_together(plan, {"learning_rate": 0.01}, "trial", report)
    assert told == [1]
    assert multiprocessing.active_children() == []
    assert not (plan.trial_folder("trial") / FINISHED).exists()
    assert list(plan.trial_folder("trial").glob("*.last.pth"))


def test_what_ended_the_processes_of_a_trial_is_told(
    settings: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def launched(*_: Any) -> None:
        raise InputError("n_heads=0 must be at least 1.")

    monkeypatch.setattr("recbole_sid.tuning.trainable.launch", launched)
    config = Config("TIGER", "tiny", config_dict=settings("TIGER", nproc=2))
    plan = make_plan(config, space_of(_ONE_RATE), Options(searcher="grid"))
    with pytest.raises(InputError, match=r"^n_heads=0 must be at least 1\.$"):
        train_together(plan, {"learning_rate": 0.01}, "trial", print)


@pytest.mark.parametrize(
    ("model", "given", "message"),
    [
        ("TIGER", {"nproc": 2, "world_size": 4}, "A trial is trained on one machine: leave out world_size=4"),
        (
            "TIGER",
            {"nproc": 2, "gpus": 0.5},
            "--gpus=0.5 must be 0 or 1 with nproc=2: each process has a GPU of its own",
        ),
        ("SASRec", {"nproc": 2}, "SASRec is RecBole's and trains in one process: leave out nproc=2"),
    ],
)
def test_processes_that_cannot_train_a_trial_are_refused(
    model: str, given: dict[str, Any], message: str, data_path: Path
) -> None:
    options = Options(gpus=given.pop("gpus", 0))
    config = Config(model, "tiny", config_dict={"use_gpu": False, "data_path": str(data_path), **given})
    with pytest.raises(InputError, match=message):
        make_plan(config, space_of(_ONE_RATE), options)


def test_trial_of_two_processes_finds_what_one_does(ray: None, settings: Callable[..., dict[str, Any]]) -> None:
    two, one = (
        Config("TIGER", "tiny", config_dict=settings("TIGER", nproc=n, checkpoint_dir=f"saved{n}", **_NO_DROPOUT))
        for n in (2, 1)
    )
    space = space_of(_ONE_RATE)
    outcome = quick(two, space, run_trial, searcher="grid")
    assert outcome.result["trials"] == {"done": 1}
    assert outcome.result["restarts"] == 0
    assert Path(outcome.result["model_file"]).is_file()
    found = pd.read_csv(Path(outcome.plan.folder) / "curves.csv")
    expected: list[dict[str, Any]] = []
    train_trial(make_plan(one, space, Options(searcher="grid")), {"learning_rate": 0.01}, "trial", expected.append)
    assert found["epoch"].tolist() == [values["epoch"] for values in expected] == [1, 2]
    assert found[SCORE].tolist() == pytest.approx([values[SCORE] for values in expected], abs=1e-6)
    with pytest.raises(InputError, match="A trial wants 4 CPU but Ray has 2"):
        quick(two, space, run_trial, searcher="grid", cpus=2, samples=1)


def test_common_teacher_of_trials_is_trained_by_as_many(
    settings: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    launched: list[Any] = []

    def note_launch(work: Any, arguments: Any, processes: Any) -> None:
        launched.append(processes)
        work(*arguments)

    monkeypatch.setattr("recbole_sid.tuning.search.launch", note_launch)
    config = Config("SIDMLP", "tiny", config_dict=settings("SIDMLP", nproc=2, checkpoint_dir="saved"))
    train_common_teacher(make_plan(config, space_of(_ONE_RATE), Options(searcher="grid")), config)
    assert launched == [(2, 2, "127.0.0.1", None, 0)]
    assert len(list(Path("saved").glob("TIGER-*.pth"))) == 1
