"""SID models with a memory: what they rank by, what is chosen after training and on what, checkpoints, refusals."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import random_sequences, write_dataset

from recbole_sid.checkpoint import load_checkpoint, save_checkpoint
from recbole_sid.config import Config
from recbole_sid.data import create_dataset, data_preparation
from recbole_sid.errors import InputError
from recbole_sid.memory import Memory, Numbers
from recbole_sid.memory.mixture import scores_of_all
from recbole_sid.quick_start import load_data_and_model, make_trainer, run_model, run_recbole_sid
from recbole_sid.registry import get_model, get_trainer
from recbole_sid.trainer import remembering
from recbole_sid.trainer.sid_trainer import SIDTrainer
from recbole_sid.util import hardware

MODELS = ["TIGER", "CausalSID", "SIDMLP", "SIDMLPPlusPlus", "SIDMLPHybrid"]
NUMBERS = {
    "memory_hops": 2,
    "memory_hop_decay": 0.5,
    "memory_window": 3,
    "memory_window_decay": 0.5,
    "memory_pseudo_counts": 2.0,
    "memory_text_weight": 0.0,
}
SET = {"memory": "transitions", **NUMBERS, "memory_sharpness": 0.5}
ASKED = {"memory": "transitions"}


@pytest.fixture
def fitted(prepare: Callable[..., Any]) -> Callable[..., tuple[Any, Any, Any, Any]]:
    """Return ``fitted(model, **changes) -> trainer, train, valid, test``: trained for an epoch, not saved."""

    def make(model: str, **changes: Any) -> tuple[Any, Any, Any, Any]:
        config, train, valid, test = prepare(model, **{"epochs": 1, **changes})
        trainer = make_trainer(config, train)
        if hasattr(trainer.model, "teacher"):
            object.__setattr__(trainer.model, "teacher", make_trainer(prepare("TIGER")[0], train).model)
        trainer.fit(train, valid, saved=False, verbose=False)
        trainer.model.eval()
        return trainer, train, valid, test

    return make


@pytest.fixture
def configure(settings: Callable[..., dict[str, Any]]) -> Callable[..., Config]:
    def make(model: str, **changes: Any) -> Config:
        return Config(model, "tiny", config_dict=settings(model, **changes))

    return make


def interrupt(*args: Any) -> None:
    raise KeyboardInterrupt


def first_batch(loader: Any) -> Any:
    return next(iter(loader))[0]


def log_p0(model: Any, interaction: Any) -> torch.Tensor:
    with torch.no_grad():
        return model.item_log_probs(model.scorer(model.encode(model.history_tokens(interaction))))


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("decoding", ["beam", "exact", "full"])
def test_every_decoder_ranks_the_mixture(fitted: Callable[..., Any], name: str, decoding: str) -> None:
    trainer, train, _, test = fitted(name, **SET, decoding=decoding)
    model, interaction = trainer.model, first_batch(test)
    sequences = train._dataset.training_sequences()
    memory = Memory(model.n_items)
    memory.learn(*sequences, model.memory.numbers)
    histories, lengths = interaction["item_id_list"], interaction["item_length"]
    recent = [items[:length].flip(0).tolist() + [0] * 6 for items, length in zip(histories, lengths, strict=True)]
    recall = memory.recall(torch.tensor([items[:3] for items in recent]))
    expected = scores_of_all(recall, log_p0(model, interaction), torch.tensor(0.5))
    found = model.full_sort_predict(interaction).view(len(interaction), -1)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(
        model.predict(interaction), expected.gather(1, interaction["item_id"].unsqueeze(1))[:, 0], rtol=1e-4, atol=1e-4
    )
    rows, items, scores = model.retrieve(interaction)
    torch.testing.assert_close(scores, expected[rows, items], rtol=1e-4, atol=1e-4)
    for row in range(len(interaction)):
        mine = scores[rows == row]
        assert mine.tolist() == sorted(mine.tolist(), reverse=True)
        assert len(mine) == model.beam_size == len(set(items[rows == row].tolist()))
        if decoding != "beam":
            torch.testing.assert_close(mine, expected[row].topk(model.beam_size).values, rtol=1e-4, atol=1e-4)
    assert not torch.equal(expected.argsort(1), log_p0(model, interaction).argsort(1))


@pytest.mark.parametrize("name", ["TIGER", "SIDMLP"])
def test_without_sharpness_scores_are_log_probabilities(fitted: Callable[..., Any], name: str) -> None:
    trainer, _, _, test = fitted(name, **{**SET, "memory_sharpness": 0.0})
    found = trainer.model.full_sort_predict(first_batch(test)).view(-1, trainer.model.n_items)
    torch.testing.assert_close(found.exp().sum(1), torch.ones(len(found)), rtol=1e-4, atol=1e-4)
    assert found[:, 0].isneginf().all()


@pytest.mark.parametrize("name", ["TIGER", "SIDMLP"])
def test_unknown_histories_rank_as_without_a_memory(fitted: Callable[..., Any], name: str) -> None:
    trainer, _, _, test = fitted(name, **SET)
    model, interaction = trainer.model, first_batch(test)
    learnt = model.memory.table.counts.toarray().sum(1)
    silent = int(np.flatnonzero(learnt[1:] == 0)[0] + 1) if (learnt[1:] == 0).any() else None
    interaction["item_id_list"] = torch.zeros_like(interaction["item_id_list"])
    if silent is not None:  # an item that was never followed says as little as none
        interaction["item_id_list"][::2, 0] = silent
    rows, items, scores = model.retrieve(interaction)
    model.memory = None
    plain_rows, plain_items, plain_scores = model.retrieve(interaction)
    torch.testing.assert_close(scores, 1.5 * plain_scores, rtol=1e-4, atol=1e-4)
    assert torch.equal(rows, plain_rows)
    assert (items == plain_items).float().mean() > 0.95  # equal scores are put in order of their number


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("decoding", ["beam", "exact", "full"])
def test_other_devices_rank_as_the_cpu(
    fitted: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, name: str, decoding: str
) -> None:
    trainer, _, _, test = fitted(name, **SET, decoding=decoding)
    model, interaction = trainer.model, first_batch(test)
    tables = []
    for other in (False, True):
        if other:
            monkeypatch.setattr(hardware, "on_cpu", lambda place: False)
        rows, items, scores = model.retrieve(interaction)
        table = torch.full((len(interaction), model.n_items), -100.0)
        table[rows, items] = scores
        tables.append((table, model.full_sort_predict(interaction), model.predict(interaction)))
    for mine, theirs in zip(*tables, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["TIGER", "CausalSID", "SIDMLP", "SIDMLPPlusPlus"])
@pytest.mark.parametrize("decoding", ["beam", "full"])
def test_no_device_is_waited_for_once_histories_are_looked_up(
    fitted: Callable[..., Any], name: str, decoding: str
) -> None:
    trainer, _, _, test = fitted(name, **SET, decoding=decoding)
    model, interaction = trainer.model, first_batch(test)
    recall = model.recall(interaction)
    assert len(recall.rows)
    model.trie.leaves_of(recall.items)
    model.to("meta")
    with torch.no_grad():
        scorer = model.scorer(model.encode(model.history_tokens(interaction.to("meta"))))
        items, scores = model.best_items(scorer, recall)
    assert items.shape == scores.shape == (len(interaction), model.beam_size)


@pytest.mark.parametrize(
    ("model", "decoding"),
    [("SIDMLP", "beam"), ("SIDMLP", "exact"), ("SIDMLPPlusPlus", "beam"), ("SIDMLPHybrid", "beam")],
)
def test_compiled_loops_find_what_torch_finds(
    prepare: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, model: str, decoding: str
) -> None:
    config, train, _, test = prepare(model, decoding=decoding, compiled=True, **SET)
    trained = get_model(model)(config, train._dataset).eval()
    trained.memory.learn(*train._dataset.training_sequences(), Numbers(2, 0.5, 3, 0.5, 2.0))
    trained.sharpness.fill_(0.5)
    interaction = next(iter(test))[0]
    found = trained.retrieve(interaction)
    with monkeypatch.context() as patch:  # the compiled way does not look things up by scipy
        patch.setattr(type(trained.memory), "recall", None)
        assert torch.equal(trained.retrieve(interaction)[1], found[1])
    trained.compiled = False
    rows, items, scores = trained.retrieve(interaction)
    assert torch.equal(found[0], rows)
    torch.testing.assert_close(found[2], scores, rtol=1e-4, atol=1e-4)
    assert (found[1] == items).float().mean() > 0.95  # neighbours within rounding may swap
    with torch.no_grad():
        for weight in trained.decoder.heads.parameters():
            weight.fill_(torch.nan)
    trained.compiled = True
    with pytest.raises(InputError, match="not finite"):
        trained.retrieve(interaction)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_compiled_loops_mix_both_heads_as_torch_does(prepare: Callable[..., Any], share: float) -> None:
    config, train, _, test = prepare("SIDMLPHybrid", compiled=True)
    model = get_model("SIDMLPHybrid")(config, train._dataset).eval()
    model.shares.copy_(torch.tensor([share, 1 - share]))
    interaction = next(iter(test))[0]
    found = model.retrieve(interaction)
    model.compiled = False
    rows, items, scores = model.retrieve(interaction)
    assert torch.equal(found[0], rows)
    torch.testing.assert_close(found[2], scores, rtol=1e-4, atol=1e-4)
    assert (found[1] == items).float().mean() > 0.95


@pytest.mark.parametrize("constrained", [True, False])
def test_unconstrained_search_is_mixed_too(fitted: Callable[..., Any], constrained: bool) -> None:
    trainer, _, _, test = fitted("TIGER", **SET, constrained=constrained)
    model, interaction = trainer.model, first_batch(test)
    every = model.full_sort_predict(interaction).view(len(interaction), -1)
    rows, items, scores = model.retrieve(interaction)
    torch.testing.assert_close(scores, every[rows, items], rtol=1e-4, atol=1e-4)


def test_training_knows_nothing_of_the_memory(configure: Callable[..., Config]) -> None:
    plain = run_model(configure("TIGER")).trainer.model
    other = run_model(configure("TIGER", **SET)).trainer.model
    state = other.state_dict()
    for name, value in plain.state_dict().items():
        assert torch.equal(state[name], value)
    assert {name.partition(".")[0] for name in state.keys() - plain.state_dict().keys()} == {"memory", "sharpness"}


def test_numbers_are_chosen_on_validation_alone(
    prepare: Callable[..., Any], datasets_read: set[int], caplog: pytest.LogCaptureFixture
) -> None:
    config, train, valid, test = prepare("TIGER", **ASKED, state="INFO", metrics=["Recall", "NDCG"])
    datasets_read.clear()
    trainer = make_trainer(config, train)
    with caplog.at_level("INFO"):
        score, result = trainer.fit(train, valid)
    assert id(valid._dataset) in datasets_read
    assert id(test._dataset) not in datasets_read
    trainer.evaluate(test)
    assert id(test._dataset) in datasets_read

    # What was measured for the choice is what the evaluator measures, and no lower than without the memory.
    of_choice = next(text for text in caplog.messages if text.startswith("Decided after training"))
    assert f"ndcg@10 {score:.4f}" in of_choice
    assert "memory_hops=" in of_choice
    validated = [text for text in caplog.messages if text.startswith("Validation ")]
    assert [text.partition(":")[0] for text in validated] == ["Validation before", "Validation after"]
    assert f"ndcg@10 {result['ndcg@10']:.4f}" in validated[1]
    assert score == pytest.approx(trainer.evaluate(valid, load_best_model=False)["ndcg@10"])
    trainer.model.memory = None
    assert trainer.evaluate(valid, load_best_model=False)["ndcg@10"] < score


def test_the_choice_is_the_best_of_its_neighbours(fitted: Callable[..., Any]) -> None:
    trainer, train, valid, _ = fitted("TIGER", **ASKED)
    model = trainer.model
    chosen = model.memory.numbers
    best = trainer.evaluate(valid, load_best_model=False)["ndcg@10"]
    for changes in ({"pseudo_counts": 100.0}, {"pseudo_counts": 1.0}, {"window": 1, "window_decay": 0.3}, {"hops": 1}):
        model.memory.learn(*train._dataset.training_sequences(), chosen._replace(**changes))
        assert trainer.evaluate(valid, load_best_model=False)["ndcg@10"] <= best + 1e-9
    model.memory.learn(*train._dataset.training_sequences(), chosen)
    for sharpness in (0.0, 0.25, 0.5, 1.0, 2.0):
        model.sharpness.fill_(sharpness)
        assert trainer.evaluate(valid, load_best_model=False)["ndcg@10"] <= best + 1e-9


def test_few_instances_may_decide(fitted: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    ranks = remembering._Choice._ranks

    def counted(choice: Any, blend: Any) -> torch.Tensor:
        found = ranks(choice, blend)
        seen.append(len(found))
        return found

    monkeypatch.setattr(remembering._Choice, "_ranks", counted)
    monkeypatch.setattr(remembering, "_MOST_INSTANCES", 7)
    monkeypatch.setattr(remembering, "_TOGETHER", 3)
    trainer, *_ = fitted("TIGER", **ASKED)
    assert set(seen) == {7}
    assert trainer.model.memory.counts.numel()


def test_what_the_user_sets_is_kept(fitted: Callable[..., Any]) -> None:
    trainer, *_ = fitted("TIGER", **ASKED, memory_hops=4, memory_window_decay=0.7, memory_sharpness=0.125)
    chosen = trainer.model.chosen
    assert (chosen["memory_hops"], chosen["memory_window_decay"], chosen["memory_sharpness"]) == (4, 0.7, 0.125)
    everything, *_ = fitted("TIGER", **SET)
    assert everything.model.chosen == {**NUMBERS, "memory_sharpness": 0.5}


def test_what_is_held_out_changes_nothing(tmp_path: Path, prepare: Callable[..., Any]) -> None:
    sequences = random_sequences()
    shuffled = np.random.default_rng(1).permutation(len(sequences))
    ends = [sequences[user][-2:] for user in shuffled]  # the same items overall, for other users
    changed = [items[:-2] + end for items, end in zip(sequences, ends, strict=True)]
    write_dataset(tmp_path / "changed", changed)
    tables = []
    for path in (tmp_path / "data", tmp_path / "changed"):
        config, train, valid, _ = prepare("TIGER", **SET, data_path=str(path), epochs=1)
        trainer = make_trainer(config, train)
        trainer.fit(train, valid, saved=False, verbose=False)
        order = np.argsort(train._dataset.item_tokens()) + 1  # numbers follow the file, which changed
        tables.append(trainer.model.memory.table.counts.toarray()[np.ix_(order, order)])
    assert tables[0].sum() > 0
    np.testing.assert_array_equal(*tables)


def test_test_items_change_no_choice(tmp_path: Path, prepare: Callable[..., Any]) -> None:
    sequences = random_sequences()
    # The first user has all items, in whose order they are numbered.
    ends = np.random.default_rng(1).permutation([items[-1] for items in sequences[1:]]).tolist()
    changed = [sequences[0], *([*items[:-1], end] for items, end in zip(sequences[1:], ends, strict=True))]
    assert changed != sequences
    write_dataset(tmp_path / "changed", changed)
    chosen = []
    for path in (tmp_path / "data", tmp_path / "changed"):
        config, train, valid, _ = prepare("TIGER", **ASKED, data_path=str(path))
        trainer = make_trainer(config, train)
        score, _ = trainer.fit(train, valid, saved=False, verbose=False)
        chosen.append((trainer.model.chosen, score))
    assert chosen[0] == chosen[1]


@pytest.mark.parametrize("name", MODELS)
def test_saved_and_loaded_give_equal_scores(configure: Callable[..., Config], name: str) -> None:
    run = run_model(configure(name, **ASKED))
    file = run.trainer.saved_model_file
    config, model, _, _, _, test = load_data_and_model(file)
    expected, interaction = run.trainer.model.eval(), first_batch(test)
    assert load_checkpoint(file)["chosen"] == model.chosen == expected.chosen
    assert torch.equal(model.full_sort_predict(interaction), expected.full_sort_predict(interaction))
    assert torch.equal(model.predict(interaction), expected.predict(interaction))
    for mine, theirs in zip(model.retrieve(interaction), expected.retrieve(interaction), strict=True):
        assert torch.equal(mine, theirs)
    trainer = get_trainer(config)(config, model)
    assert trainer.evaluate(test, model_file=file) == run.test_result
    assert not Path(file).with_suffix(".last.pth").exists()


def test_what_was_decided_is_not_overridden_where_it_is_loaded(configure: Callable[..., Config]) -> None:
    file = run_model(configure("SIDMLPHybrid", **SET, item_share=0.3, epochs=1)).trainer.saved_model_file
    same = {**SET, "item_share": 0.3, "memory_pseudo_counts": None}
    assert load_data_and_model(file, same)[1].chosen["memory_hops"] == 2
    for key, value, held in (
        ("memory", "none", "transitions"),
        ("memory_sharpness", 0.0, "0.5"),
        ("memory_hops", 3, "2"),
        ("item_share", 0.5, "0.3"),
    ):
        with pytest.raises(InputError, match=f"{key}={value} cannot be given to .*, which holds {key}={held} as"):
            load_data_and_model(file, {key: value})


@pytest.mark.parametrize("name", ["TIGER", "SIDMLP"])
def test_a_run_with_a_memory_takes_up_the_training_without(
    configure: Callable[..., Config], monkeypatch: pytest.MonkeyPatch, trainings: list[str], name: str
) -> None:
    plain = run_model(configure(name))
    afresh = run_model(configure(name, **ASKED)).trainer
    Path(afresh.saved_model_file).unlink()
    trainings.clear()
    taken_up = run_model(configure(name, **ASKED, resume=True))
    assert trainings == []
    assert taken_up.trainer.saved_model_file == afresh.saved_model_file != plain.trainer.saved_model_file
    assert taken_up.best_valid_score == afresh.best_valid_score > plain.best_valid_score
    assert taken_up.trainer.model.chosen == afresh.model.chosen
    assert taken_up.train_s >= plain.train_s
    monkeypatch.setattr(Memory, "learn", None)  # and what was chosen is there too
    again = run_model(configure(name, **ASKED, resume=True))
    assert again.test_result == taken_up.test_result
    assert run_model(configure(name, resume=True)).test_result == plain.test_result
    assert trainings == []


@pytest.mark.parametrize("changes", [{"item_share": 0.2}, {**ASKED, "item_share": 0.2}, ASKED])
def test_shares_of_heads_are_decided_without_training_again(
    configure: Callable[..., Config], changes: dict[str, Any]
) -> None:
    plain = run_model(configure("SIDMLPHybrid")).trainer.model
    taken_up = run_model(configure("SIDMLPHybrid", **changes, resume=True)).trainer
    assert taken_up.train_loss_dict == {}
    afresh = run_model(configure("SIDMLPHybrid", **changes)).trainer.model
    assert taken_up.model.chosen == afresh.chosen
    if "item_share" in changes:
        assert taken_up.model.chosen["item_share"] == pytest.approx(0.2)
    ours = taken_up.model.state_dict()
    for name, value in afresh.state_dict().items():
        assert torch.equal(ours[name], value), name
        if name in plain.state_dict() and name != "shares":
            assert torch.equal(plain.state_dict()[name], value), name


def test_an_unfinished_training_is_not_taken_up(configure: Callable[..., Config]) -> None:
    config = configure("TIGER")
    train, valid, _ = data_preparation(config, create_dataset(config))
    with pytest.raises(KeyboardInterrupt):
        make_trainer(config, train).fit(train, valid, callback_fn=interrupt)
    found = run_model(configure("TIGER", **ASKED, resume=True)).trainer
    assert sorted(found.train_loss_dict) == [0, 1]


def test_a_run_interrupted_before_the_choice_goes_on_with_it(
    configure: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = run_model(configure("TIGER", **ASKED))
    Path(expected.trainer.saved_model_file).unlink()
    config = configure("TIGER", **ASKED, resume=True)
    train, valid, _ = data_preparation(config, create_dataset(config))
    with monkeypatch.context() as patch:
        patch.setattr(remembering._Choice, "value_of", interrupt)
        with pytest.raises(KeyboardInterrupt):
            make_trainer(config, train).fit(train, valid)
    resumed = run_model(configure("TIGER", **ASKED, resume=True))
    assert resumed.trainer.train_loss_dict == {}
    assert resumed.test_result == expected.test_result


def test_a_second_fit_forgets_the_first(prepare: Callable[..., Any]) -> None:
    config, train, valid, _ = prepare("TIGER", **ASKED)
    once = make_trainer(config, train)
    once.fit(train, valid, saved=False, verbose=False)
    seen = []
    validate = once.validate

    def noted(data: Any) -> Any:
        seen.append(once.model.memory.counts.numel())
        return validate(data)

    once.validate = noted
    once.fit(train, valid, saved=False, verbose=False)
    assert seen[:-1] == [0, 0]
    assert seen[-1] > 0


def test_a_student_learns_from_the_models_own_distribution(configure: Callable[..., Config]) -> None:
    teachers = [str(run_model(configure("TIGER", **each)).trainer.saved_model_file) for each in ({}, ASKED)]
    students = [run_model(configure("SIDMLP", teacher_path=path)).trainer.model.state_dict() for path in teachers]
    assert students[0].keys() == students[1].keys()
    assert all(torch.equal(value, students[1][name]) for name, value in students[0].items())
    both = run_model(configure("SIDMLP", teacher_path=teachers[1], **SET)).trainer.model
    assert both.memory is not None


def test_a_stage_that_does_not_rank_chooses_nothing(configure: Callable[..., Config]) -> None:
    run = run_model(configure("SIDMLPPlusPlus", **ASKED, distill_stages=["encoder"]))
    assert not run.trainer.model.memory.counts.numel()
    file = str(run.trainer.saved_model_file)
    later = configure("SIDMLPPlusPlus", **ASKED, distill_stages=["decoder"], student_path=file)
    later["teacher_path"] = run.config["teacher_path"]
    assert run_model(later).trainer.model.memory.counts.numel()


@pytest.mark.parametrize("first", [{}, ASKED])
def test_a_later_stage_starts_from_weights_with_and_without_a_memory(
    configure: Callable[..., Config], first: dict[str, str]
) -> None:
    run = run_model(configure("SIDMLPPlusPlus", **first, distill_stages=["encoder", "decoder"]))
    for memory in ({}, ASKED):
        changes = {"student_path": str(run.trainer.saved_model_file), "teacher_path": run.config["teacher_path"]}
        found = run_model(configure("SIDMLPPlusPlus", **memory, **changes, distill_stages=["joint"])).trainer.model
        assert (found.memory is not None) == bool(memory)


def test_every_metric_can_be_measured(configure: Callable[..., Config]) -> None:
    metrics = ["Recall", "NDCG", "MRR", "ItemCoverage", "GAUC"]
    by_lists = run_model(configure("TIGER", **SET, decoding="exact")).test_result
    by_scores = run_model(configure("TIGER", **SET, metrics=metrics)).test_result
    for name, value in by_lists.items():
        assert by_scores[name] == pytest.approx(value, abs=1e-6)


def test_it_is_evaluated_on_samples(configure: Callable[..., Config]) -> None:
    mode = {"valid": "full", "test": "uni10"}
    sampled = {"eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "group_by": "user", "mode": mode}}
    assert run_model(configure("TIGER", **ASKED, **sampled)).test_result["recall@5"] > 0


def test_without_validation_all_numbers_must_be_set(
    configure: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    split = {"eval_args": {"split": {"LS": "test_only"}, "order": "TO", "mode": "full"}}
    assert run_model(configure("TIGER", **SET, **split)).test_result["recall@10"] > 0
    monkeypatch.setattr(SIDTrainer, "_run_epoch", None)  # it is said before anything is trained
    with pytest.raises(InputError, match="TIGER has numbers that are chosen on validation: set eval_args"):
        run_model(configure("TIGER", **{**SET, "memory_hops": None}, **split))
    with pytest.raises(InputError, match=r"or set all of memory_hops\.$"):
        run_model(configure("SIDMLPHybrid", **{**SET, "memory_hops": None, "item_share": 0.5}, **split))
    with pytest.raises(InputError, match=r"or set all of item_share\.$"):
        run_model(configure("SIDMLPHybrid", **split))
    with pytest.raises(InputError, match="TIGER is tuned on Recall or NDCG, not on valid_metric=MRR@10"):
        run_model(configure("TIGER", **ASKED, metrics=["MRR", "NDCG"], valid_metric="MRR@10"))
    sampled = {"split": {"LS": "valid_and_test"}, "order": "TO", "mode": "uni10"}
    with pytest.raises(InputError, match="TIGER is tuned by ranking all items: set eval_args"):
        run_model(configure("TIGER", **ASKED, eval_args=sampled))


@pytest.mark.parametrize("memory", ["none", "transitions"])
def test_keys_without_use_are_said(
    configure: Callable[..., Config], caplog: pytest.LogCaptureFixture, memory: str
) -> None:
    config = configure("TIGER", epochs=1, memory=memory, memory_hops=2, memory_sharpness=0.0)
    run_model(config)
    said = "Without memory=transitions there is no use for memory_hops, memory_sharpness."
    assert (said in caplog.messages) == (memory == "none")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("memory", "table", "memory='table' must be one of none, transitions"),
        ("memory", None, "memory=None must be text"),
        ("memory_hops", 0, "memory_hops=0 must be a whole number of at least 1"),
        ("memory_hops", 2.5, "memory_hops=2.5 must be a whole number"),
        ("memory_hop_decay", 1.5, "memory_hop_decay=1.5 must be a number of at least 0 and at most 1"),
        ("memory_window", "all", "memory_window='all' must be a whole number"),
        ("memory_window", 1 << 40, "memory_window=1099511627776 must be a whole number"),
        ("memory_window_decay", float("nan"), "memory_window_decay=nan must be a number"),
        ("memory_pseudo_counts", 0, "memory_pseudo_counts=0 must be a number of at least 0.001"),
        ("memory_pseudo_counts", float("inf"), "memory_pseudo_counts=inf must be a number"),
        ("memory_text_weight", -1, "memory_text_weight=-1 must be a number of at least 0"),
        ("memory_text_weight", float("nan"), "memory_text_weight=nan must be a number"),
        ("memory_row_limit", 0, "memory_row_limit=0 must be a whole number of at least 1"),
        ("memory_sharpness", -1, "memory_sharpness=-1 must be a number of at least 0"),
        ("memory_sharpness", float("inf"), "memory_sharpness=inf must be a number"),
        ("memory_sharpness", float("nan"), "memory_sharpness=nan must be a number"),
    ],
)
def test_wrong_values_are_refused(configure: Callable[..., Config], key: str, value: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        configure("TIGER", **{**ASKED, key: value})


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("memory.successors", 1 << 20, "it names items that are not in the catalogue"),
        ("memory.settings", 0.0, "hops=0.0 is no whole number"),
        ("sharpness", float("inf"), "sharpness is not a number of at least 0"),
        ("sharpness", -1.0, "sharpness is not a number of at least 0"),
        ("sharpness", float("nan"), "sharpness"),
    ],
)
def test_a_damaged_memory_is_refused(
    configure: Callable[..., Config], tmp_path: Path, name: str, value: float, message: str
) -> None:
    content = load_checkpoint(run_model(configure("TIGER", **SET, epochs=1)).trainer.saved_model_file)
    content["state_dict"][name].view(-1)[0] = value
    save_checkpoint(tmp_path / "damaged.pth", content)
    with pytest.raises(InputError, match=message):
        load_data_and_model(tmp_path / "damaged.pth")


def test_items_that_share_a_semantic_id_have_masses_of_their_own(configure: Callable[..., Config]) -> None:
    run = run_recbole_sid(config_dict={**configure("TIGER", **SET, collision="keep").plain()})
    _, model, *_, test = load_data_and_model(run["model_file"])
    assert model.trie.n_nodes(model.trie.n_levels) < model.n_items - 1
    interaction = first_batch(test)
    every = model.full_sort_predict(interaction).view(len(interaction), -1)
    rows, items, scores = model.retrieve(interaction)
    torch.testing.assert_close(scores, every[rows, items], rtol=1e-4, atol=1e-4)
    assert (torch.bincount(rows) == model.beam_size).all()
