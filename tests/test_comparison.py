"""Comparisons: results per user, what is run and reused, statistics, tables."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from conftest import SMALL, SMALL_STUDENT, SMALL_TIGER, table_cells
from scipy import stats

from recbole_sid.cli import main
from recbole_sid.cluster import local_ray
from recbole_sid.comparison import plan as plan_module
from recbole_sid.comparison.breakdown import breakdown, test_instances
from recbole_sid.comparison.comparison_files import write_comparison
from recbole_sid.comparison.job import Job, make_jobs, run_job, stored, train
from recbole_sid.comparison.latex import check_columns, latex
from recbole_sid.comparison.plan import check_baseline, make_plan, read_plan, with_tuned_file
from recbole_sid.comparison.runner import RayOptions, _beside_panel, run_jobs, run_jobs_on_ray
from recbole_sid.comparison.statistics import bootstrap_interval, holm, paired_tests
from recbole_sid.comparison.summary import Summary, summarise
from recbole_sid.config import Config
from recbole_sid.data import create_dataset
from recbole_sid.errors import InputError
from recbole_sid.evaluation.per_user import per_user_results, rank_metrics
from recbole_sid.evaluation.runs import read_per_user, write_per_user
from recbole_sid.generalization.aggregates import by_category
from recbole_sid.generalization.labels import CLASSES, TYPES
from recbole_sid.quick_start import run_model

test_instances.__test__ = False  # type: ignore[attr-defined]
TINY_SASREC = {"n_layers": 1, "n_heads": 1, "hidden_size": 8, "inner_size": 8}
MODELS = {"Pop": {}, "SASRec": TINY_SASREC, "TIGER": SMALL_TIGER, "SIDMLP": SMALL_STUDENT}
COMMON = {
    key: SMALL[key] for key in ("use_gpu", "show_progress", "state", "codebook_sizes", "collaborative_dim", "epochs")
}


@pytest.fixture
def plan_file(data_path: Path, tmp_path: Path) -> Path:
    students = {key: value for key, value in SMALL_STUDENT.items() if key != "teacher_config"}
    plan = {
        "dataset": "tiny",
        "settings": {**COMMON, "data_path": str(data_path)},
        "seeds": [1, 2],
        "models": {**MODELS, "SIDMLP": students},
    }
    file = tmp_path / "plan.yaml"
    file.write_text(yaml.safe_dump(plan, sort_keys=False), encoding="utf-8")
    return file


def last_items(data_path: Path) -> pd.Series:
    frame = pd.read_csv(data_path / "tiny" / "tiny.inter", sep="\t")
    return frame.sort_values("timestamp:float").groupby("user_id:token")["item_id:token"].last()


@pytest.mark.parametrize("model", ["TIGER", "SIDMLP", "SASRec", "BPR", "Pop"])
def test_results_per_user_are_what_the_evaluator_saw(model: str, data_path: Path, tmp_path: Path) -> None:
    own = {
        "TIGER": SMALL_TIGER,
        "SIDMLP": SMALL_STUDENT,
        "SASRec": TINY_SASREC,
        "BPR": {"embedding_size": 8},
        "Pop": {},
    }[model]
    run = run_model(Config(model, "tiny", config_dict={**COMMON, "data_path": str(data_path), **own}))
    results = per_user_results(run.trainer, run.test_data, size=10)
    for name, values in rank_metrics(results["rank"].to_numpy(), [5, 10]).items():
        assert values.mean() == pytest.approx(run.test_result[name], abs=1e-6)
    expected = last_items(data_path)
    assert dict(zip(results["user"], results["target"], strict=True)) == expected.to_dict()
    for row in results.itertuples():
        items = list(row.items)
        assert len(items) == len(set(items)) == len(row.scores) <= 10
        assert list(row.scores) == sorted(row.scores, reverse=True)
        assert row.rank == (items.index(row.target) + 1 if row.target in items else 0)
    write_per_user(results, tmp_path / "results.parquet")
    again = read_per_user(tmp_path / "results.parquet")
    assert [list(items) for items in again["items"]] == [list(items) for items in results["items"]]
    assert again["rank"].equals(results["rank"])
    assert list(pd.read_parquet(tmp_path / "results.parquet")["items"][0]) == list(results["items"][0])


def test_rank_metrics_are_the_formulas() -> None:
    found = rank_metrics(np.array([0, 1, 5, 6, 10, 11]), [5, 10])
    assert found["recall@5"].tolist() == [0, 1, 1, 0, 0, 0]
    assert found["recall@10"].tolist() == [0, 1, 1, 1, 1, 0]
    assert found["ndcg@10"] == pytest.approx([0, 1, 1 / np.log2(6), 1 / np.log2(7), 1 / np.log2(11), 0])


def test_reading_something_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no results per user at"):
        read_per_user(tmp_path / "missing.parquet")
    (tmp_path / "text.parquet").write_text("no parquet", encoding="utf-8")
    pd.DataFrame({"other": [1]}).to_parquet(tmp_path / "other.parquet")
    for name in ("text", "other"):
        with pytest.raises(InputError, match="does not hold results per user"):
            read_per_user(tmp_path / f"{name}.parquet")


def test_comparison_runs_each_job_once_and_reports_all(
    plan_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    executed: list[str] = []

    def execute(job: Any) -> dict[str, Any]:
        executed.append(job.name)
        return run_job(job)

    plan = read_plan(plan_file)
    jobs = make_jobs(plan, tmp_path / "runs")
    outcomes = run_jobs(jobs, execute, report=lambda line: None)
    assert executed == [f"{name}, seed {seed}" for seed in (1, 2) for name in MODELS]
    assert [outcome.failure for outcome in outcomes] == [None] * 8
    assert [outcome.result["seed"] for outcome in outcomes if outcome.result] == [1] * 4 + [2] * 4
    assert len({outcome.result["model_file"] for outcome in outcomes if outcome.result}) == 8
    summary = summarise(outcomes, baseline="SASRec")
    assert [row["model"] for row in summary.rows] == ["Pop", "SASRec", "TIGER", "TIGER-constrained", "SIDMLP"]
    values = [outcome.result["evaluations"][""]["metrics"]["ndcg@10"] for outcome in outcomes[3::4] if outcome.result]
    student = summary.rows[-1]
    assert student["ndcg@10"] == pytest.approx(np.mean(values))
    assert student["ndcg@10_sd"] == pytest.approx(np.std(values, ddof=1))
    assert student["share_of_teacher"] == pytest.approx(np.mean(values) / summary.rows[3]["ndcg@10"])
    assert [row["model"] for row in summary.tests] == ["Pop", "TIGER", "TIGER-constrained", "SIDMLP"]
    for row in summary.tests:
        mean = {entry["model"]: entry["ndcg@10"] for entry in summary.rows}
        assert row["difference"] == pytest.approx(mean[row["model"]] - mean["SASRec"], abs=1e-6)
    by_history = [row for row in summary.breakdown if row["by"] == "history"]
    assert sum(row["instances"] for row in by_history) == 40
    weighted = sum(row["instances"] * row["SIDMLP"] for row in by_history) / 40
    assert weighted == pytest.approx(student["ndcg@10"], abs=1e-6)

    lost = summarise([outcome for outcome in outcomes if outcome.job.name != "SIDMLP, seed 2"], baseline="SASRec")
    (teacher,) = (row for row in lost.rows if row["model"] == "TIGER-constrained")
    of_first = outcomes[2].result
    assert of_first is not None
    reference = of_first["evaluations"]["constrained"]["metrics"]["ndcg@10"]
    assert teacher["seeds"] == 2
    assert reference != pytest.approx(teacher["ndcg@10"])
    assert lost.rows[-1]["share_of_teacher"] == pytest.approx(values[0] / reference)
    assert lost.failures == ["Tests and breakdown are over the seeds that all models have: [1]."]
    one_seed = summarise(outcomes[:4], baseline="SASRec")
    assert (lost.tests, lost.breakdown) == (one_seed.tests, one_seed.breakdown)

    executed.clear()
    run_jobs(jobs, execute, report=lambda line: None)
    assert executed == []
    next(Path(jobs[0].config()["data_path"]).glob("*.inter")).open("a").write("\n")  # the data's files changed
    assert make_jobs(plan, tmp_path / "runs")[0].data != jobs[0].data
    run_jobs(make_jobs(plan._replace(seeds=(1,)), tmp_path / "runs")[:1], execute, report=lambda line: None)
    assert executed == ["Pop, seed 1"]


def test_job_of_two_processes_finds_what_one_does(
    plan_file: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """In the way that a panel needs: what the processes say is printed by the one that draws it."""
    found = []
    for nproc, execute in ((2, _beside_panel), (1, run_job)):
        plan = yaml.safe_load(plan_file.read_text(encoding="utf-8"))
        plan["settings"] |= {"nproc": nproc, "checkpoint_dir": f"saved{nproc}", "epochs": 2}
        plan |= {"seeds": [1], "models": {"Pop": {}, "TIGER": {**SMALL_TIGER, "dropout_prob": 0.0}}}
        plan_file.write_text(yaml.safe_dump(plan, sort_keys=False), encoding="utf-8")
        pop, tiger = make_jobs(read_plan(plan_file), tmp_path / f"runs{nproc}")
        assert (pop.processes, tiger.processes) == (1, nproc)
        found.append(execute(tiger))
        assert stored(tiger) == found[-1]
    together, alone = found
    assert together["fingerprint"] == alone["fingerprint"]
    assert together["evaluations"][""]["metrics"] == alone["evaluations"][""]["metrics"]
    assert together["best_valid"] == alone["best_valid"]
    losses = [[row["loss"] for row in result["curve"]] for result in found]
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)
    assert together["train_s"] > 0
    assert together["peak_memory_mb"] > 0
    said = capfd.readouterr()
    assert "share their codes with another" in said.out


@pytest.mark.parametrize("given", [{"world_size": 4}, {"nproc": 2, "world_size": 4}])
def test_a_model_of_a_comparison_is_trained_on_one_machine(
    given: dict[str, int], plan_file: Path, tmp_path: Path
) -> None:
    plan = yaml.safe_load(plan_file.read_text(encoding="utf-8"))
    plan["models"]["TIGER"] |= given
    plan_file.write_text(yaml.safe_dump(plan, sort_keys=False), encoding="utf-8")
    with pytest.raises(InputError, match="A model of a comparison is trained on one machine: leave out world_size=4"):
        make_jobs(read_plan(plan_file), tmp_path / "runs")


def test_student_of_other_semantic_ids_is_refused_before_anything_runs(plan_file: Path, tmp_path: Path) -> None:
    plan = yaml.safe_load(plan_file.read_text(encoding="utf-8"))
    plan["models"]["SIDMLP"]["tokenizer"] = "random"
    plan_file.write_text(yaml.safe_dump(plan, sort_keys=False), encoding="utf-8")
    with pytest.raises(InputError, match="SIDMLP has tokenizer=random but its teacher TIGER has rq_kmeans"):
        make_jobs(read_plan(plan_file), tmp_path / "runs")


def test_plan_may_train_anew(plan_file: Path, tmp_path: Path) -> None:
    resume = [job.config()["resume"] for job in make_jobs(read_plan(plan_file, {"resume": False}), tmp_path)]
    assert resume[2:4] == [False, False]
    assert make_jobs(read_plan(plan_file), tmp_path)[2].config()["resume"]


@pytest.mark.parametrize(
    "file", sorted(Path(__file__).parents[1].glob("benchmarks/plans/*.yaml")), ids=lambda file: file.stem
)
def test_plans_of_the_results_can_be_read_with_their_command(file: Path) -> None:
    found = re.search(r"--baseline=(\S+)", file.read_text(encoding="utf-8"))
    check_baseline(read_plan(file), found[1] if found else None)


def test_teacher_is_trained_again_when_its_checkpoint_is_gone(plan_file: Path, tmp_path: Path) -> None:
    plan = read_plan(plan_file, seeds=[1])
    teacher, student = make_jobs(plan, tmp_path / "runs")[2:]
    run_job(teacher)
    Path(student.settings["teacher_path"]).unlink()
    lines: list[str] = []
    outcomes = run_jobs([teacher, student], run_job, lines.append)
    assert [outcome.failure for outcome in outcomes] == [None, None]
    assert sum("is gone, training it again" in line for line in lines) == 1


def test_one_failure_does_not_lose_the_others(plan_file: Path, tmp_path: Path) -> None:
    def execute(job: Any) -> dict[str, Any]:
        if job.entry.name == "TIGER":
            raise MemoryError("no memory left")
        return run_job(job)

    jobs = make_jobs(read_plan(plan_file, seeds=[1]), tmp_path / "runs")
    outcomes = run_jobs(jobs, execute, report=lambda line: None)
    assert [outcome.failure is None for outcome in outcomes] == [True, True, False, False]
    assert outcomes[3].failure == "It needs TIGER, seed 1, which failed."
    summary = summarise(outcomes)
    assert [row["model"] for row in summary.rows] == ["Pop", "SASRec"]
    assert summary.failures[0] == "TIGER, seed 1: MemoryError: no memory left"


def test_jobs_on_ray_wait_for_their_teachers(plan_file: Path, tmp_path: Path) -> None:
    plan = read_plan(plan_file, seeds=[1])
    broken = plan.entries[0]._replace(
        name="broken", settings={**plan.entries[0].settings, "load_col": {"inter": ["x"]}}
    )
    _, _, teacher, student = plan.entries
    by_two = teacher._replace(settings={**teacher.settings, "nproc": 2})
    plan = plan._replace(entries=(broken, by_two, student))
    lines: list[str] = []
    jobs = make_jobs(plan, tmp_path / "runs")
    with pytest.raises(InputError, match=r"--gpus=0\.5 must be 0 or 1 with nproc=2"):
        run_jobs_on_ray(jobs, RayOptions(gpus=0.5), lines.append)
    with local_ray(2):
        outcomes = run_jobs_on_ray(jobs, RayOptions(), lines.append)
    assert [outcome.job.entry.name for outcome in outcomes] == ["broken", "TIGER", "SIDMLP"]
    assert outcomes[0].failure is not None
    assert "\n" not in outcomes[0].failure
    assert [outcome.failure for outcome in outcomes[1:]] == [None, None]
    assert len(lines) == 3
    lines.clear()
    again = run_jobs_on_ray(
        make_jobs(plan._replace(entries=plan.entries[1:]), tmp_path / "runs"), RayOptions(), lines.append
    )
    assert all("reused from" in line for line in lines)
    assert [outcome.result for outcome in again] == [outcome.result for outcome in outcomes[1:]]


def test_command_writes_all_files(plan_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = yaml.safe_load(plan_file.read_text(encoding="utf-8"))
    plan["models"] = {"Pop": {}, "Pop-again": {"model": "Pop", "learning_rate": 0.5}}  # Pop learns by counting
    plan_file.write_text(yaml.safe_dump(plan), encoding="utf-8")
    assert main(["compare", f"--plan={plan_file}", "--seeds=[3]", "--output=out", "--json=result.json"]) == 0
    for ending in ("md", "tex", "csv", "json", "png"):
        assert (tmp_path / "out" / f"comparison.{ending}").stat().st_size > 0
    result = json.loads((tmp_path / "result.json").read_text(encoding="utf-8"))
    assert [row["model"] for row in result["rows"]] == ["Pop", "Pop-again"]
    assert result["tests"][0]["t_test"] == result["tests"][0]["wilcoxon"] == 1.0
    assert pd.read_csv(tmp_path / "out" / "comparison.csv")["ndcg@10"].nunique() == 1
    assert "Pop-again" in [row[0] for row in table_cells(capsys.readouterr().out)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seeds": [1, 1]}, "names a seed twice"),
        ({"seeds": ["x"]}, "must be whole numbers"),
        ({"models": {"TIGRE": {}}}, "Unknown model 'TIGRE'"),
        ({"models": {"SIDMLP": {"teacher": "TIGER"}}}, "no teacher before it"),
        ({"models": {"TIGER": {"evaluate": {"x": {"beams": 3}}}}}, "beams"),
        ({"models": {"Pop": {"hidden_siz": 3}}}, "hidden_siz"),
        ({"models": {}}, "must name dataset and models|no model to compare"),
        ({"model": {}}, "key of a plan='model'"),
        ({"models": {"TIGER": 3}}, "gives TIGER the settings 3: write TIGER: "),
        (
            {"models": {"TIGER": {}, "SIDMLPPlusPlus": {"encoder": "itm"}}},
            "encoder='itm' .* must be one of token, item",
        ),
        ({"models": {"TIGER": {"evaluate": {"x": {"decoding": "bem"}}}}}, "decoding='bem'"),
        ({"models": {"TIGER": {"features": ["file"]}}}, "features has 'file', which needs feature_file"),
        (
            {"models": {"TIGER": {"features": ["file"], "feature_file": "no.npy"}}},
            r"feature_file='no\.npy' does not exist",
        ),
        ({"models": {"TIGER": {}, "SIDMLP": {"student_path": "no.pth"}}}, r"SIDMLP: student_path='no\.pth' does not"),
        ({"tuned": True}, r"nothing is tuned on tiny \(only on .*scientific\)"),
    ],
)
def test_wrong_plan_is_refused_before_anything_runs(
    plan_file: Path, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    plan = {**yaml.safe_load(plan_file.read_text(encoding="utf-8")), **change}
    plan_file.write_text(yaml.safe_dump(plan), encoding="utf-8")
    with pytest.raises(InputError, match=message):
        make_jobs(read_plan(plan_file), tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_wrong_options_are_refused_before_anything_runs(plan_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", f"--plan={plan_file}", "--baseline=Popp"]) == 2
    assert "baseline='Popp' is no row of the comparison: one of Pop, " in capsys.readouterr().err
    assert main(["compare", "--models=Pop"]) == 2
    assert main(["compare", "--models=Pop", "--dataset=nowhere"]) == 2
    assert "no dataset folder" in capsys.readouterr().err
    for seeds in ("many", "0", "-1", "[]"):
        assert main(["compare", "--models=Pop", "--dataset=tiny", f"--seeds={seeds}"]) == 2
        assert "must be how many" in capsys.readouterr().err
    assert not Path("saved").exists()


def test_failed_baseline_does_not_lose_the_comparison(plan_file: Path, tmp_path: Path) -> None:
    settings = yaml.safe_load(plan_file.read_text())["settings"] | {"metrics": ["Recall"], "valid_metric": "recall@10"}
    models = {"Pop": {}, "again": {"model": "Pop", "learning_rate": 0.5}, "lost": {"model": "Pop", "epochs": 9}}
    plan = make_plan("tiny", models, [1], settings=settings)

    def execute(job: Job) -> dict[str, Any]:
        if job.entry.name == "lost":
            raise RuntimeError("no more memory")
        return run_job(job)

    summary = summarise(run_jobs(make_jobs(plan, tmp_path / "runs"), execute, report=lambda line: None), "lost")
    assert [(row["model"], row["baseline"]) for row in summary.tests] == [("again", "Pop")]
    assert summary.failures[-1] == "The tests are against Pop, as there are no results of lost."
    files = write_comparison(
        summary, tmp_path / "out", {"dataset": "tiny", "seeds": [1]}
    )  # without NDCG@10 among the metrics
    assert all(file.stat().st_size for file in files)


def test_statistics_against_scipy_and_numpy() -> None:
    rng = np.random.default_rng(0)
    base = rng.random(400)
    values = {
        "base": base,
        "better": base + 0.05 + 0.1 * rng.standard_normal(400),
        "worse": base - 0.05 + 0.1 * rng.standard_normal(400),
        "noise": base + 0.1 * rng.standard_normal(400),
        "equal": base.copy(),
    }
    rows = {row["model"]: row for row in paired_tests(values, "base")}
    assert list(rows) == ["better", "worse", "noise", "equal"]
    for name in ("better", "worse", "noise"):
        assert rows[name]["t_test"] == pytest.approx(stats.ttest_rel(values[name], base).pvalue)
        assert rows[name]["wilcoxon"] == pytest.approx(stats.wilcoxon(values[name], base).pvalue)
    assert rows["better"]["t_test_holm"] < 1e-6
    assert rows["better"]["ci_low"] > 0
    assert rows["worse"]["t_test_holm"] < 1e-6
    assert rows["worse"]["ci_high"] < 0
    assert rows["noise"]["t_test_holm"] > 0.05
    assert rows["noise"]["ci_low"] < 0 < rows["noise"]["ci_high"]
    assert rows["equal"]["t_test"] == rows["equal"]["wilcoxon"] == 1.0


def test_bootstrap_interval_is_that_of_resampled_means() -> None:
    values = np.random.default_rng(1).standard_normal(300)
    low, high = bootstrap_interval(values)
    rng = np.random.default_rng(2)
    means = values[rng.integers(300, size=(20_000, 300))].mean(1)
    assert [low, high] == pytest.approx(np.quantile(means, [0.025, 0.975]), abs=0.005)
    assert bootstrap_interval(values) == (low, high)


def test_holm_against_its_definition() -> None:
    # sorted .01 .02 .03 .04: times 4, 3, 2, 1, then made monotone
    assert holm(np.array([0.04, 0.01, 0.03, 0.02])) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm(np.array([0.5, 0.9])).tolist() == [1.0, 1.0]


def test_instances_and_breakdown_on_known_sequences(data_path: Path) -> None:
    config = Config("SASRec", "tiny", config_dict={"data_path": str(data_path), "MAX_ITEM_LIST_LENGTH": 3})
    train, _, test = create_dataset(config).build()
    instances = test_instances(train, test).set_index("user")
    frame = pd.read_csv(data_path / "tiny" / "tiny.inter", sep="\t")
    sequences = frame.groupby("user_id:token")["item_id:token"].agg(list)
    training = pd.Series([item for items in sequences for item in items[:-2]]).value_counts()
    for user, items in sequences.items():
        assert instances.loc[user, "history"] == len(items) - 1
        assert instances.loc[user, "popularity"] == training.get(items[-1], 0)
    made = pd.DataFrame({"history": [1, 1, 2, 3, 4, 5, 6, 7], "popularity": [0, 0, 1, 1, 2, 2, 3, 9]})
    rows = breakdown(made, {"a": np.arange(8.0)})
    assert [(row["by"], row["bin"], row["instances"], row["a"]) for row in rows] == [
        ("history", "1-2", 3, 1.0),
        ("history", "3-4", 2, 3.5),
        ("history", "5-7", 3, 6.0),
        ("popularity", "cold", 2, 0.5),
        ("popularity", "1", 2, 2.5),
        ("popularity", "2-9", 4, 5.5),
    ]


def comparison_of_two() -> Summary:
    others = {"users_per_s": 1234.6, "parameters": 12, "share_of_teacher": None}
    rows = [
        {"model": "a_1", "seeds": 2, "recall@10": 0.2, "recall@10_sd": 0.01, "ndcg@10": 0.1, "ndcg@10_sd": 0.01},
        {"model": "SIDMLPPlusPlus-item", "seeds": 2, "recall@10": 0.3, "ndcg@10": 0.05, "recall@10_sd": 0.01},
        {"model": "c", "seeds": 2, "recall@10": 0.1, "recall@10_sd": 0.01, "ndcg@10": 0.04, "ndcg@10_sd": 0.02},
        {"model": "d", "seeds": 2, "recall@10": 0.1, "recall@10_sd": 0.01, "ndcg@10": 0.11, "ndcg@10_sd": 0.02},
    ]
    rows[1]["ndcg@10_sd"] = 0.02
    tests = [
        {"model": "SIDMLPPlusPlus-item", "baseline": "a_1", "difference": -0.05, "t_test_holm": 0.01},
        {"model": "c", "baseline": "a_1", "difference": -0.06, "t_test_holm": 0.2},
        {"model": "d", "baseline": "a_1", "difference": 0.01, "t_test_holm": 0.04},
    ]
    return Summary([{**row, **others} for row in rows], tests, [], [])


def set_in_latex(text: str, folder: Path) -> None:
    """Set a table, if there is what sets it."""
    assert text.count(r"\begin{") == text.count(r"\end{")
    assert text.count("{") - text.count(r"\{") == text.count("}") - text.count(r"\}")
    engine = shutil.which("pdflatex") or shutil.which("tectonic")
    if engine:
        document = rf"\documentclass{{article}}\usepackage{{booktabs}}\begin{{document}}{text}\end{{document}}"
        (folder / "table.tex").write_text(document, encoding="utf-8")
        subprocess.run([engine, "table.tex"], cwd=folder, check=True, stdin=subprocess.DEVNULL, capture_output=True)


def test_latex_marks_best_second_better_and_worse(tmp_path: Path) -> None:
    text = latex(comparison_of_two(), "my_data")
    lines = text.splitlines()
    assert lines[2:4] == [r"\caption{Comparison on my\_data.}", r"\label{tab:my-data}"]
    assert lines[8:12] == [
        r"a\_1 & \underline{0.2000 $\pm$ 0.0100} & \underline{0.1000 $\pm$ 0.0100} \\",
        r"SID-MLP++ (item) & \textbf{0.3000 $\pm$ 0.0100} & 0.0500 $\pm$ 0.0200$^{\downarrow}$ \\",
        r"c & 0.1000 $\pm$ 0.0100 & 0.0400 $\pm$ 0.0200 \\",
        r"d & 0.1000 $\pm$ 0.0100 & \textbf{0.1100 $\pm$ 0.0200}$^{\uparrow}$ \\",
    ]
    (note,) = [line for line in lines if "footnotesize" in line]
    for said in ("over 2 seeds", "Bold: the best", r"$^{\uparrow}$/$^{\downarrow}$", r"that of a\_1", "Holm"):
        assert said in note
    set_in_latex(text, tmp_path)


def test_latex_has_the_columns_that_are_chosen(tmp_path: Path) -> None:
    text = latex(comparison_of_two(), "x", ["ndcg@10", "speed", "size", "share"])
    lines = text.splitlines()
    assert lines[6] == r"Model & NDCG@10 & Users/s & Parameters & Share of teacher's NDCG@10 \\"
    assert lines[10] == r"c & 0.0400 $\pm$ 0.0200 & 1,235 & 12 & -- \\"
    assert "Users/s: whole evaluation" in text
    set_in_latex(text, tmp_path)
    without = latex(comparison_of_two(), "x", ["speed"])
    assert "Bold" not in without
    assert "uparrow" not in without
    with pytest.raises(InputError, match=r"column='sped'.*speed"):
        check_columns(["sped"], ["ndcg@10"])


def test_latex_of_any_name_and_without_the_tested_metric(tmp_path: Path) -> None:
    rows = [{"model": r"50%_a&b {\x}^~", "seeds": 1, "recall@5": 0.2, "recall@5_sd": None}]
    rows.append({"model": "b", "seeds": 1, "recall@5": 0.1, "recall@5_sd": None})
    text = latex(Summary(rows, comparison_of_two().tests, [], []), r"a&b_{c}")
    assert r"\caption{Comparison on a\&b\_\{c\}.}" in text
    assert text.splitlines()[4:12] == [
        r"\begin{tabular}{lr}",
        r"\toprule",
        r"Model & Recall@5 \\",
        r"\midrule",
        r"50\%\_a\&b \{\textbackslash x\}\textasciicircum \textasciitilde  & \textbf{0.2000} \\",
        r"b & \underline{0.1000} \\",
        r"\bottomrule",
        r"\end{tabular}",
    ]
    assert "One seed." in text
    set_in_latex(text, tmp_path)


def test_rows_keep_the_order_of_the_plan_though_a_first_run_failed(plan_file: Path, tmp_path: Path) -> None:
    def execute(job: Job) -> dict[str, Any]:
        if job.name == "Pop, seed 1":
            raise RuntimeError("lost")
        return run_job(job)

    plan = read_plan(plan_file)
    plan = plan._replace(entries=plan.entries[:2])
    summary = summarise(run_jobs(make_jobs(plan, tmp_path / "runs"), execute, report=lambda line: None))
    assert [(row["model"], row["seeds"]) for row in summary.rows] == [("Pop", 1), ("SASRec", 2)]


def test_tuned_files_are_found_by_name_and_then_by_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan_module, "_TUNED", tmp_path)
    (tmp_path / "tiny").mkdir()
    for stem in ("SIDMLP", "SIDMLP-wide"):
        (tmp_path / "tiny" / f"{stem}.yaml").touch()
    entries = (
        ("SIDMLP", {}),
        ("SIDMLP-wide", {"model": "SIDMLP"}),
        ("SIDMLP-x", {"model": "SIDMLP"}),
        ("SIDMLP", {"model": "Pop"}),
    )
    found = [with_tuned_file("tiny", name, own).get("files") for name, own in entries]
    assert found == [[str(tmp_path / "tiny" / f"{stem}.yaml")] for stem in ("SIDMLP", "SIDMLP-wide", "SIDMLP")] + [None]
    assert with_tuned_file("tiny", "SIDMLP", {"files": ["own.yaml"]})["files"][1:] == ["own.yaml"]


def test_several_instances_of_a_user_are_not_independent() -> None:
    """Against a loop over resampled users, and the variance over simulated worlds."""
    rng = np.random.default_rng(0)
    users = np.array([f"u{number}" for number in rng.integers(40, size=400)])
    of_user = dict(zip(sorted(set(users)), rng.normal(0.1, 0.3, size=40), strict=False))
    values = {"new": np.array([of_user[user] for user in users]) + rng.normal(0, 0.1, 400), "old": np.zeros(400)}
    (row,) = paired_tests(values, "old", users=users)
    assert row["difference"] == pytest.approx(values["new"].mean())
    groups = [values["new"][users == user] for user in sorted(set(users))]
    drawn = [[groups[place] for place in rng.integers(len(groups), size=len(groups))] for _ in range(4000)]
    means = [np.concatenate(parts).mean() for parts in drawn]
    low, high = np.quantile(means, [0.025, 0.975])
    assert (row["ci_low"], row["ci_high"]) == pytest.approx((low, high), abs=0.01)
    statistic = row["difference"] / np.std(means)
    assert row["t_test"] == pytest.approx(2 * stats.t.sf(abs(statistic), len(groups) - 1), rel=0.3)
    assert row["wilcoxon"] == stats.wilcoxon([group.mean() for group in groups]).pvalue
    labels = pd.DataFrame({name: np.zeros(400, dtype=np.int8) for name in TYPES})
    labels.insert(0, "category", pd.Categorical(["memorization"] * 400, CLASSES))
    (found,) = by_category(labels, {"new": pd.DataFrame({"ndcg@10": values["new"]})}, 1, users)[:1]
    assert (found["ndcg@10_low"], found["ndcg@10_high"]) == pytest.approx((low, high), abs=0.01)
    (naive,) = paired_tests(values, "old")
    assert naive["ci_high"] - naive["ci_low"] < 0.6 * (row["ci_high"] - row["ci_low"])


def test_users_of_one_instance_each_are_tested_as_before() -> None:
    rng = np.random.default_rng(1)
    values = {"new": rng.random(50), "old": rng.random(50)}
    users = rng.permutation([f"u{number}" for number in range(50)])
    assert paired_tests(values, "old", users=users) == paired_tests(values, "old")


@pytest.mark.parametrize("model", ["TransitionMemory", "GRU4Rec"])
def test_a_split_is_ranked_once_for_all_that_is_told_of_it(
    model: str, data_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {**SMALL, "data_path": str(data_path), "epochs": 1, "eval_batch_size": 16}
    known = ("data_path", "use_gpu", "show_progress", "state", "epochs", "eval_batch_size")
    plan = make_plan("tiny", {model: {"model": model, **{key: settings[key] for key in known}}}, [1])
    (job,) = make_jobs(plan, tmp_path / "runs")
    ranked, batches = [], []

    def trained(job: Job) -> Any:
        run = train(job)
        name = "retrieve" if model == "TransitionMemory" else "full_sort_predict"
        rank = getattr(run.trainer.model, name)
        monkeypatch.setattr(run.trainer.model, name, lambda rows, *more: ranked.append(len(rows)) or rank(rows, *more))
        batches.append(len(run.test_data))
        return run

    monkeypatch.setattr("recbole_sid.comparison.job.train", trained)
    result = run_job(job)
    assert batches[0] > 1
    assert len(ranked) == batches[0] + 1  # the first batch twice
    assert result["evaluations"][""]["metrics"]
