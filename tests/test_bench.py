"""The benchmark: its catalogue, its transcription of the paper's decoding, its timing, its command."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import SMALL_TIGER, table_cells
from torch.testing import assert_close

from recbole_sid.bench import plain, run, timing
from recbole_sid.bench.data import SyntheticDataset, Workload, kind_of
from recbole_sid.bench.options import bench_options
from recbole_sid.bench.rows import ROWS, transformers_generate
from recbole_sid.bench.synthetic_catalogue import branching, synthetic_semantic_ids
from recbole_sid.bench.timing import Samples, Task, measure, peak_megabytes, thread_count, timed
from recbole_sid.cli import main
from recbole_sid.config import Config
from recbole_sid.data import SemanticIDs
from recbole_sid.errors import InputError
from recbole_sid.model.tiger import TIGER
from recbole_sid.registry import get_model

CPU = torch.device("cpu")


def test_catalogue_branches_as_a_residual_quantiser() -> None:
    ids = synthetic_semantic_ids(25_000, seed=0)
    prefixes = [np.unique(ids.codes[:, :depth], axis=0, return_counts=True) for depth in (1, 2, 3, 4)]
    counts = [len(distinct) for distinct, _ in prefixes]
    assert counts == [256, pytest.approx(14_941, rel=0.03), pytest.approx(22_604, rel=0.03), 25_000]
    assert (prefixes[2][1] == 1).mean() == pytest.approx(0.90, abs=0.03)
    children = np.unique(prefixes[2][0][:, :2], axis=0, return_counts=True)[1]
    assert (children == 1).mean() == pytest.approx(0.73, abs=0.03)
    rows = branching(ids.trie)
    assert [row["prefixes"] for row in rows] == [len(distinct) for distinct, _ in prefixes[:3]]
    assert [row["single_child"] for row in rows[1:]] == [(children == 1).mean(), (prefixes[2][1] == 1).mean()]
    assert rows[2]["children_mean"] == 25_000 / len(prefixes[2][0])


def test_catalogue_is_that_of_its_seed_and_ranks_count_from_zero() -> None:
    first, again, other = (synthetic_semantic_ids(2_000, seed).codes for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    seen: dict[tuple[int, ...], int] = {}
    for *prefix, rank in first.tolist():
        assert rank == seen.get(tuple(prefix), 0)
        seen[tuple(prefix)] = rank + 1


@pytest.fixture
def student(prepare: Callable[..., Any]) -> Callable[[str], tuple[Any, Any]]:
    """Return ``student(name) -> model with random weights, rows of mixed lengths``."""

    def make(name: str, **changes: str) -> tuple[Any, Any]:
        sizes = {"attention_heads": 3, "attention_dim": 12, "n_user_tokens": 3}
        config, train, _, _ = prepare(name, **sizes, decoding="beam", **changes)
        torch.manual_seed(1)
        model = get_model(name)(config, train._dataset)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.normal_(1.0 if parameter.dim() == 1 else 0.0, 0.5)
        return model.eval(), train._dataset[torch.arange(0, len(train._dataset), 9)]

    return make


def states_of(model: Any, rows: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    tokens = model.history_tokens(rows)
    mask = tokens != 0
    assert not mask.all()
    return tokens, model.history_encoder(tokens, mask), mask


def every_items_score(model: Any, context: torch.Tensor) -> torch.Tensor:
    """Return [n_items] log-probabilities for one user z [1, 1, d]: softmax over the codes that items really have."""
    codes = model.item_codes[1:]
    logits = model.decoder(context.expand(len(codes), 1, -1), model.embed_prefix(codes))
    total = torch.zeros(len(codes))
    for item, row in enumerate(codes.tolist()):
        for level in range(len(row)):
            siblings = {other[level] for other in codes.tolist() if other[:level] == row[:level]}
            total[item] += logits[level][item, row[level]] - logits[level][item, sorted(siblings)].logsumexp(0)
    return total


@torch.no_grad()
@pytest.mark.parametrize("masks_fit", [True, False])
def test_plain_decoding_with_a_wide_beam_ranks_every_item(
    student: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch, masks_fit: bool
) -> None:
    if not masks_fit:
        monkeypatch.setattr(plain, "_LARGEST_MASK_BYTES", 5)
    model, rows = student("SIDMLP")
    model.beam_size = 1000
    _, states, mask = states_of(model, rows)
    decoder = plain.PlainDecoder(model)
    assert [table is not None for table in decoder.masks] == [True, masks_fit, masks_fit]
    context = plain.plain_readout(model.decoder.readout, states, mask)
    leaves, scores = decoder.search(context)
    for user in range(3):
        position, items = model.trie.expand_leaves(leaves[user])
        expected = every_items_score(model, context[user : user + 1].unsqueeze(1))
        assert sorted(items.tolist()) == list(range(1, len(model.item_codes)))
        assert_close(scores[user, position], expected[items - 1], atol=1e-5, rtol=1e-5)
        assert (scores[user, position].diff() <= 0).all()


@torch.no_grad()
@pytest.mark.parametrize("name", ["SIDMLP", "SIDMLPPlusPlus"])
@pytest.mark.parametrize("beam_size", [3, 10])
def test_the_model_returns_what_the_plain_decoding_returns(
    student: Callable[[str], Any], name: str, beam_size: int
) -> None:
    model, rows = student(name)
    model.beam_size = beam_size
    tokens, states, mask = states_of(model, rows)
    leaves, scores = plain.plain_decode(model, states, mask)
    found, found_scores = model.search(model.scorer(model.encode(tokens)))
    assert torch.equal(found, leaves)
    assert_close(found_scores, scores, atol=1e-5, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("mixing", ["mean", "weighted"])
@pytest.mark.parametrize("positions", ["start", "end"])
def test_plain_readout_and_encoder_equal_the_modules(student: Callable[..., Any], positions: str, mixing: str) -> None:
    model, rows = student("SIDMLPPlusPlus", encoder_positions=positions, encoder_mixing=mixing)
    tokens, states, mask = states_of(model, rows)
    plain_states = plain.plain_mlp_encoder(model.history_encoder, tokens, mask)
    assert_close(plain_states[mask], states[mask], atol=1e-5, rtol=1e-5)
    expected = model.decoder.readout(states, mask).squeeze(1)
    assert_close(plain.plain_readout(model.decoder.readout, states, mask), expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
@pytest.mark.skipif(find_spec("transformers") is None, reason="transformers is not installed")
def test_transformers_row_scores_items_as_our_teacher_does() -> None:
    codes = np.stack(np.meshgrid(range(4), range(3), indexing="ij"), axis=-1).reshape(-1, 2)
    dataset = SyntheticDataset(SemanticIDs(codes, (4, 3), np.arange(12).astype(str)))
    config = Config("TIGER", "synthetic", config_dict={**SMALL_TIGER, "use_gpu": False, "beam_size": 10})
    torch.manual_seed(3)
    model = TIGER(config, dataset).eval()
    model.token_embedding.weight.mul_(0.1)  # nearly even logits: some of the sequences that are found name items
    histories = Workload.synthetic(12, 10, CPU, seed=0)
    workload = Workload({"TIGER": lambda: model}, histories._histories, dataset.semantic_ids, 12, CPU)
    (batch,) = workload.batches("natural", 4, 1)
    rows, items, scores = transformers_generate(workload, 30).whole(batch)
    assert len(items) >= 8
    tokens = model.history_tokens(batch)[rows]
    mask = tokens != 0
    targets = model.vocabulary.code_tokens(model.item_codes[items])
    log_probs = model.teacher_forced(model.encoder(tokens, mask), mask, targets).log_softmax(-1)
    assert_close(scores, log_probs.gather(2, targets.unsqueeze(-1)).sum((1, 2)), atol=1e-4, rtol=1e-4)


def test_histories_have_the_lengths_asked_for_and_stay_the_same() -> None:
    workload = Workload.synthetic(300, 10, CPU, seed=5)
    natural, again = workload.batches("natural", 2_000, 1) + workload.batches("natural", 2_000, 1)
    lengths, items = natural["item_length"], natural["item_id_list"]
    assert torch.equal(items, again["item_id_list"])
    assert (int(lengths.min()), int(lengths.max())) == (1, 20)
    assert 7 < lengths.float().mean() < 9
    assert torch.equal((items > 0).sum(1), lengths)
    assert int(items.max()) == 300
    first, second = workload.batches("full", 8, 2)
    assert first["item_length"].tolist() == [20] * 8
    assert not torch.equal(first["item_id_list"], second["item_id_list"])


def test_rounds_show_the_same_batch_to_every_task() -> None:
    seen: list[tuple[str, int]] = []

    def task(name: str) -> Task:
        return Task(
            lambda batch: seen.append((name, batch)), {"encode": lambda batch: batch, "decode": lambda x: x + 1}
        )

    samples = measure({"a": task("a"), "b": task("b")}, [10, 20], CPU, rounds=4, seconds=60, label="", seed=0)
    timed = seen[4:]  # after the warm-up
    assert [sorted(timed[2 * number : 2 * number + 2]) for number in range(4)] == [
        [("a", batch), ("b", batch)] for batch in (10, 20, 10, 20)
    ]
    assert all(list(sample.whole) == [0, 1, 2, 3] for sample in samples.values())
    assert {stage: len(values) for stage, values in samples["a"].stages.items()} == {"encode": 4, "decode": 4}


def test_a_task_leaves_once_its_share_of_the_time_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    spent = {"endless": 30.0, "slow": 7.0, "quick": 0.5}
    tasks = {name: Task(lambda batch, name=name: name, {}) for name in spent}
    counts = dict.fromkeys(spent, 0)

    def sample(task: Task, *_: Any) -> float:
        counts[task.whole(None)] += 1
        return spent[task.whole(None)]

    monkeypatch.setattr(timing, "sample", sample)
    measure(tasks, [None], CPU, rounds=50, seconds=20, label="", seed=0)
    assert counts == {"endless": 1, "slow": timing.MIN_ROUNDS, "quick": 14}  # a third of 20 seconds each


def test_samples_leave_out_disturbed_rounds_and_pair_the_others() -> None:
    sample = Samples({0: 10.0, 1: 30.0, 2: 90.0, 3: 20.0, 4: 40.0}, {"encode": [1.0, 5.0, 2.0]}, disturbed={2})
    assert sample.spread() == (17.5, 25.0, 32.5)
    assert sample.stage_medians() == {"encode": 2.0}
    assert Samples({0: 1.0, 1: 2.0, 2: 3.0}, disturbed={0, 1}).spread()[1] == 2.0  # too few are quiet: all count
    assert sample.ratio_to(Samples({0: 2.0, 1: 3.0, 2: 1.0})) == 7.5  # of rounds 0 and 1: 5 and 10


def test_clock_returns_the_result() -> None:
    ms, result = timed(lambda x: x + 1, 3)
    assert result == 4
    assert ms >= 0


@pytest.mark.parametrize("measured_by", ["_peak_of_process", "_peak_seen_by_thread"])
def test_peak_memory_counts_what_a_call_frees_again(monkeypatch: pytest.MonkeyPatch, measured_by: str) -> None:
    def allocate(megabytes: int) -> float:
        return float(torch.ones(megabytes * 250_000).add_(1).add_(1).sum())

    monkeypatch.setattr(timing, "_peak_of_process", getattr(timing, measured_by))
    task = Task(allocate, {})
    task.whole(8)
    assert 58 <= peak_megabytes(lambda: task.whole(60), CPU) < 75
    assert peak_megabytes(lambda: task.whole(1), CPU) < 20


def test_thread_count_ends_with_the_block() -> None:
    before = torch.get_num_threads()
    for threads in (2, 1):
        with thread_count(threads):
            assert torch.get_num_threads() == threads
    assert torch.get_num_threads() == before


def test_share_of_the_same_items() -> None:
    def found(*pairs: tuple[int, int]) -> Any:
        rows, items = torch.tensor(pairs).T
        return rows, items, torch.zeros(len(pairs))

    reference = found((0, 1), (0, 2), (0, 3), (1, 7))
    assert run.same_items(found((1, 7), (0, 2), (0, 1), (0, 9)), reference, 2, k=3) == 0.75
    assert run.same_items(found((0, 9), (0, 8), (0, 1), (1, 7)), reference, 2, k=2) == pytest.approx(1 / 3)
    assert run.same_items(reference, None, 2) is None


WRONG = [
    (["--row=[sidmlp]"], "no option --row (did you mean 'rows'?)"),
    (["--rows=[sidmlp,sasrek]"], "--rows knows no 'sasrek' (did you mean 'sasrec'?)"),
    (["--rows=[]"], "--rows is empty"),
    (["--histories=natura"], "did you mean 'natural'"),
    (["--batches=[32,0]"], "--batches=0 must be a whole number of at least 1"),
    (["--items=many"], "--items=many must be a whole number"),
    (["--threads=some"], "--threads=some must be"),
    (["--seed=-1"], "--seed=-1 must be a whole number of at least 0"),
    (["--device=tpu"], "--device=tpu must be auto, cpu or cuda"),
    (["--quick=3"], "--quick=3 is not possible"),
    (["--checkpoint=none.pth"], "There is no checkpoint at 'none.pth'"),
    (["--dataset=tiny"], "bench takes no --dataset"),
]


@pytest.mark.parametrize(("words", "message"), WRONG, ids=lambda value: str(value)[:40])
def test_wrong_input_ends_with_one_line(capsys: pytest.CaptureFixture[str], words: list[str], message: str) -> None:
    assert main(["bench", *words, "--output=out"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert not Path("out").exists()


def test_quick_is_one_setting_without_transformers_that_can_be_changed() -> None:
    quick = bench_options({"quick": True, "batches": 8})
    assert (quick.batches, quick.threads, quick.histories) == ((8,), (1,), ("natural",))
    assert set(ROWS) - set(quick.rows) == {"transformers"}
    every = bench_options({"threads": [1, "all"]})
    assert every.rows == tuple(ROWS)
    assert every.threads[0] == 1


KEYS = "name batch threads histories device ms encode_ms readout_ms decode_ms peak_mb users_per_s".split()


def test_bench_writes_table_picture_and_json(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--items=500", "--rows=[sidmlp-plain,sidmlp,sasrec]", "--rounds=1", "--batches=[2,3]", "--threads=1"]
    assert main(["bench", *words, "--histories=natural", "--output=out", "--json=result.json", "--seed=4"]) == 0
    result = json.loads(Path("result.json").read_text(encoding="utf-8"))
    assert result == json.loads(Path("out/bench.json").read_text(encoding="utf-8"))
    assert (result["command"], result["seed"], result["items"], result["skipped"]) == ("bench", 4, 500, [])
    rows = result["rows"]
    assert [(row["batch"], row["name"]) for row in rows] == [
        (batch, name) for batch in (2, 3) for name in ("sidmlp-plain", "sidmlp", "sasrec")
    ]
    assert all(set(KEYS) <= row.keys() for row in rows)
    assert all((row["threads"], row["histories"]) == (1, "natural") for row in rows)
    for name, row in zip(("sidmlp-plain", "sidmlp", "sasrec"), rows, strict=False):
        assert all(row[key] > 0 for key in ("ms", "encode_ms", "decode_ms", "users_per_s"))
        assert (row["readout_ms"] is None) == (name == "sasrec")
        assert row["ratio_to_teacher"] is None
    assert rows[1]["same_top10"] == 1.0
    assert rows[2]["ratio_to_sasrec"] == 1.0
    assert rows[0]["ratio_to_sasrec"] == pytest.approx(rows[0]["ms"] / rows[2]["ms"])
    table = Path("out/bench.md").read_text(encoding="utf-8")
    assert [row[0] for row in table_cells(table)].count("sidmlp-plain") == 2
    assert "--seed=4" in table
    assert "## Batch 3, 1 thread, natural histories" in table
    assert Path("out/bench.png").read_bytes().startswith(b"\x89PNG")
    assert "sasrec" in [row[0] for row in table_cells(capsys.readouterr().out)]


def test_rows_that_do_not_fit_the_memory_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "_free_bytes", lambda device: 1000)
    options = bench_options({"items": 200, "rows": ["sasrec"], "batches": 2, "threads": 1, "histories": "full"})
    outcome = run.run_bench(options)
    assert outcome.rows == []
    assert outcome.skipped == [
        "sasrec is left out at batch 2, 1 thread, full histories: it takes 0.0 GB of memory, 0.0 are free."
    ]


def test_an_interruption_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "measure", interrupted)
    words = ["--items=200", "--rows=sasrec", "--batches=2", "--output=out", "--json=result.json"]
    assert main(["bench", *words]) == 130
    assert not Path("out").exists()
    assert not Path("result.json").exists()


def test_kinds_of_checkpoints() -> None:
    assert kind_of("SIDMLPPlusPlus", "item") == "SIDMLPPlusPlus-item"
    assert kind_of("SIDMLPPlusPlus", None) == "SIDMLPPlusPlus"
    assert kind_of("SASRec", None) == "SASRec"
    with pytest.raises(InputError, match="this one is of Pop"):
        kind_of("Pop", None)


def test_a_checkpoint_is_measured_on_its_own_histories(settings: Callable[..., dict[str, Any]]) -> None:
    from recbole_sid.quick_start import run_recbole_sid

    result = run_recbole_sid("SIDMLP", "tiny", config_dict=settings("SIDMLP", epochs=1))
    words = [f"--checkpoint={result['model_file']}", "--batches=4", "--threads=1", "--rounds=1", "--beam_size=10"]
    assert main(["bench", *words, "--json=result.json", "--rows=[sidmlp-plain,sidmlp,tiger]"]) == 0
    rows = json.loads(Path("result.json").read_text(encoding="utf-8"))["rows"]
    assert [(row["histories"], row["name"]) for row in rows] == [
        (law, name) for law in ("natural", "full") for name in ("sidmlp-plain", "sidmlp")
    ]
    assert all(row["same_top10"] == 1.0 for row in rows if row["name"] == "sidmlp")
    assert main(["bench", *words, "--rows=tiger"]) == 2
