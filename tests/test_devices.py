"""What runs on other devices than the CPU, tried on the CPU: histories cut on the host, the CPU's branches left."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from other_device import every_model
from recbole.data.interaction import Interaction
from torch.testing import assert_close

from recbole_sid.bench.plain import plain_mlp_encoder
from recbole_sid.data import create_dataset, data_preparation
from recbole_sid.data.histories import cut_histories, widen_histories
from recbole_sid.model.supervision import OnlineSupervision
from recbole_sid.nn.losses import state_error
from recbole_sid.nn.token_encoder import MLPEncoder
from recbole_sid.nn.vocabulary import PAD, TokenVocabulary
from recbole_sid.registry import get_model
from recbole_sid.trainer.distill_cache import CachedSupervision
from recbole_sid.util import hardware


@pytest.fixture
def no_cpu(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Return what makes every question for the CPU be answered no."""
    return lambda: monkeypatch.setattr(hardware, "on_cpu", lambda place: False)


def build(prepare: Callable[..., Any], name: str, **changes: Any) -> tuple[Any, Any, Any, Any]:
    changes = {"dropout_prob": 0.0, **changes}
    config, train, _, test = prepare(name, **changes)
    torch.manual_seed(0)
    return get_model(name)(config, train._dataset).eval(), train, next(iter(train)), next(iter(test))[0]


@every_model
def test_batches_are_as_wide_as_their_longest_history(
    prepare: Callable[..., Any], name: str, changes: dict[str, Any]
) -> None:
    _, train, valid, test = prepare(name, MAX_ITEM_LIST_LENGTH=40, **changes)

    def batches() -> Iterator[Any]:
        yield from train
        yield from (batch[0] for loader in (valid, test) for batch in loader)

    widths = {(rows["item_id_list"].shape[1], int(rows["item_length"].max())) for rows in batches()}
    assert all(width == longest for width, longest in widths)
    assert min(width for width, _ in widths) < 40


def test_histories_of_recbole_models_keep_their_width(prepare: Callable[..., Any]) -> None:
    train = prepare("TIGER")[1]
    rows = train._dataset[[0, 1]]
    cut = cut_histories(rows, "item_id_list", "item_length")
    assert torch.equal(widen_histories(cut, "item_id_list", 6)["item_id_list"], rows["item_id_list"])


@every_model
@pytest.mark.parametrize("decoding", ["beam", "exact", "full"])
def test_other_devices_rank_as_the_cpu(
    prepare: Callable[..., Any], no_cpu: Callable[[], None], name: str, changes: dict[str, Any], decoding: str
) -> None:
    model, _, _, rows = build(prepare, name, decoding=decoding, **changes)
    expected = model.full_sort_predict(rows), model.retrieve(rows)
    no_cpu()
    found = model.full_sort_predict(rows), model.retrieve(rows)
    assert_close(found[0], expected[0], atol=1e-4, rtol=1e-4)
    n_items = model.n_items
    tables = []
    for row, item, score in (expected[1], found[1]):
        table = torch.full((len(rows), n_items), -100.0)
        there = score > -torch.inf  # elsewhere than on the CPU places that hold no item are listed too
        table[row[there], item[there]] = score[there]
        tables.append(table)
    assert_close(tables[1], tables[0], atol=1e-4, rtol=1e-4)


@every_model
def test_other_devices_have_the_cpus_losses(
    prepare: Callable[..., Any], no_cpu: Callable[[], None], name: str, changes: dict[str, Any]
) -> None:
    model, _, batch, _ = build(prepare, name, **changes)
    stages = getattr(model, "stages", (None,))
    if stages != (None,):
        settings = prepare("TIGER")
        teacher = get_model("TIGER")(settings[0], settings[1]._dataset).eval()
        object.__setattr__(model, "teacher", teacher)  # as a teacher_path would

    def losses() -> list[torch.Tensor]:
        found = []
        for stage in stages:
            if stage is not None:
                model.start_stage(stage)
            found.append(model.calculate_loss(batch))
        return found

    expected = losses()
    no_cpu()
    assert_close(losses(), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("mixing", ["mean", "weighted"])
@pytest.mark.parametrize("positions", ["start", "end"])
@pytest.mark.parametrize(("n_levels", "items"), [(3, [1, 4, 2, 4]), (1, [3, 1]), (4, [2]), (2, [5, 5])])
def test_tokens_are_encoded_alike_with_and_without_padding(
    no_cpu: Callable[[], None], n_levels: int, items: list[int], positions: str, mixing: str
) -> None:
    """Over lengths, users and codes: states and gradients; both as a literal form that runs all MLPs on all tokens."""
    torch.manual_seed(3)
    vocabulary = TokenVocabulary([5] * n_levels, 7)
    embedding = torch.nn.Embedding(vocabulary.size, 6)
    encoder = MLPEncoder(
        embedding, n_levels, vocabulary.eos, 2 + 5 * n_levels, 2, 8, 0.0, positions=positions, mixing=mixing
    )
    for parameter in encoder.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    codes = torch.stack([vocabulary.code_tokens(torch.randint(5, (n, n_levels))) for n in [max(items)] * len(items)])
    lengths = torch.tensor(items)
    codes = codes.masked_fill((torch.arange(max(items)) >= lengths.unsqueeze(1)).unsqueeze(-1), PAD)
    tokens = vocabulary.serialise(codes, lengths, torch.arange(1, 1 + len(items)))
    mask = tokens != PAD
    direction = torch.randn(*tokens.shape, 6)

    def found(encode: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> list[torch.Tensor]:
        states = encode(tokens, mask)
        return [states, *torch.autograd.grad((states * direction).sum(), list(encoder.parameters()))]

    packed = found(encoder)
    assert_close(packed, found(lambda *given: plain_mlp_encoder(encoder, *given)), atol=1e-5, rtol=1e-5)
    no_cpu()
    assert_close(found(encoder), packed, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("cut", [True, False])
def test_cached_states_are_as_wide_as_the_batch(prepare: Callable[..., Any], cut: bool) -> None:
    """Also where a batch was not cut to its longest history."""
    config, train, _, _ = prepare("SIDMLP")
    model = get_model("SIDMLP")(config, train._dataset).eval()
    online = OnlineSupervision(model, model.history_encoder, None)
    cached = CachedSupervision(online, train, torch.device("cpu"), None, False)
    short = (train._dataset.inter_feat["item_length"] <= 3).nonzero().squeeze(1)[:5]
    rows = train._dataset[short]
    if cut:
        rows = cut_histories(rows, "item_id_list", "item_length")
    tokens = model.history_tokens(rows)
    given, expected = cached(rows), online(rows)
    assert given.mask.shape == tokens.shape
    assert torch.equal(given.mask, tokens != PAD)
    assert_close(given.states, expected.states.masked_fill(~expected.mask.unsqueeze(-1), 0), atol=1e-2, rtol=1e-2)


def test_the_error_of_states_counts_tokens_only(no_cpu: Callable[[], None]) -> None:
    torch.manual_seed(0)
    states, target, mask = torch.randn(4, 5, 3), torch.randn(4, 5, 3), torch.rand(4, 5) > 0.5
    expected = (states - target)[mask].square().mean()
    no_cpu()
    assert_close(state_error(states, target, mask), expected)


@pytest.mark.parametrize("cpu", [True, False])
@every_model
def test_unknown_items_are_left_out_and_no_history_is_ranked(
    prepare: Callable[..., Any], no_cpu: Callable[[], None], name: str, changes: dict[str, Any], cpu: bool
) -> None:
    model, _, _, _ = build(prepare, name, **changes)
    if not cpu:
        no_cpu()
    known = Interaction({"item_id_list": torch.tensor([[3, 5, 0, 0]]), "item_length": torch.tensor([2])})
    holes = Interaction({"item_id_list": torch.tensor([[3, 0, 5, 0]]), "item_length": torch.tensor([4])})
    unknown = Interaction({"item_id_list": torch.tensor([[0, 0, 0, 0]]), "item_length": torch.tensor([3])})
    empty = Interaction({"item_id_list": torch.tensor([[0, 0, 0, 0]]), "item_length": torch.tensor([0])})
    assert_close(model.full_sort_predict(holes), model.full_sort_predict(known), atol=1e-5, rtol=1e-5)
    assert_close(model.full_sort_predict(unknown), model.full_sort_predict(empty), atol=1e-5, rtol=1e-5)
    assert model.full_sort_predict(empty).isfinite().any()
    assert len(model.retrieve(empty)[1])


@pytest.mark.parametrize("sid_model", ["TIGER", "SIDMLP"])
@pytest.mark.parametrize("candidates", ["lists", "scores"])
@pytest.mark.parametrize("fusion", ["adaptive", "fixed"])
def test_an_ensemble_ranks_on_other_devices_as_on_the_cpu(
    ensemble: Callable[..., Any], sid_model: str, candidates: str, fusion: str
) -> None:
    config = ensemble(sid_model, candidates=candidates, fusion=fusion)
    train, _, test = data_preparation(config, create_dataset(config))
    model = get_model("AdaptiveEnsemble")(config, train._dataset).eval()
    rows = next(iter(test))[0]

    def ranked() -> list[torch.Tensor]:
        table = torch.full((len(rows), model.n_items), -100.0)
        row, item, score = model.retrieve(rows)
        table[row, item] = score
        return [table, model.full_sort_predict(rows), model.predict(rows)]

    for values in model.grid[:: max(1, len(model.grid) // 3)]:
        model.choose(values)
        with pytest.MonkeyPatch.context() as patch:
            expected = ranked()
            patch.setattr(hardware, "on_cpu", lambda place: False)
            found = ranked()
        assert_close(found, expected, atol=1e-4, rtol=1e-4)
