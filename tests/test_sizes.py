"""size=small: what it sets, what goes over it, whose it is; and how long a training says that it takes."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml

from recbole_sid.api import _shipped_space
from recbole_sid.cli import main
from recbole_sid.comparison import plan as plan_module
from recbole_sid.comparison.job import make_jobs
from recbole_sid.comparison.plan import make_plan, read_plan, with_tuned_files
from recbole_sid.config import Config
from recbole_sid.errors import InputError
from recbole_sid.model.teacher import teacher_config
from recbole_sid.property_files import PROPERTIES, size_files, sizes
from recbole_sid.quick_start import ensure_teacher, make_trainer
from recbole_sid.trainer import forecast as forecast_module
from recbole_sid.trainer.forecast import Forecast, advice_for, duration
from recbole_sid.trainer.sid_trainer import SIDTrainer
from recbole_sid.tuning.search import Options, most_epochs
from recbole_sid.tuning.search import make_plan as make_search
from recbole_sid.tuning.search_files import best_settings
from recbole_sid.tuning.space import check_space, read_space

OURS = ("TIGER", "CausalSID", "SIDMLP", "SIDMLPPlusPlus", "SIDMLPHybrid")
STUDENTS = ("SIDMLP", "SIDMLPPlusPlus")
FOLDER = PROPERTIES / "size" / "small"


def read(file: Path) -> dict[str, Any]:
    return yaml.safe_load(file.read_text(encoding="utf-8"))


def expected(model: str) -> dict[str, Any]:
    """Return what the files of size=small say of `model`."""
    return {**read(FOLDER / "overall.yaml"), **read(FOLDER / f"{model}.yaml")}


def chosen(config: Any, keys: Any) -> dict[str, Any]:
    return {key: config[key] for key in keys}


def small(model: str, **changes: Any) -> Config:
    return Config(model, "tiny", config_dict={"size": "small", **changes})


@pytest.mark.parametrize("model", OURS)
def test_small_sets_what_its_files_say_and_nothing_else(model: str) -> None:
    paper, config = Config(model, "tiny"), small(model)
    wanted = expected(model)
    assert chosen(config, wanted) == wanted
    differ = {key for key, value in config.plain().items() if paper.plain()[key] != value}
    assert differ <= {*wanted, "size"}
    assert differ >= {"size", "epochs", "MAX_ITEM_LIST_LENGTH", "codebook_sizes"}
    assert set(read(FOLDER / f"{model}.yaml")) <= set(config.model_keys())


def test_the_files_of_a_size_are_those_of_our_models() -> None:
    assert sizes() == ["paper", "small"]
    assert {file.stem for file in FOLDER.glob("*.yaml")} == {"overall", *OURS}
    assert size_files("paper", OURS) == []


@pytest.mark.parametrize("model", OURS)
def test_files_and_overrides_of_the_user_win_over_the_size(model: str) -> None:
    Path("mine.yaml").write_text("size: small\nepochs: 77\nlearning_rate: 0.5\ncodebook_sizes: [9]\n", encoding="utf-8")
    config = Config(model, "tiny", ["mine.yaml"], {"learning_rate": 0.25})
    found = chosen(config, ("size", "epochs", "learning_rate", "codebook_sizes", "MAX_ITEM_LIST_LENGTH"))
    assert list(found.values()) == ["small", 77, 0.25, [9], 10]
    assert Config(model, "tiny", ["mine.yaml"], {"size": "paper"})["MAX_ITEM_LIST_LENGTH"] == 20


def test_a_users_own_class_has_the_size_of_its_bases() -> None:
    from recbole_sid.model.tiger import TIGER

    class MyTIGER(TIGER):
        pass

    assert Config(MyTIGER, "tiny", config_dict={"size": "small"})["d_ff"] == expected("TIGER")["d_ff"]


@pytest.mark.parametrize("teacher", ["TIGER", "CausalSID"])
@pytest.mark.parametrize("student", STUDENTS)
def test_the_teacher_of_a_small_student_is_small(student: str, teacher: str) -> None:
    config = small(student, teacher_model=teacher, codebook_sizes=[7], teacher_config={"d_ff": 48})
    found = teacher_config(config)
    wanted = {**expected(teacher), "codebook_sizes": [7], "d_ff": 48}
    assert chosen(found, wanted) == wanted
    assert teacher_config(Config(student, "tiny", config_dict={"teacher_model": teacher}))["size"] == "paper"
    of_paper = teacher_config(small(student, teacher_model=teacher, teacher_config={"size": "paper"}))
    assert of_paper["d_ff"] == read(PROPERTIES / "model" / f"{teacher}.yaml")["d_ff"]


@pytest.mark.parametrize("value", ["tiny", "smal", None, 3, ["small"]])
def test_an_unknown_size_is_refused(value: Any) -> None:
    with pytest.raises(InputError, match=r"^size='.*must be one of paper, small\.$"):
        small("TIGER", size=value)


def test_the_command_line_refuses_an_unknown_size(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--model=TIGER", "--dataset=tiny", "--size=smal"]) == 2
    assert "size='smal' (did you mean 'small'?) must be one of paper, small." in capsys.readouterr().err


@pytest.mark.parametrize("model", ["SASRec", "Pop"])
def test_recboles_models_take_only_the_histories_of_a_size(model: str) -> None:
    paper, config = Config(model, "tiny").plain(), small(model).plain()
    assert {key for key in config if config[key] != paper[key]} == {"size", *read(FOLDER / "overall.yaml")}


def test_equal_settings_are_the_same_run_however_they_came_about() -> None:
    by_hand = {key: value for key, value in small("TIGER").plain().items() if key != "size"}
    assert Config("TIGER", "tiny", config_dict=by_hand).fingerprint() == small("TIGER").fingerprint()
    assert Config("TIGER", "tiny").fingerprint() != small("TIGER").fingerprint()


def test_a_student_that_trains_its_teacher_is_another_run_with_a_teacher_of_another_size() -> None:
    by_hand = {key: value for key, value in small("SIDMLP").plain().items() if key != "size"}
    alone = Config("SIDMLP", "tiny", config_dict=by_hand)
    assert alone.fingerprint() != small("SIDMLP").fingerprint()
    paths = {"teacher_path": "saved/TIGER-tiny-0.pth"}
    assert (
        Config("SIDMLP", "tiny", config_dict={**by_hand, **paths}).fingerprint()
        == small("SIDMLP", **paths).fingerprint()
    )


# In `compare`.


def jobs_of(plan: Any) -> dict[str, Any]:
    return {job.entry.name: job.config() for job in make_jobs(plan, "runs")}


def test_in_a_comparison_the_size_is_that_of_every_entry(data_path: Path) -> None:
    models = dict.fromkeys(("Pop", "SASRec", *OURS, "AdaptiveEnsemble"))
    overrides = {"size": "small", "data_path": str(data_path), "use_gpu": False, "epochs": 3}
    configs = jobs_of(make_plan("tiny", models, [1], overrides=overrides))
    assert {config["size"] for config in configs.values()} == {"small"}
    assert {config["MAX_ITEM_LIST_LENGTH"] for config in configs.values()} == {10}
    for model in OURS:
        wanted = {**expected(model), "epochs": 3}
        assert chosen(configs[model], wanted) == wanted


@pytest.fixture
def tuned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan_module, "_TUNED", tmp_path / "tuned")
    (tmp_path / "tuned" / "tiny").mkdir(parents=True)
    (tmp_path / "tuned" / "tiny" / "TIGER.yaml").write_text("epochs: 50\n", encoding="utf-8")


@pytest.mark.usefixtures("tuned")
def test_small_models_take_nothing_from_tuned_files_and_that_is_said(data_path: Path) -> None:
    Path("size.yaml").write_text("size: small\n", encoding="utf-8")
    both = {"TIGER": None, "CausalSID": {"d_ff": 8}}
    mixed = {"TIGER": {"size": "paper"}, "CausalSID": None}
    said: list[str] = []
    for models, files, settings, overrides, epochs in (
        (both, (), None, None, 50),
        (both, (), None, {"size": "small"}, 4),
        (both, (), {"size": "small"}, None, 4),
        (both, ("size.yaml",), None, None, 4),
        (both, ("size.yaml",), None, {"size": "paper"}, 50),
        ({"TIGER": {"size": "small"}}, (), None, None, 4),
        (mixed, (), {"size": "small"}, None, 50),
    ):
        entries = with_tuned_files("tiny", models, files, settings, overrides, said.append)
        settings = {**(settings or {}), "data_path": str(data_path), "use_gpu": False}
        plan = make_plan("tiny", entries, [1], files, settings, overrides)
        assert jobs_of(plan)["TIGER"]["epochs"] == epochs
        assert said == (["TIGER: size=small in place of the settings tuned on tiny."] if epochs == 4 else [])
        said.clear()


@pytest.mark.usefixtures("tuned")
def test_a_plan_that_says_tuned_can_be_run_small(data_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = {"dataset": "tiny", "tuned": True, "models": {"TIGER": {}}, "settings": {"data_path": str(data_path)}}
    Path("plan.yaml").write_text(yaml.safe_dump(plan), encoding="utf-8")
    assert jobs_of(read_plan("plan.yaml"))["TIGER"]["epochs"] == 50
    assert jobs_of(read_plan("plan.yaml", {"size": "small"}))["TIGER"]["epochs"] == 4
    assert "size=small in place of the settings tuned on tiny" in capsys.readouterr().out


# In `tune`.


@pytest.mark.parametrize("model", OURS)
def test_the_search_space_of_a_small_model_is_small(model: str, data_path: Path) -> None:
    config = small(model, data_path=str(data_path), use_gpu=False)
    space = read_space(_shipped_space(model, "small"))
    check_space(space, config)
    limits = {key: value for key, value in Config(model, "tiny").plain().items() if isinstance(value, int)}
    for parameter in space.parameters:
        if parameter.is_whole():
            assert max(parameter.values) <= min(limits[parameter.key], 2 * config[parameter.key]), parameter.key
    plan = make_search(config, space, Options())
    sample = {parameter.key: parameter.labels[0] for parameter in space.parameters}
    trial = Config(model, "tiny", config_dict=plan.settings_of(sample))
    # Trials share a cache on disk.
    unsearched = expected(model).keys() - {parameter.key for parameter in space.parameters} - {"distill_cache"}
    assert chosen(trial, unsearched) == {key: expected(model)[key] for key in unsearched}
    assert most_epochs(plan, config) == expected(model)["epochs"]
    assert best_settings(plan, sample)["size"] == "small"  # best.yaml makes the winner again


def test_a_search_of_another_size_has_another_folder(data_path: Path) -> None:
    Path("space.yaml").write_text("learning_rate: {choice: [0.1, 0.2]}\n", encoding="utf-8")
    space, common = read_space("space.yaml"), {"data_path": str(data_path), "use_gpu": False}
    plans = [
        make_search(Config("TIGER", "tiny", config_dict={**common, **size}), space, Options())
        for size in ({}, {"size": "small"})
    ]
    assert plans[0].folder != plans[1].folder


def test_a_model_without_a_space_of_the_size_has_its_own() -> None:
    assert _shipped_space("SASRec", "small") == _shipped_space("SASRec", "paper")
    assert _shipped_space("TIGER", "small") != _shipped_space("TIGER", "paper")


def test_the_size_cannot_be_searched(data_path: Path) -> None:
    Path("space.yaml").write_text("size: {choice: [paper, small]}\n", encoding="utf-8")
    with pytest.raises(InputError, match="size cannot be searched"):
        check_space(read_space("space.yaml"), small("TIGER", data_path=str(data_path)))


# The forecast.


class Clock:
    """Goes on by a second at every look, or as told."""

    def __init__(self, seconds: float = 1.0) -> None:
        self.now, self.seconds = 0.0, seconds

    def __call__(self) -> float:
        self.now += self.seconds
        return self.now


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> Callable[[], list[tuple[str, str]]]:
    caplog.set_level(logging.INFO)

    def lines() -> list[tuple[str, str]]:
        return [(record.levelname, record.message) for record in caplog.records if "at most" in record.message]

    return lines


def train(forecast: Forecast, epochs: int) -> Iterator[int]:
    """Go through the batches of `epochs`, and yield after each how many are left in the stage."""
    for epoch in range(epochs):
        forecast.start_epoch(epoch)
        for batch in range(forecast.batches):
            forecast.batch_done()
            yield (forecast.epochs - epoch) * forecast.batches - batch - 1


def test_the_forecast_is_the_mean_batch_times_all_batches_left_and_said_once(said: Any) -> None:
    forecast = Forecast("TIGER", epochs=10, batches=20, clock=Clock())
    silent_until = [left for left in train(forecast, 10) if not said()]
    assert silent_until == [199, 198, 197, 196, 195]  # the warm-up and four: the fifth that is measured is the sixth
    assert said() == [
        (
            "INFO",
            "TIGER: 1 s a batch, so at most 3 min more "
            "(10 epochs of 20 batches, without validation; it may stop early).",
        )
    ]
    forecast = Forecast("TIGER", epochs=10, batches=20, clock=Clock())
    next(left for left in train(forecast, 10) if left == 194)
    assert forecast.left_s() == 194


def test_the_first_batch_does_not_count(said: Any) -> None:
    clock = Clock()
    forecast = Forecast("TIGER", 3, 10, clock=clock)
    forecast.start_epoch(0)
    clock.now += 1000
    for _ in range(6):
        forecast.batch_done()
    assert forecast.left_s() == 24


def test_quick_batches_are_measured_for_some_seconds_over_epochs_and_validation_counts(said: Any) -> None:
    clock = Clock(0.0)
    forecast = Forecast("TIGER", 8, 4, eval_step=2, clock=clock)
    for epoch in range(3):
        forecast.start_epoch(epoch)
        for _ in range(4):
            clock.now += 0.5
            forecast.batch_done()
        clock.now += 100  # a validation, between epochs
        forecast.validated(100)
    # 1 + 10 batches, the last in the third epoch: 21 are left, and with 6 epochs to go at most 3 validations.
    (line,) = said()
    assert line[1].startswith("TIGER: 0.5 s a batch, so at most 5 min more (8 epochs of 4 batches, with validation")
    assert math.isclose(21 * 0.5 + 3 * 100, 310.5)


@pytest.mark.parametrize(("seconds", "level"), [(9.0, "INFO"), (9.5, "WARNING")])
@pytest.mark.parametrize("advice", ["Do this.", None])
def test_only_what_takes_more_than_half_an_hour_on_a_cpu_is_a_warning(
    said: Any, seconds: float, level: str, advice: str | None
) -> None:
    forecast = Forecast("TIGER", 1, 206, advice=advice, clock=Clock(seconds))  # 200 batches are left: 1800 and 1900 s
    list(train(forecast, 1))
    (line,) = said()
    assert line[0] == (level if advice else "INFO")
    assert line[1].endswith(" Do this.") == (line[0] == "WARNING")


def test_the_advice_names_what_makes_it_minutes_on_a_cpu() -> None:
    common = {"use_gpu": False}
    assert "--size=small" in str(advice_for(small("TIGER", size="paper", **common)))
    assert "GPU" in str(advice_for(small("TIGER", size="paper", **common)))
    of_small = str(advice_for(small("TIGER", **common)))
    assert "--size" not in of_small
    assert "GPU" in of_small


def test_off_the_cpu_there_is_no_advice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forecast_module, "on_cpu", lambda device: False)
    assert advice_for(small("TIGER", use_gpu=False)) is None


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        *((0.4, "0 s"), (89, "89 s"), (90, "2 min"), (1800, "30 min"), (5340, "89 min"), (5400, "1 h 30 min")),
        *((18600, "5 h 10 min"), (86400 * 3.5, "3.5 days")),
    ],
)
def test_durations_in_words(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_teacher_and_every_stage_of_a_student_say_how_long_they_take(
    prepare: Any, said: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SIDTrainer, "clock", Clock(100.0))
    config, train_data, valid_data, _ = prepare("SIDMLPPlusPlus", state="INFO", train_batch_size=16, epochs=3)
    ensure_teacher(config, train_data, valid_data)
    assert [line.partition(":")[0] for _, line in said()] == ["TIGER"]
    trainer = make_trainer(config, train_data)
    trainer.fit(train_data, valid_data, show_progress=False)
    lines = said()
    names = ["TIGER", "SIDMLPPlusPlus encoder", "SIDMLPPlusPlus decoder"]
    assert [line.partition(":")[0] for _, line in lines] == names
    for (level, line), (epochs, batches) in zip(
        lines, [(2, None), (2, len(train_data)), (3, len(train_data))], strict=True
    ):
        assert ": 1e+02 s a batch" in line
        assert f"({epochs} epochs of {batches or ''}" in line
        minutes = [int(word) for word, unit in pairwise(line.replace("h", "h ").split()) if unit == "min"]
        assert (level == "WARNING") == (" h " in line or minutes[0] > 30)


def test_training_without_words_says_nothing(prepare: Any, said: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SIDTrainer, "clock", Clock(100.0))
    config, train_data, valid_data, _ = prepare("TIGER", state="INFO", train_batch_size=16, epochs=1)
    make_trainer(config, train_data).fit(train_data, valid_data, verbose=False)
    assert not said()
