"""The students compute what sections 3 and 4 of the description say, written out token by token in numpy."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.testing import assert_close

from recbole_sid.config import Config
from recbole_sid.data import create_dataset, data_preparation
from recbole_sid.errors import InputError
from recbole_sid.fast.prepared import Prepared
from recbole_sid.model.batches import length_groups
from recbole_sid.model.teacher import build_teacher
from recbole_sid.nn.token_encoder import MLPEncoder
from recbole_sid.registry import get_model

# Widths that differ from each other, so that none can stand for another.
WIDTHS = {"attention_heads": 3, "attention_dim": 12, "ffn_size": 20, "head_hidden": 9, "n_user_tokens": 3}
STAGES = [("SIDMLP", "decoder"), *(("SIDMLPPlusPlus", stage) for stage in ("encoder", "decoder", "joint"))]


@pytest.fixture
def student(prepare: Callable[..., Any]) -> Callable[..., tuple[Any, Any, Any]]:
    """Return ``student(name, **changes) -> model, its frozen teacher, mixed training rows``; random weights.

    The encoder of SIDMLP is the teacher's, as always.
    """

    def make(name: str, **changes: Any) -> tuple[Any, Any, Any]:
        config, train, _, _ = prepare(name, **WIDTHS, **changes)
        torch.manual_seed(1)
        dataset = train._dataset
        model, teacher = get_model(name)(config, dataset), build_teacher(config, dataset)
        with torch.no_grad():
            for module in (model, teacher):
                for parameter in module.parameters():
                    parameter.normal_(1.0 if parameter.dim() == 1 else 0.0, 0.3)
        if name == "SIDMLP":
            model.history_encoder.load_state_dict(teacher.history_encoder.state_dict())
        rows = dataset[torch.randperm(len(dataset))[:12]]
        assert len(set(rows["item_length"].tolist())) > 3
        object.__setattr__(model, "teacher", teacher)  # as a teacher_path would
        return model.eval(), teacher, rows

    return make


def serialised(model: Any, rows: Any) -> list[list[int]]:
    """Return the token ids of each row's history, without padding."""
    sizes, table = model.semantic_ids.codebook_sizes, model.item_codes.tolist()
    user_offset = 1 + sum(sizes)
    sequences = []
    for user, length, items in zip(
        rows["user_id"].tolist(), rows["item_length"].tolist(), rows["item_id_list"].tolist(), strict=True
    ):
        tokens = [user_offset + user % 3]
        for item in items[:length]:
            tokens += [1 + sum(sizes[:level]) + code for level, code in enumerate(table[item])]
        sequences.append([*tokens, user_offset + 3])
    return sequences


def array(x: torch.Tensor) -> np.ndarray:
    return x.detach().numpy().astype(np.float64)


def linear(layer: Any, x: np.ndarray) -> np.ndarray:
    return array(layer.weight) @ x + (0 if layer.bias is None else array(layer.bias))


def layer_norm(layer: Any, x: np.ndarray) -> np.ndarray:
    variance = ((x - x.mean()) ** 2).mean()
    return (x - x.mean()) / math.sqrt(variance + 1e-5) * array(layer.weight) + array(layer.bias)


def gelu(x: np.ndarray) -> np.ndarray:
    return np.array([value * 0.5 * (1 + math.erf(value / math.sqrt(2))) for value in x])


def softmax(x: np.ndarray) -> np.ndarray:
    return np.exp(x - x.max()) / np.exp(x - x.max()).sum()


def context_of(decoder: Any, states: list[np.ndarray], n_heads: int) -> np.ndarray:
    """Section 3: the contexts z [Q, d] of one history, from the states of its tokens; in the paper Q = 1."""
    readout = decoder.readout
    mean = sum(states) / len(states)
    queries = linear(readout.query, np.concatenate([mean, states[-1]]) if readout.reads_last else mean)
    return np.stack([attended(readout, query, states, n_heads) for query in queries.reshape(-1, len(mean))])


def attended(readout: Any, query: np.ndarray, states: list[np.ndarray], n_heads: int) -> np.ndarray:
    """Section 3: the context [d] of one query."""
    q = linear(readout.q_proj, query)
    keys = [linear(readout.k_proj, state) for state in states]
    values = [linear(readout.v_proj, state) for state in states]
    width = len(q) // n_heads
    heads = np.zeros(len(q))
    for head in range(n_heads):
        part = slice(head * width, (head + 1) * width)
        weights = softmax(np.array([q[part] @ key[part] / math.sqrt(width) for key in keys]))
        for weight, value in zip(weights, values, strict=True):
            heads[part] += weight * value[part]
    x = layer_norm(readout.norm1, query + linear(readout.out_proj, heads))
    hidden = np.maximum(linear(readout.ffn[0], x), 0)
    return layer_norm(readout.norm2, x + linear(readout.ffn[3], hidden))


def logits_of(decoder: Any, context: np.ndarray, prefix: list[np.ndarray], n_hidden: int = 1) -> list[np.ndarray]:
    """Section 3: the logits of every level given the embedded true codes, for contexts [Q, d]."""
    found = []
    for level, head in enumerate(decoder.heads):
        x = np.concatenate([context[min(level, len(context) - 1)], *prefix[:level]])
        for layer in range(n_hidden):
            x = gelu(layer_norm(head[4 * layer + 1], linear(head[4 * layer], x)))
        found.append(linear(head[-1], x))
    return found


def states_of(
    encoder: Any, tokens: list[int], n_levels: int, from_end: bool = False, weighted: bool = False
) -> list[np.ndarray]:
    """Section 4: the MLP encoder's states of one history; beyond it, positions from the end and a weighted mean."""
    table, positions = array(encoder.embedding.weight), array(encoder.position.weight)
    place_of = [len(tokens) - 1 - place if from_end else place for place in range(len(tokens))]
    x = [table[token] + positions[place] for token, place in zip(tokens, place_of, strict=True)]
    last = len(tokens) - 1
    roles = [n_levels - 1 if place in (0, last) else (place - 1) % n_levels for place in range(len(tokens))]
    for number, layer in enumerate(encoder.layers):
        weights = [np.ones(len(x[0])) for _ in x]
        if weighted:
            log_weight = array(encoder.means[number].log_weight)
            weights = [np.exp(10 * log_weight[place]) for place in place_of]
        mean = sum(weight * state for weight, state in zip(weights, x, strict=True)) / sum(weights)
        updated = []
        for state, role in zip(x, roles, strict=True):
            mlp = layer[role]
            hidden = gelu(layer_norm(mlp[1], linear(mlp[0], np.concatenate([state, mean]))))
            updated.append(state + linear(mlp[4], hidden))
        x = updated
    return [layer_norm(encoder.norm, state) for state in x]


def prefixes(model: Any, rows: Any) -> list[list[np.ndarray]]:
    """Return the embedded codes of each row's target, all levels but the last."""
    sizes, table = model.semantic_ids.codebook_sizes, array(model.token_embedding.weight)
    codes = model.item_codes[rows["item_id"]].tolist()
    return [[table[1 + sum(sizes[:level]) + code] for level, code in enumerate(row[:-1])] for row in codes]


def frozen_states(encoder: nn.Module, tokens: list[int]) -> list[np.ndarray]:
    row = torch.tensor([tokens])
    return list(array(encoder(row, row != 0))[0])


def own_states(model: Any, tokens: list[int]) -> list[np.ndarray]:
    """Return a row's states: the frozen T5's for SIDMLP, the MLP encoder's for SIDMLPPlusPlus."""
    if type(model).__name__ == "SIDMLP":
        return frozen_states(model.history_encoder, tokens)
    return states_of(model.history_encoder, tokens, model.vocabulary.n_levels)


def close(found: torch.Tensor, expected: Any) -> None:
    assert_close(found.double(), torch.as_tensor(np.asarray(expected)), atol=1e-5, rtol=1e-5)


def test_histories_are_serialised_as_described(student: Callable[..., Any]) -> None:
    model, _, rows = student("SIDMLP")
    expected = serialised(model, rows)
    found = model.history_tokens(rows)
    assert found.shape[1] == max(map(len, expected))
    for row, tokens in zip(found.tolist(), expected, strict=True):
        assert row == tokens + [0] * (len(row) - len(tokens))


QUERIES = [
    {},
    {"query_per_level": True},
    {"query_from_last": True},
    {"query_per_level": True, "query_from_last": True},
]


@pytest.mark.parametrize("queries", QUERIES)
@pytest.mark.parametrize("name", ["SIDMLP", "SIDMLPPlusPlus"])
def test_context(student: Callable[..., Any], name: str, queries: dict[str, bool]) -> None:
    model, _, rows = student(name, **queries)
    expected = [context_of(model.decoder, own_states(model, tokens), 3) for tokens in serialised(model, rows)]
    close(model.context(model.encode(model.history_tokens(rows))), expected)
    with torch.no_grad():  # without padding
        close(model.context(model.encode(model.history_tokens(rows))), expected)


@pytest.mark.parametrize("queries", QUERIES)
@pytest.mark.parametrize("n_hidden", [1, 2])
def test_level_logits(student: Callable[..., Any], n_hidden: int, queries: dict[str, bool]) -> None:
    model, _, rows = student("SIDMLP", head_layers=n_hidden, **queries)
    found = model.target_logits(model.history_tokens(rows), model.target_codes(rows))
    for row, (tokens, prefix) in enumerate(zip(serialised(model, rows), prefixes(model, rows), strict=True)):
        context = context_of(model.decoder, own_states(model, tokens), 3)
        expected = logits_of(model.decoder, context, prefix, n_hidden)
        assert [len(level) for level in expected] == list(model.semantic_ids.codebook_sizes)
        for level, logits in enumerate(expected):
            close(found[level][row], logits)


@pytest.mark.parametrize("n_layers", [1, 3])
def test_mlp_encoder_states(student: Callable[..., Any], n_layers: int) -> None:
    model, _, rows = student("SIDMLPPlusPlus", encoder_layers=n_layers)
    tokens = model.history_tokens(rows)
    states = model.history_encoder(tokens, tokens != 0)
    for row, sequence in enumerate(serialised(model, rows)):
        close(states[row, : len(sequence)], states_of(model.history_encoder, sequence, model.vocabulary.n_levels))
        assert not states[row, len(sequence) :].any()


@pytest.mark.parametrize(("positions", "mixing"), [("start", "weighted"), ("end", "mean"), ("end", "weighted")])
def test_mlp_encoder_states_beyond_the_paper(student: Callable[..., Any], positions: str, mixing: str) -> None:
    model, _, rows = student("SIDMLPPlusPlus", encoder_positions=positions, encoder_mixing=mixing)
    tokens = model.history_tokens(rows)
    states = model.history_encoder(tokens, tokens != 0)
    for row, sequence in enumerate(serialised(model, rows)):
        expected = states_of(
            model.history_encoder, sequence, model.vocabulary.n_levels, positions == "end", mixing == "weighted"
        )
        close(states[row, : len(sequence)], expected)


def test_a_fresh_weighted_mean_is_the_mean() -> None:
    embedding, sizes = nn.Embedding(9, 6), {"n_roles": 3, "eos": 8, "n_positions": 10, "n_layers": 2, "ffn_size": 5}
    mean, weighted = (MLPEncoder(embedding, **sizes, dropout=0.0, mixing=mixing) for mixing in ("mean", "weighted"))
    weighted.load_state_dict(mean.state_dict(), strict=False)
    tokens = torch.tensor([[7, 1, 3, 5, 8], [7, 8, 0, 0, 0]])
    assert_close(weighted(tokens, tokens != 0), mean(tokens, tokens != 0))


@pytest.mark.parametrize(("alpha", "temperature"), [(0.7, 1.0), (0.3, 2.5), (1.0, 1.0), (0.0, 1.0)])
@pytest.mark.parametrize(("name", "stage"), [pair for pair in STAGES if pair[1] != "encoder"])
def test_distillation_loss(
    student: Callable[..., Any], name: str, stage: str, alpha: float, temperature: float
) -> None:
    model, teacher, rows = student(name, alpha=alpha, temperature=temperature)
    model.start_stage(stage)
    codes = model.item_codes[rows["item_id"]]
    expected = 0.0
    for row, (tokens, prefix) in enumerate(zip(serialised(model, rows), prefixes(model, rows), strict=True)):
        unpadded = torch.tensor([tokens])
        mask = unpadded != 0
        context = context_of(model.decoder, own_states(model, tokens), 3)
        taught = teacher.level_logits(teacher.history_encoder(unpadded, mask), mask, codes[row : row + 1])
        for level, logits in enumerate(logits_of(model.decoder, context, prefix)):
            p, q = softmax(array(taught[level][0]) / temperature), softmax(logits / temperature)
            divergence = sum(p[code] * math.log(p[code] / q[code]) for code in range(len(p)))
            cross_entropy = -math.log(softmax(logits)[codes[row, level]])
            expected += alpha * temperature**2 * divergence + (1 - alpha) * cross_entropy
    close(model.calculate_loss(rows), expected / len(rows))


def test_encoder_stage_loss(student: Callable[..., Any]) -> None:
    model, teacher, rows = student("SIDMLPPlusPlus")
    model.start_stage("encoder")
    errors: list[float] = []
    for tokens in serialised(model, rows):
        own = states_of(model.history_encoder, tokens, model.vocabulary.n_levels)
        for state, target in zip(own, frozen_states(teacher.history_encoder, tokens), strict=True):
            errors += list((state - target) ** 2)
    close(model.calculate_loss(rows), sum(errors) / len(errors))


def test_parameter_counts_of_the_paper(data_path: Path) -> None:
    paper = {"data_path": str(data_path), "codebook_sizes": [256] * 3, "rank_size": 256}
    config = Config("SIDMLPPlusPlus", "tiny", config_dict=paper)
    train, _, _ = data_preparation(config, create_dataset(config))
    model = get_model("SIDMLPPlusPlus")(config, train._dataset)
    trainable = {}
    for stage in model.stages:
        model.start_stage(stage)
        trainable[stage] = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    assert trainable == {"encoder": 12_716_288, "decoder": 1_663_744, "joint": 12_716_288 + 1_663_744}

    config = Config("SIDMLP", "tiny", config_dict=paper)
    model = get_model("SIDMLP")(config, train._dataset)
    assert sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad) == 1_663_744
    teacher = build_teacher(config, train._dataset)
    n_teacher = sum(parameter.numel() for parameter in teacher.parameters())
    assert round(n_teacher / 1e6, 1) == 4.6


ENCODER = tuple(f"history_encoder.{part}." for part in ("position", "layers", "means", "norm"))
TRAINED = {"encoder": ENCODER, "decoder": ("decoder.",), "joint": (*ENCODER, "decoder.")}


@pytest.mark.parametrize("form", [{}, {"encoder_mixing": "weighted"}])
@pytest.mark.parametrize(("name", "stage"), STAGES)
def test_only_the_stages_modules_learn(
    student: Callable[..., Any], name: str, stage: str, form: dict[str, str]
) -> None:
    model, _, rows = student(name, **(form if name == "SIDMLPPlusPlus" else {}))
    model.start_stage(stage)
    model.train()
    model.calculate_loss(rows).backward()
    for module_name, module in model.named_modules(remove_duplicate=False):
        if module_name and not list(module.children()) and not isinstance(module, Prepared):  # the layers themselves
            assert module.training == f"{module_name}.".startswith(TRAINED[stage]), module_name
    for parameter_name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == parameter_name.startswith(TRAINED[stage]), parameter_name
    model.eval()
    assert not any(module.training for module in model.modules())


def test_dropout_is_active_only_where_something_is_trained(student: Callable[..., Any]) -> None:
    model, _, rows = student("SIDMLP")
    tokens = model.history_tokens(rows)
    model.train()
    states = [model.history_encoder(tokens, tokens != 0) for _ in range(2)]
    assert torch.equal(*states)
    assert not torch.equal(*(model.decoder.readout(states[0], tokens != 0) for _ in range(2)))


@pytest.mark.parametrize("name", ["TIGER", "SIDMLP", "SIDMLPPlusPlus"])
@torch.no_grad()
def test_padding_does_not_change_the_ranking(prepare: Callable[..., Any], name: str) -> None:
    config, train, _, _ = prepare(name, full_sort_items=10)
    torch.manual_seed(0)
    model = get_model(name)(config, train._dataset).eval()
    rows = train._dataset[torch.arange(0, len(train._dataset), 9)]
    assert {1, 6} <= set(rows["item_length"].tolist())
    together = model.full_sort_predict(rows).view(len(rows), -1)
    assert (together > -torch.inf).sum(1).tolist() == [10] * len(rows)
    for row in range(len(rows)):
        alone = model.full_sort_predict(rows[row : row + 1])
        assert_close(together[row], alone, atol=1e-5, rtol=1e-5)


def test_length_groups_hold_every_row_once_with_less_padding() -> None:
    lengths = torch.tensor([20, 1, 3, 19, 2, 20, 1, 18, 2])
    groups = length_groups(lengths, 4)
    assert sorted(torch.cat(groups).tolist()) == list(range(9))
    assert sum(len(group) * int(lengths[group].max()) for group in groups) < 9 * 20
    assert length_groups(torch.tensor([7, 7, 7, 7]), 4) == [None]


def test_a_student_without_teacher_says_so_when_trained(student: Callable[..., Any]) -> None:
    model, _, rows = student("SIDMLP")
    object.__setattr__(model, "teacher", None)
    with pytest.raises(InputError, match="teacher_path"):
        model.calculate_loss(rows)


@pytest.mark.parametrize(("name", "stage"), STAGES)
def test_the_loss_of_a_batch_is_that_of_what_it_is_given(student: Callable[..., Any], name: str, stage: str) -> None:
    """RecBole's call of a batch alone asks the frozen models; the trainer gives what they said, or its cache did."""
    model, _, rows = student(name)
    model.start_stage(stage)
    given = model.online_supervision()(rows)
    assert_close(model(rows, given), model.calculate_loss(rows), rtol=0, atol=0)
    assert_close(model(rows), model.calculate_loss(rows), rtol=0, atol=0)
    others = {
        "states": given._replace(states=given.states + 1),
        "logits": given._replace(logits=[logits.roll(1, dims=1) for logits in given.logits]),
    }
    reads = {"encoder": {"states"}, "decoder": {"states", "logits"}, "joint": {"logits"}}[stage]
    assert {part for part, other in others.items() if model(rows, other) != model(rows, given)} == reads


@pytest.mark.parametrize(("name", "stage"), STAGES)
def test_supervision_is_of_the_frozen_models(student: Callable[..., Any], name: str, stage: str) -> None:
    model, teacher, rows = student(name)
    model.start_stage(stage)
    tokens, codes = model.history_tokens(rows), model.target_codes(rows)
    mask = tokens != 0
    states, logits = teacher.teach(tokens, codes)
    given = model.online_supervision()(rows)
    assert torch.equal(given.mask, mask)
    if stage == "joint":
        assert given.states.shape[-1] == 0
    else:
        assert_close(given.states, states if stage == "encoder" else model.history_encoder(tokens, mask))
    assert_close(given.logits, [] if stage == "encoder" else logits)
    assert not given.states.requires_grad
    assert not any(part.requires_grad for part in given.logits)
