"""The command line: what is read, what is written, and how wrong input ends."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import re
import runpy
import shlex
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from conftest import SMALL, SMALL_STUDENT, SMALL_TIGER, table_cells

import recbole_sid
from recbole_sid.bench.options import BenchOptions, bench_options
from recbole_sid.cli import COMMANDS, main, parse
from recbole_sid.commands.call import Call
from recbole_sid.data import SemanticIDs
from recbole_sid.data.convert.conversion import ConvertOptions
from recbole_sid.errors import InputError, first_line
from recbole_sid.property_files import PROPERTIES, all_keys
from recbole_sid.tuning.search import Options

ROOT = Path(__file__).resolve().parent.parent


def options(settings: dict[str, Any]) -> list[str]:
    return [f"--{key}={value}" for key, value in settings.items()]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["quick-start"], Call("quick-start", {}, {})),
        (["tokenize", "--dataset=tiny"], Call("tokenize", {"dataset": "tiny"}, {})),
        (["--model=SIDMLP", "--epochs=3"], Call("run", {"model": "SIDMLP"}, {"epochs": 3})),
        (["run", "--model", "TIGER", "--epochs", "3"], Call("run", {"model": "TIGER"}, {"epochs": 3})),
        (["--learning_rate=1e-3", "--resume=True"], Call("quick-start", {}, {"learning_rate": 0.001, "resume": True})),
        (["--topk=[5, 10]"], Call("quick-start", {}, {"topk": [5, 10]})),
        (["--teacher_path=a=b.pth"], Call("quick-start", {}, {"teacher_path": "a=b.pth"})),
        (["--seed=1", "--seed=1"], Call("quick-start", {}, {"seed": 1})),
        (["--text_fields="], Call("quick-start", {}, {"text_fields": ""})),
        (["--json=out.json", "--output=12"], Call("quick-start", {"json": "out.json", "output": "12"}, {})),
        (["--gpu_id", "-1"], Call("quick-start", {}, {"gpu_id": -1})),
    ],
)
def test_parse(words: list[str], expected: Call) -> None:
    assert parse(words) == expected


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["tokenise"],
            "Unknown command 'tokenise' .did you mean 'tokenize'.*known: quick-start, run, compare, reproduce, tune",
        ),
        (["xyz"], "Unknown command 'xyz'; known"),
        (["run", "epochs=3"], "'epochs=3' is no option: write --key=value"),
        (["run", "-e", "3"], "'-e' is no option"),
        (["export-model", "a.pth", "b.pth", "--onnx"], "takes one .*, and there are 'a.pth' and 'b.pth': name one"),
        (["recommend", "bundle", "--input=users.csv"], "--input=users.csv stands for 'bundle' in front"),
        (["--epochs=1", "--epochs=2"], "--epochs is given twice with different values"),
        (["--epochs"], "--epochs has no value: write --epochs=VALUE"),
        (["--epochs", "--seed=1"], "--epochs has no value"),
    ],
)
def test_parse_refuses(words: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse(words)


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"], ["help"]])
def test_overview(capsys: pytest.CaptureFixture[str], words: list[str]) -> None:
    assert main(words) == 0
    text = capsys.readouterr().out
    assert all(f"\n    {command} " in text or f"\n    {command}\n" in text for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("form", [["{}", "--help"], ["help", "{}"]], ids=["option", "word"])
def test_help_of_a_command_is_its_own(capsys: pytest.CaptureFixture[str], command: str, form: list[str]) -> None:
    assert main([word.format(command) for word in form]) == 0
    text = capsys.readouterr().out
    own = {option.name for option in COMMANDS[command].options}
    everything = {option.name for other in COMMANDS.values() for option in other.options}
    shown = set(re.findall(r"^  --(\w+) ", text, re.MULTILINE))
    assert shown & everything == own
    assert ("Configuration keys" in text) == COMMANDS[command].keys


@pytest.mark.parametrize("model", ["SIDMLP", "GRU4Rec"])
def test_help_lists_the_keys_of_a_model_with_their_defaults(capsys: pytest.CaptureFixture[str], model: str) -> None:
    assert main(["run", f"--model={model}", "--help"]) == 0
    text = capsys.readouterr().out
    expected = {"SIDMLP": r"--attention_heads=4 +\(int\) Heads of the readout", "GRU4Rec": r"--hidden_size=128"}
    assert re.search(expected[model], text)
    assert re.search(r"--beam_size=50 +\(int\) Beams", text)
    assert re.search(r"--tokenizer=rq_kmeans +\(str\) rq_kmeans", text)


def test_help_of_an_unknown_model_and_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--model=TIGR", "--help"]) == 2
    assert "did you mean 'TIGER'" in capsys.readouterr().err
    assert main(["tun", "--help"]) == 2
    assert "did you mean 'tune'" in capsys.readouterr().err


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith(f"recbole-sid {recbole_sid.__version__} (recbole 1.2.1, torch 2.")


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_completion(capsys: pytest.CaptureFixture[str], shell: str) -> None:
    pytest.importorskip("shtab")
    assert main(["completion", shell]) == 0
    text = capsys.readouterr().out
    assert all(word in text for word in ("quick-start", "--labels_only", "--storage_path"))
    assert main(["completion", "basch"]) == 2


def test_arguments_default_to_those_of_the_process(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["recbole-sid", "--help"])
    assert main() == 0
    assert "usage: recbole-sid" in capsys.readouterr().out


def test_the_script_without_arguments_is_the_quick_start_and_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def told(*arguments: Any) -> list[dict[str, Any]]:
        raise KeyboardInterrupt

    monkeypatch.setattr("recbole_sid.comparison.main_job.run_main_job", told)
    monkeypatch.setattr("sys.argv", ["run_recbole_sid.py"])
    with pytest.raises(SystemExit, match="130"):
        runpy.run_path(str(PROPERTIES.parent / "run_recbole_sid.py"), run_name="__main__")
    assert "6 to 7 minutes" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["tune", "--sampels=3"], "tune has no option --sampels (did you mean 'samples'?)"),
        (["compare", "--modles=Pop"], "compare has no option --modles (did you mean 'models'?)"),
        (["run", "--samples=3"], "run takes no --samples"),
        (["bench", "--round=3"], "bench has no option --round (did you mean 'rounds'?)"),
        (["export", "x.npz", "--seed=1"], "export has no option --seed"),
    ],
)
def test_wrong_options_name_the_nearest(words: list[str], message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        parse(words)


def test_declared_defaults_are_those_of_the_library() -> None:
    given = Options()
    declared = {option.name: option.default for option in COMMANDS["tune"].options}
    assert {key: declared[key] for key in Options._fields} == given._asdict()
    found = bench_options({})
    own = {option.name: option for option in COMMANDS["bench"].options if option.key}
    assert set(own) == {field.name for field in fields(BenchOptions)} | {"quick"}
    assert {key: own[key].default for key in ("items", "beam_size", "rounds", "seconds", "seed")} == {
        key: getattr(found, key) for key in ("items", "beam_size", "rounds", "seconds", "seed")
    }
    own = {option.name: option for option in COMMANDS["convert"].options}
    assert set(own) == {field.name for field in fields(ConvertOptions)} | {"source", "json"}


@pytest.mark.parametrize("command", ["compare", "tune", "tokenize", "analyze", "extend", "bench", "quick-start"])
def test_outputs_are_checked_before_the_work(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    def worked(call: Call) -> None:
        raise AssertionError

    Path("file").write_text("", encoding="utf-8")
    monkeypatch.setitem(COMMANDS, command, dataclasses.replace(COMMANDS[command], run=worked))
    outputs = [option.name for option in COMMANDS[command].options if option.output]
    assert outputs
    for name in outputs:
        assert main([command, f"--{name}=file/in/it"]) == 2
        assert "file/in/it" in capsys.readouterr().err
    assert main([command, "--json=."]) == 2


def command_lines() -> list[str]:
    """Return every command line that the documentation shows."""
    files = [
        ROOT / "README.md",
        *sorted(ROOT.glob("docs/*.md")),
        *sorted(ROOT.glob("results/*.md")),
        ROOT / ".ci" / "package",
    ]
    lines = []
    for file in files:
        text = file.read_text(encoding="utf-8").replace("\\\n", " ")
        lines += [
            line.strip() for line in text.splitlines() if re.match(r"\s*(recbole-sid|python run_recbole_sid)", line)
        ]
        lines += re.findall(r"`(recbole-sid [^`]+)`", text)
    return sorted(set(lines))


@pytest.mark.parametrize("line", command_lines())
def test_documented_command_lines_parse(line: str) -> None:
    words = shlex.split(line, comments=True)[1:]
    if words[:1] not in (["completion"], ["--version"]) and "--help" not in words and "COMMAND" not in words:
        call = parse(words)
        assert not COMMANDS[call.command].keys or set(call.overrides) <= all_keys() | {"resume"}


def test_tokenize_writes_semantic_ids_and_their_quality(
    settings: Callable[..., dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--dataset=tiny", "--output=ids.npz", "--json=result.json", *options(settings("TIGER"))]
    assert main(["tokenize", *words]) == 0
    result = json.loads(Path("result.json").read_text(encoding="utf-8"))
    semantic_ids = SemanticIDs.load("ids.npz")
    assert {key: result[key] for key in ("command", "version", "seed", "path", "fingerprint")} == {
        "command": "tokenize",
        "version": recbole_sid.__version__,
        "seed": 2020,
        "path": "ids.npz",
        "fingerprint": semantic_ids.fingerprint,
    }
    assert result["device"].startswith("cpu")
    assert {"level", "used", "size", "perplexity", "children_mean", "only_child_share"} < set(result["rows"][0])
    for level, row in enumerate(result["rows"]):
        codes = semantic_ids.codes[:, level]
        prefixes, longer = (len(np.unique(semantic_ids.codes[:, :n], axis=0)) for n in (level, level + 1))
        assert (row["level"], row["used"]) == (level + 1, len(set(codes.tolist())))
        assert row["size"] == semantic_ids.codebook_sizes[level]
        share = np.array([np.mean(codes == code) for code in set(codes.tolist())])
        assert row["perplexity"] == pytest.approx(np.prod(share**-share))
        assert row["children_mean"] == pytest.approx(longer / max(1, prefixes))
    _, sizes = np.unique(semantic_ids.codes[:, :-1], axis=0, return_counts=True)
    assert result["collided_items"] == sizes[sizes > 1].sum()
    assert (result["groups"], result["largest_group"]) == ((sizes > 1).sum(), sizes.max())
    assert f"Written: ids.npz ({semantic_ids.fingerprint})" in capsys.readouterr().out


def test_tokenized_semantic_ids_are_those_of_a_run(settings: Callable[..., dict[str, Any]]) -> None:
    words = ["--dataset=tiny", *options(settings("TIGER", epochs=1))]
    assert main(["tokenize", *words]) == 0
    (file,) = Path("saved", "semantic_ids").glob("*.npz")
    content = file.read_bytes()
    assert main(["run", "--model=TIGER", *words]) == 0
    assert list(Path("saved", "semantic_ids").glob("*.npz")) == [file]
    assert file.read_bytes() == content


@pytest.mark.parametrize("model", ["TIGER", "Pop"])
def test_run_writes_its_result(
    settings: Callable[..., dict[str, Any]], capsys: pytest.CaptureFixture[str], model: str
) -> None:
    changes = settings("TIGER", epochs=1, seed=3)
    if model == "Pop":
        changes = {key: changes[key] for key in ("data_path", "epochs", "seed", "state", "use_gpu")}
    words = ["run", f"--model={model}", "--dataset=tiny", "--json=out/result.json", *options(changes)]
    assert main(words) == 0
    result = json.loads(Path("out/result.json").read_text(encoding="utf-8"))
    assert (result["command"], result["version"], result["seed"]) == ("run", recbole_sid.__version__, 3)
    (row,) = result["rows"]
    assert {"recall@5", "recall@10", "ndcg@5", "ndcg@10", "users_per_s", "parameters", "wall_s"} < set(row)
    assert row["model"] == {"TIGER": "TIGER-constrained"}.get(model, model)
    (checkpoint,) = Path("saved").glob("*.pth")
    assert f"Written: {checkpoint}" in capsys.readouterr().out


def test_command_line_goes_over_the_files(settings: Callable[..., dict[str, Any]]) -> None:
    Path("a.yaml").write_text(yaml.safe_dump({**settings("TIGER"), "seed": 1, "epochs": 1}), encoding="utf-8")
    Path("b.yaml").write_text("seed: 2\ndataset: tiny\nmodel: TIGER\ncollaborative_window: 2", encoding="utf-8")
    assert main(["run", "--config_files=a.yaml b.yaml", "--json=result.json", "--collaborative_window=3"]) == 0
    assert json.loads(Path("result.json").read_text(encoding="utf-8"))["seed"] == 2
    (file,) = Path("saved", "semantic_ids").glob("*.npz")
    assert SemanticIDs.load(file).recipe["collaborative_window"] == 3


def test_quick_start_writes_table_figure_and_json(data_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    student = {key: value for key, value in SMALL_STUDENT.items() if key != "teacher_config"}
    common = {**SMALL, "data_path": str(data_path), "epochs": 1}
    content = {"dataset": "tiny", "settings": common, "models": {"TIGER": SMALL_TIGER, "SIDMLP": student}}
    Path("plan.yaml").write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    assert main(["quick-start", "--config_files=plan.yaml", "--output=out", "--json=out/result.json", "--seed=5"]) == 0
    result = json.loads(Path("out/result.json").read_text(encoding="utf-8"))
    assert (result["command"], result["seed"]) == ("quick-start", 5)
    assert [row["model"] for row in result["rows"]] == ["TIGER", "TIGER-constrained", "SIDMLP"]
    table = Path("out/table.md").read_text(encoding="utf-8")
    cells = [[row["model"], f"{row['recall@5']:.4f}"] for row in result["rows"]]
    assert [row[:2] for row in table_cells(table)[1:]] == cells
    assert table in capsys.readouterr().out
    assert Path("out/accuracy_speed.png").read_bytes().startswith(b"\x89PNG")


WRONG = [
    (["tokenise"], "Unknown command"),
    (["run"], "Name a model and a dataset"),
    (["run", "--model=TIGR", "--dataset=tiny"], "did you mean 'TIGER'"),
    (["run", "--model=TIGER", "--dataset=none"], "There is no dataset folder"),
    (["run", "--model=TIGER", "--dataset=tiny", "--learning_rat=3"], "did you mean 'learning_rate'"),
    (["run", "--model=TIGER", "--dataset=tiny", "--metrics=[Foo]"], "no metric named"),
    (["run", "--model=TIGER", "--dataset=tiny", "--config_files=none.yaml"], "does not exist"),
    (["run", "--model=SIDMLP", "--dataset=tiny", "--teacher_path=none.pth"], "There is no checkpoint at"),
    (["tokenize", "--dataset=tiny", "--tokenizer=rq_kmean", "--output=ids.npz"], "did you mean 'rq_kmeans'"),
    (["tokenize", "--dataset=tiny", "--features=file", "--output=ids.npz"], "feature_file"),
    (["quick-start", "--config_files=none.yaml", "--output=out"], "does not exist"),
    (["quick-start", "--config_files=a.yaml b.yaml", "--output=out"], "takes one file"),
    (["quick-start", "--unknown_key=1", "--output=out"], "Unknown configuration key"),
]


@pytest.mark.parametrize(("words", "message"), WRONG, ids=lambda value: str(value)[:60])
def test_wrong_input_ends_with_one_line_and_no_output(
    capsys: pytest.CaptureFixture[str], data_path: Path, words: list[str], message: str
) -> None:
    quiet = {"state": "ERROR", "show_progress": False}
    small = options({"data_path": data_path, **quiet, "codebook_sizes": [5, 3], "collaborative_dim": 8})
    assert main([*words, "--json=result.json", *small]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("recbole-sid: ")
    assert message in line
    assert not any(Path(name).exists() for name in ("result.json", "ids.npz", "out"))


def test_interruption_says_how_to_continue(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(call: Call) -> None:
        raise KeyboardInterrupt

    monkeypatch.setitem(COMMANDS, "run", dataclasses.replace(COMMANDS["run"], run=interrupted))
    assert main(["run", "--model=TIGER"]) == 130
    assert "--resume=True" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["quick-start", "--model=TIGER"], ["run", "--model=TIGER", "--output=folder"]])
def test_option_that_a_command_does_not_take_is_refused(words: list[str]) -> None:
    with pytest.raises(InputError, match=f"{words[0]} takes no --"):
        parse(words)


def test_a_search_resumes_or_not(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tune", "--model=TIGER", "--dataset=ml-100k", "--resume=maybe"]) == 2
    assert "resume='maybe' must be True or False" in capsys.readouterr().err


@pytest.mark.parametrize(("text", "line"), [("\n  first\nsecond", "ValueError: first"), ("", "ValueError: ")])
def test_errors_are_quoted_by_their_first_words(text: str, line: str) -> None:
    assert first_line(ValueError(text)) == line


@pytest.mark.parametrize("cause", ["itself", "of another error"])
def test_a_full_disk_is_told_in_a_sentence_wherever_it_is_met(
    cause: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(call: Any) -> None:
        try:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "log/somewhere.log")
        except OSError as error:
            if cause == "itself":
                raise
            raise ValueError("the writer's own") from error

    monkeypatch.setitem(COMMANDS, "run", dataclasses.replace(COMMANDS["run"], run=fails))
    assert main(["run", "--model=Pop"]) == 2
    told = capsys.readouterr().err
    assert told.startswith("recbole-sid: 'log/somewhere.log' cannot be written (No space left on device; ")
    assert told.rstrip().endswith("make room, or write elsewhere.")
