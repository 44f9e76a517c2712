"""Others' checkpoints as ours: logits equal those of transformers and of a literal transcription in numpy."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import erf
from transformers import T5Config, T5ForConditionalGeneration

from recbole_sid.checkpoint import load_checkpoint, save_checkpoint
from recbole_sid.cli import main
from recbole_sid.data import SemanticIDs
from recbole_sid.errors import InputError
from recbole_sid.interop.import_weights import import_checkpoint
from recbole_sid.interop.weights import TokenLayout, read_weights
from recbole_sid.quick_start import load_data_and_model
from recbole_sid.registry import get_trainer

K, LEVELS, D = 4, 3, 16  # codes per level of the foreign models; the rank counts from 1, so code 0 is never used
USER, EOS = 1 + K * LEVELS, 2 + K * LEVELS
POSITIONS, HEADS = 32, 2
# Raw codes of the tiny dataset's items, as the authors' file has them.
SEM_IDS = {f"i{item}": [item % 15 % K, item % 15 // K, 1 + item // 15] for item in range(30)}
CONFIG = {"use_gpu": False, "state": "WARNING", "MAX_ITEM_LIST_LENGTH": 6, "beam_size": 10, "show_progress": False}


@pytest.fixture
def settings(data_path: Path) -> dict[str, Any]:
    Path("x.sem_ids").write_text(json.dumps(SEM_IDS), encoding="utf-8")
    return {**CONFIG, "data_path": str(data_path), "semantic_ids_path": "x.sem_ids"}


@pytest.fixture
def t5() -> T5ForConditionalGeneration:
    sizes = {"d_model": D, "d_kv": 6, "d_ff": 20, "num_heads": 3, "num_layers": 1, "num_decoder_layers": 2}
    torch.manual_seed(0)
    config = T5Config(vocab_size=EOS + 1, decoder_start_token_id=0, pad_token_id=0, eos_token_id=EOS, **sizes)
    return T5ForConditionalGeneration(config).eval()


@pytest.fixture
def teacher(t5: T5ForConditionalGeneration, settings: dict[str, Any]) -> str:
    torch.save({f"t5.{name}": value for name, value in t5.state_dict().items()}, "t5.pt")
    return str(import_checkpoint("t5.pt", "TIGER", "tiny", settings=settings))


def foreign_tokens(codes: list[int]) -> list[int]:
    return [1 + code + K * level for level, code in enumerate(codes)]


def histories(model: Any, dataset: Any, test_data: Any) -> tuple[Any, list[list[int]], list[list[int]]]:
    """Return a batch, its histories in foreign tokens (user, items, eos), and its targets' tokens."""
    batch = next(iter(test_data))[0]
    tokens, targets = [], []
    for items, length in zip(batch["item_id_list"], batch["item_length"], strict=True):
        names = dataset.id2token("item_id", items[:length])
        tokens.append([USER, *(token for name in names for token in foreign_tokens(SEM_IDS[name])), EOS])
    for item in batch["item_id"]:
        targets.append(foreign_tokens(SEM_IDS[dataset.id2token("item_id", int(item))]))
    return batch, tokens, targets


def used_codes(logits: np.ndarray, level: int) -> np.ndarray:
    """Return logits [..., K] without the code that a rank counted from 1 never takes."""
    return logits[..., 1:] if level == LEVELS - 1 else logits


@torch.no_grad()
def test_tiger_gives_the_logits_of_transformers(t5: T5ForConditionalGeneration, teacher: str) -> None:
    config, model, dataset, _, _, test_data = load_data_and_model(teacher)
    assert model.vocabulary.codebook_sizes == (K, K, K - 1)
    batch, tokens, targets = histories(model, dataset, test_data)
    found = model.target_logits(model.history_tokens(batch), model.target_codes(batch))
    for row, (history, target) in enumerate(zip(tokens, targets, strict=True)):
        inputs = {"input_ids": torch.tensor([history]), "decoder_input_ids": torch.tensor([[0, *target[:-1]]])}
        logits = t5(**inputs).logits[0]
        for level in range(LEVELS):
            wanted = logits[level, 1 + K * level : 1 + K * (level + 1)].numpy()
            np.testing.assert_allclose(found[level][row].numpy(), used_codes(wanted, level), atol=2e-5)
    result = get_trainer(config)(config, model).evaluate(test_data, load_best_model=False)
    assert 0 <= result["recall@10"] <= 1


def test_an_imported_checkpoint_has_lineage(teacher: str, settings: dict[str, Any]) -> None:
    checkpoint = load_checkpoint(teacher, "TIGER")
    semantic_ids = SemanticIDs.load(checkpoint["config"]["semantic_ids_path"])
    assert checkpoint["lineage"]["semantic IDs"] == semantic_ids.fingerprint
    assert checkpoint["imported"]["file"] == "t5.pt"
    assert {key: checkpoint["config"][key] for key in ("d_model", "d_ff", "n_heads", "d_kv")} == {
        "d_model": D,
        "d_ff": 20,
        "n_heads": 3,
        "d_kv": 6,
    }
    assert (checkpoint["config"]["encoder_layers"], checkpoint["config"]["decoder_layers"]) == (1, 2)
    codes = dict(zip(semantic_ids.item_tokens, semantic_ids.codes.tolist(), strict=True))
    assert codes["i20"] == [5 % K, 5 // K, 1]
    SemanticIDs(semantic_ids.codes[::-1], semantic_ids.codebook_sizes, semantic_ids.item_tokens).save(
        checkpoint["config"]["semantic_ids_path"]
    )
    with pytest.raises(InputError, match="was trained with semantic IDs"):
        load_data_and_model(teacher)


# The students, literally: section by section of arXiv 2605.12617, one user at a time.

Arrays = dict[str, np.ndarray]


def linear(weights: Arrays, name: str, x: np.ndarray) -> np.ndarray:
    return x @ weights[f"{name}.weight"].T + weights.get(f"{name}.bias", 0)


def layer_norm(weights: Arrays, name: str, x: np.ndarray) -> np.ndarray:
    mean, variance = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    return (x - mean) / np.sqrt(variance + 1e-5) * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def gelu(x: np.ndarray) -> np.ndarray:
    return x * (1 + erf(x / np.sqrt(2))) / 2


def context_of(weights: Arrays, states: np.ndarray) -> np.ndarray:
    query = linear(weights, "query_proj", states.mean(0))
    q, k, v = (
        linear(weights, f"cross_attn.{role}_proj", x) for role, x in (("q", query), ("k", states), ("v", states))
    )
    parts = []
    for part in np.split(np.arange(len(q)), HEADS):
        scores = k[:, part] @ q[part] / np.sqrt(len(part))
        share = np.exp(scores - scores.max())
        parts.append(share / share.sum() @ v[:, part])
    x = layer_norm(weights, "norm1", query + linear(weights, "cross_attn.out_proj", np.concatenate(parts)))
    return layer_norm(weights, "norm2", x + linear(weights, "ffn.3", np.maximum(linear(weights, "ffn.0", x), 0)))


def level_logits(weights: Arrays, table: np.ndarray, context: np.ndarray, target: list[int]) -> list[np.ndarray]:
    found = []
    for level in range(LEVELS):
        x = np.concatenate([context, *(table[token] for token in target[:level])])
        x = gelu(layer_norm(weights, f"head{level + 1}.1", linear(weights, f"head{level + 1}.0", x)))
        x = gelu(layer_norm(weights, f"head{level + 1}.5", linear(weights, f"head{level + 1}.4", x)))
        found.append(linear(weights, f"head{level + 1}.8", x))
    return found


def encoder_states(weights: Arrays, table: np.ndarray, tokens: list[int]) -> np.ndarray:
    x = table[tokens] + weights["pos_embed.weight"][: len(tokens)]
    roles = [LEVELS - 1, *((place - 1) % LEVELS for place in range(1, len(tokens) - 1)), LEVELS - 1]
    for layer in range(2):
        mean, change = x.mean(0), []
        for role, row in zip(roles, x, strict=True):
            name = f"layers.{layer}.{role}"
            hidden = gelu(layer_norm(weights, f"{name}.1", linear(weights, f"{name}.0", np.concatenate([row, mean]))))
            change.append(linear(weights, f"{name}.4", hidden))
        x = x + np.stack(change)
    return layer_norm(weights, "norm", x)


def random_weights(shapes: dict[str, tuple[int, ...]], seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=generator) * 0.5 for name, shape in shapes.items()}


def layer(name: str, n_in: int, n_out: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (n_out, n_in), f"{name}.bias": (n_out,)}


def norm(name: str, width: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


@pytest.fixture
def decoder() -> dict[str, torch.Tensor]:
    attention, ffn, hidden = 24, 20, 12
    shapes = {f"cross_attn.{role}_proj.weight": (attention, D) for role in "qkv"}
    shapes |= {"cross_attn.out_proj.weight": (D, attention), **layer("query_proj", D, D)}
    shapes |= {**norm("norm1", D), **norm("norm2", D), **layer("ffn.0", D, ffn), **layer("ffn.3", ffn, D)}
    for level in range(1, LEVELS + 1):
        shapes |= {**layer(f"head{level}.0", D * level, hidden), **norm(f"head{level}.1", hidden)}
        shapes |= {**layer(f"head{level}.4", hidden, hidden), **norm(f"head{level}.5", hidden)}
        shapes |= layer(f"head{level}.8", hidden, K)
    return random_weights(shapes, 1)


@pytest.fixture
def encoder() -> dict[str, torch.Tensor]:
    shapes: dict[str, tuple[int, ...]] = {"pos_embed.weight": (POSITIONS, D), **norm("norm", D)}
    for name in (f"layers.{number}.{role}" for number in range(2) for role in range(LEVELS)):
        shapes |= {**layer(f"{name}.0", 2 * D, 14), **norm(f"{name}.1", 14), **layer(f"{name}.4", 14, D)}
    return random_weights(shapes, 2)


def as_numpy(weights: dict[str, torch.Tensor]) -> Arrays:
    return {name: value.double().numpy() for name, value in weights.items()}


@torch.no_grad()
def check_student(path: Any, decoder: Arrays, table: np.ndarray, states: Callable[[list[int]], np.ndarray]) -> None:
    _, model, dataset, _, _, test_data = load_data_and_model(path)
    batch, tokens, targets = histories(model, dataset, test_data)
    found = model.target_logits(model.history_tokens(batch), model.target_codes(batch))
    for row, (history, target) in enumerate(zip(tokens, targets, strict=True)):
        wanted = level_logits(decoder, table, context_of(decoder, states(history)), target)
        for level in range(LEVELS):
            np.testing.assert_allclose(found[level][row].numpy(), used_codes(wanted[level], level), atol=1e-4)


def test_sid_mlp_gives_the_logits_of_its_description(
    t5: T5ForConditionalGeneration, teacher: str, decoder: dict[str, torch.Tensor]
) -> None:
    torch.save({"epoch": 3, "model_state_dict": decoder}, "student.pt")
    path = import_checkpoint("student.pt", "SIDMLP", settings={"teacher_path": teacher, "attention_heads": HEADS})
    table = t5.shared.weight.detach().double().numpy()
    check_student(
        path,
        as_numpy(decoder),
        table,
        lambda tokens: t5.encoder(torch.tensor([tokens])).last_hidden_state[0].double().numpy(),
    )


def test_a_student_is_not_written_where_its_teacher_was_made(
    teacher: str, decoder: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    content = load_checkpoint(teacher)
    theirs = {**content["config"], "checkpoint_dir": str(tmp_path / "theirs")}
    save_checkpoint("theirs.pth", {**content, "config": theirs})
    torch.save({"model_state_dict": decoder}, "student.pt")
    given = {"teacher_path": "theirs.pth", "attention_heads": HEADS}
    path = import_checkpoint("student.pt", "SIDMLP", settings=given)
    assert path.parent == Path("saved")
    assert not (tmp_path / "theirs").exists()
    save_checkpoint("theirs.pth", {**content, "config": {**theirs, "dataset": "ml-1m", "data_path": "nowhere"}})
    with pytest.raises(InputError, match="no dataset folder"):
        import_checkpoint("student.pt", "SIDMLP", settings=given)
    assert not Path("nowhere").exists()


@pytest.mark.parametrize("files", ["one", "two"])
def test_sid_mlp_pp_gives_the_logits_of_its_description(
    t5: T5ForConditionalGeneration,
    teacher: str,
    decoder: dict[str, torch.Tensor],
    encoder: dict[str, torch.Tensor],
    files: str,
) -> None:
    if files == "one":
        torch.save({f"model.{name}": value for name, value in {**decoder, **encoder}.items()}, "student.pt")
    else:
        torch.save(decoder, "student.pt")
        torch.save({f"encoder.{name}": value for name, value in encoder.items()}, "encoder.pt")
    path = import_checkpoint(
        "student.pt",
        "SIDMLPPlusPlus",
        settings={"teacher_path": teacher, "attention_heads": HEADS},
        encoder_file="encoder.pt" if files == "two" else None,
        output="out/student.pth",
    )
    assert path == Path("out/student.pth")
    table = t5.shared.weight.detach().double().numpy()
    check_student(path, as_numpy(decoder), table, lambda tokens: encoder_states(as_numpy(encoder), table, tokens))


def test_imported_models_recommend_through_the_command_line(
    t5: T5ForConditionalGeneration,
    settings: dict[str, Any],
    decoder: dict[str, torch.Tensor],
    capsys: pytest.CaptureFixture[str],
) -> None:
    from safetensors.torch import save_file

    save_file({name: value.clone() for name, value in t5.state_dict().items()}, "t5.safetensors")
    words = [f"--{key}={value}" for key, value in settings.items()]
    assert main(["import", "t5.safetensors", "--model=TIGER", "--dataset=tiny", *words]) == 0
    teacher = capsys.readouterr().out.split("Written: ")[1].strip()
    torch.save(decoder, "student.pt")
    words = ["--model=SIDMLP", f"--teacher_path={teacher}", f"--attention_heads={HEADS}", "--output=student.pth"]
    assert main(["import", "student.pt", *words]) == 0
    config, model, _, _, _, test_data = load_data_and_model("student.pth")
    result = get_trainer(config)(config, model).evaluate(test_data, load_best_model=False)
    assert 0 <= result["ndcg@10"] <= 1
    assert main(["import", "student.pt", "--model=SASRec", *words[1:]]) == 2
    assert "Checkpoints of SASRec cannot be imported" in capsys.readouterr().err


def test_a_rank_counted_from_0_and_levels_of_different_sizes(data_path: Path) -> None:
    codes = {item: [a, b, rank - 1] for item, (a, b, rank) in SEM_IDS.items()}
    Path("x.json").write_text(json.dumps(codes), encoding="utf-8")
    sizes = {"d_model": D, "d_kv": 6, "d_ff": 20, "num_heads": 3, "num_layers": 1, "num_decoder_layers": 1}
    t5 = T5ForConditionalGeneration(T5Config(vocab_size=1 + 5 + 4 + 2 + 3 + 1, **sizes))
    torch.save(t5.state_dict(), "t5.pt")
    given = {**CONFIG, "data_path": str(data_path), "semantic_ids_path": "x.json", "n_user_tokens": 3}
    path = import_checkpoint("t5.pt", "TIGER", "tiny", settings={**given, "codebook_sizes": [5, 4, 2]})
    model = load_data_and_model(path)[1]
    assert model.vocabulary.codebook_sizes == (5, 4, 2)
    torch.testing.assert_close(model.token_embedding.weight, t5.shared.weight)
    with pytest.raises(InputError, match=r"16 rows does not hold padding, 3 levels of \[5, 4, 3\] codes, 3 user"):
        import_checkpoint("t5.pt", "TIGER", "tiny", settings={**given, "codebook_sizes": [5, 4, 3]})


def test_the_rows_of_a_token_table_by_hand() -> None:
    # 0 pad; 1-4; 5-8; 9 never used, 10-12; 13, 14 users; 15 eos.
    layout = TokenLayout.of(16, 3, None, 2, rank_from=1)
    assert layout.codebook_sizes == (4, 4, 4)
    assert layout.own_sizes == (4, 4, 3)
    assert layout.rows().tolist() == [*range(9), *range(10, 16)]
    assert TokenLayout.of(16, 3, None, 2, rank_from=0).rows().tolist() == [*range(16)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("encoder.final_layer_norm.weight"), "has no weight 'encoder.final_layer_norm.weight'"),
        (lambda state: state.update({"lm_head.weight": state["shared.weight"] + 1}), "one tied table"),
        (lambda state: state.pop("shared.weight"), "has no weight 'shared.weight': it holds no T5"),
        (lambda state: state.update({"encoder.block.0.layer.1.DenseReluDense.wi_0.weight": torch.ones(1)}), "gated"),
        (lambda state: state.update({"decoder.other.weight": torch.ones(1)}), "1 weights more than this model"),
    ],
)
def test_other_t5s_are_refused(
    t5: T5ForConditionalGeneration, settings: dict[str, Any], change: Callable[[Any], Any], message: str
) -> None:
    state = dict(t5.state_dict())
    change(state)
    torch.save(state, "t5.pt")
    with pytest.raises(InputError, match=message):
        import_checkpoint("t5.pt", "TIGER", "tiny", settings=settings)


def test_a_t5_without_fitting_semantic_ids_is_refused(t5: T5ForConditionalGeneration, settings: dict[str, Any]) -> None:
    torch.save(t5.state_dict(), "t5.pt")
    with pytest.raises(InputError, match="set semantic_ids_path to those it was trained with"):
        import_checkpoint("t5.pt", "TIGER", "tiny", settings={**settings, "semantic_ids_path": None})
    shorter = {item: [*codes[:1], 1 + number] for number, (item, codes) in enumerate(SEM_IDS.items())}
    Path("x.sem_ids").write_text(json.dumps(shorter), encoding="utf-8")
    with pytest.raises(InputError, match=r"has code 5 at level 2, outside 0\.\.4"):
        import_checkpoint("t5.pt", "TIGER", "tiny", settings=settings)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("norm2.bias"), r"lacks 1 of the model's weights \(.*norm2.bias"),
        (lambda state: state.pop("cross_attn.q_proj.weight"), "it holds no SID-MLP decoder"),
        (lambda state: state.update({"cross_attn.rel.weight": torch.ones(1)}), "'cross_attn.rel.weight' has no place"),
        (lambda state: state.update({"head4.0.weight": torch.ones(2, 2)}), "4 level heads but .* 3 levels"),
        (lambda state: state.update({"head2.8.weight": torch.ones(9, 12)}), "Head 2 .* tells 9 codes apart"),
    ],
)
def test_other_students_are_refused(
    teacher: str, decoder: dict[str, torch.Tensor], change: Callable[[Any], Any], message: str
) -> None:
    change(decoder)
    torch.save(decoder, "student.pt")
    with pytest.raises(InputError, match=message):
        import_checkpoint("student.pt", "SIDMLP", settings={"teacher_path": teacher, "attention_heads": HEADS})


def test_students_need_their_teacher_and_their_encoder(teacher: str, decoder: dict[str, torch.Tensor]) -> None:
    torch.save(decoder, "student.pt")
    with pytest.raises(InputError, match="import the teacher first and set teacher_path"):
        import_checkpoint("student.pt", "SIDMLP", "tiny")
    with pytest.raises(InputError, match=r"'pos_embed\.weight': it holds no SID-MLP\+\+ encoder"):
        import_checkpoint("student.pt", "SIDMLPPlusPlus", settings={"teacher_path": teacher})


def test_settings_that_are_not_the_checkpoints_are_refused(
    teacher: str, decoder: dict[str, torch.Tensor], encoder: dict[str, torch.Tensor]
) -> None:
    torch.save({**decoder, **encoder}, "student.pt")
    given = {"teacher_path": teacher, "attention_heads": HEADS}
    with pytest.raises(InputError, match="has encoder_positions=start, not end: leave it out, or give the same"):
        import_checkpoint("student.pt", "SIDMLPPlusPlus", settings={**given, "encoder_positions": "end"})
    Path("own.yaml").write_text("encoder: item")
    with pytest.raises(InputError, match="has encoder=token, not item"):
        import_checkpoint("student.pt", "SIDMLPPlusPlus", config_files=["own.yaml"], settings=given)


def test_named_roles_and_too_few_positions_are_refused(
    teacher: str, decoder: dict[str, torch.Tensor], encoder: dict[str, torch.Tensor]
) -> None:
    given = {"teacher_path": teacher, "attention_heads": HEADS}
    torch.save({**decoder, **encoder, "layers.0.user.0.weight": torch.ones(1)}, "student.pt")
    with pytest.raises(InputError, match=r"'layers\.0\.user\.0\.weight' names a role that is no number"):
        import_checkpoint("student.pt", "SIDMLPPlusPlus", settings=given)
    torch.save({**decoder, **encoder, "pos_embed.weight": encoder["pos_embed.weight"][:10]}, "student.pt")
    with pytest.raises(InputError, match=r"10 positions .* MAX_ITEM_LIST_LENGTH"):
        import_checkpoint("student.pt", "SIDMLPPlusPlus", settings=given)


def test_files_without_weights_are_refused() -> None:
    for name, content in (("list.pt", [1]), ("empty.pt", {"epoch": 3})):
        torch.save(content, name)
        with pytest.raises(InputError, match=f"'{name}' holds no weights by name"):
            read_weights(name)
    Path("text.pt").write_text("?")
    with pytest.raises(InputError, match="is damaged, or needs pickle"):
        read_weights("text.pt")
    with pytest.raises(InputError, match=r"There is no checkpoint at 'none\.pt'"):
        read_weights("none.pt")
