"""`export-model`: from a checkpoint of a run to a bundle that says what the run was."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from conftest import random_sequences

from recbole_sid.checkpoint import load_checkpoint
from recbole_sid.cli import main
from recbole_sid.errors import InputError
from recbole_sid.exporting import facts, forms
from recbole_sid.exporting.export import export_model
from recbole_sid.quick_start import load_data_and_model
from recbole_sid.serving import engine
from recbole_sid.serving.bundle import CARD, Bundle


@pytest.fixture
def follower(monkeypatch: pytest.MonkeyPatch) -> None:
    """Export models that have no form by a stand-in, which ranks otherwise and so is not checked."""
    monkeypatch.setitem(engine.ENGINES, "follower", "bundles:Follower")
    monkeypatch.setitem(forms.FORMS, "SASRec", "bundles:follower_form")
    monkeypatch.setattr("recbole_sid.exporting.export.check_form", lambda *arguments: "not compared")


def test_what_answers_need_is_compiled_at_export(
    trained: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared: list[Any] = []
    monkeypatch.setattr(
        "recbole_sid.serving.engines.code_ranking.CodeEngine.prepare", lambda self: prepared.append(self)
    )
    export_model(trained["SIDMLP"], tmp_path / "bundle")
    assert len(prepared) == 1


@pytest.mark.parametrize("model", ["SIDMLP", "TransitionMemory", "SASRec"])
def test_a_bundle_has_the_runs_items_and_facts(
    request: pytest.FixtureRequest, trained: dict[str, str], tmp_path: Path, model: str
) -> None:
    if model == "SASRec":
        request.getfixturevalue("follower")
    bundle = Bundle.load(export_model(trained[model], tmp_path / "bundle"))
    config, _, _, train_data, _, _ = load_data_and_model(trained[model])
    tokens = train_data._dataset.item_tokens()
    catalogue, manifest = bundle.catalogue, bundle.manifest
    assert catalogue.tokens(np.arange(1, catalogue.n_items)) == tokens.tolist()
    assert (manifest["model"], manifest["n_items"]) == (model, len(tokens) + 1)
    # counted by hand: all but the last two of each user are trained on
    counts = np.zeros(len(tokens), int)
    for items in random_sequences():
        for item in items[:-2]:
            counts[tokens.tolist().index(f"i{item}")] += 1
    assert catalogue.popularity[1:].tolist() == counts.tolist()
    assert catalogue.shown(catalogue.numbers(["i8"]), "title") == ["green round thing"]
    assert manifest["metrics"]["test"] == {}
    assert manifest["protocol"]["topk"] == config["topk"]
    card = (bundle.path / CARD).read_text(encoding="utf-8")
    assert "were not recorded" in card
    if model != "SASRec":
        checkpoint = load_checkpoint(trained[model])
        assert manifest["metrics"]["validation"] == checkpoint["best_valid_result"]
        assert manifest["fingerprints"].get("semantic IDs") == checkpoint["lineage"].get("semantic IDs")
        assert "of 40 histories have the identical list, 100.00% but for ties" in manifest["sizes"]["engine's lists"]
        assert "of 40 histories have the identical list" in card
    with pytest.raises(InputError, match="knows no users"):
        _ = bundle.known_users


def test_what_ranks_otherwise_is_not_written(
    trained: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    form_of = forms.form_of

    def damaged(*arguments: Any) -> forms.Form:
        form = form_of(*arguments)
        bias = form.arrays["heads.bias"] + np.arange(len(form.arrays["heads.bias"]), dtype=np.float32)
        return replace(form, arrays={**form.arrays, "heads.bias": bias})

    monkeypatch.setattr("recbole_sid.exporting.export.form_of", damaged)
    with pytest.raises(InputError, match=r"engine 't5' gives 0.00% of 40 histories the model's own list"):
        export_model(trained["SIDMLP"], tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


def test_histories_hold_the_latest_interactions(trained: dict[str, str], tmp_path: Path) -> None:
    bundle = Bundle.load(export_model(trained["SIDMLP"], tmp_path / "bundle", histories=True, fields=["kind", "title"]))
    users, catalogue = bundle.known_users, bundle.catalogue
    sequences = random_sequences()
    assert users.n_users == len(sequences)
    numbers = users.numbers([f"u{user}" for user in range(len(sequences))])
    items, starts = users.all(numbers)
    for user, sequence in enumerate(sequences):
        assert catalogue.tokens(items[starts[user] : starts[user + 1]]) == [f"i{item}" for item in sequence]
    assert bundle.manifest["fields"] == ["kind", "title"]
    assert catalogue.shown(catalogue.numbers(["i4"]), "kind") == ["kind1"]


def test_the_test_split_is_evaluated_when_asked_for(trained: dict[str, str], tmp_path: Path) -> None:
    for model in ("SIDMLP", "TransitionMemory"):
        found = Bundle.load(export_model(trained[model], tmp_path / model, test=True)).manifest["metrics"]["test"]
        assert set(found) == {"recall@5", "recall@10", "ndcg@5", "ndcg@10"}


@pytest.mark.parametrize("score", [-np.inf, np.nan, 0.25])
def test_what_was_not_measured_is_no_metric(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, score: float) -> None:
    """RecBole's trainer records minus infinity where nothing validates, of which JSON knows nothing."""
    content = {"config": SimpleNamespace(final_config_dict={"valid_metric": "NDCG@10"}), "best_valid_score": score}
    monkeypatch.setattr(facts, "load_recbole_checkpoint", lambda *_, **__: content)
    (tmp_path / "x.pth").write_bytes(b"")
    assert facts.recorded_of(tmp_path / "x.pth").validation == ({"ndcg@10": 0.25} if score == 0.25 else {})


def test_the_command(trained: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "bundle"
    words = [
        "export-model",
        trained["SIDMLP"],
        f"--output={target}",
        "--histories",
        f"--data_path={trained['data_path']}",
    ]
    assert main(words) == 0
    assert f"Written: {target} ({Bundle.load(target).identity})" in capsys.readouterr().out
    assert main(words) == 2
    assert "exists already" in capsys.readouterr().err
    assert main(["export-model", trained["SIDMLP"]]) == 2
    assert "needs --output=DIR" in capsys.readouterr().err
    assert main([*words[:2], f"--output={tmp_path / 'b'}", "--histories=perhaps"]) == 2
    assert "--histories=perhaps must be True or False" in capsys.readouterr().err


def test_what_cannot_be_exported_is_refused_before_anything_is_written(
    trained: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(forms.FORMS, "TIGER", raising=False)
    for file, message in {
        trained["TIGER"]: "TIGER cannot be exported",
        "nothing.pth": "There is no checkpoint",
    }.items():
        with pytest.raises(InputError, match=message):
            export_model(file, tmp_path / "out" / "bundle")
    with pytest.raises(InputError, match=r"has no field 'titel' .did you mean 'title'"):
        export_model(trained["SIDMLP"], tmp_path / "out" / "bundle", fields=["titel"])
    assert not (tmp_path / "out").exists()
