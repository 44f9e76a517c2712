"""Result pages: in a browser from a file, with hostile names, and without asking anybody for anything."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browsing import tab

from recbole_sid.cli import main
from recbole_sid.comparison.page import write_comparison_page
from recbole_sid.comparison.statistics import over_users, paired_tests
from recbole_sid.comparison.summary import Summary
from recbole_sid.data import SemanticIDs
from recbole_sid.generalization.analysis import Analysis
from recbole_sid.generalization.analysis_page import write_analysis_page
from recbole_sid.pages.charts import bars, chart
from recbole_sid.pages.page import CHARTS, as_script_data, write_page
from recbole_sid.semantic_ids.report import sid_report
from recbole_sid.semantic_ids.tree_page import shown_rows, write_tree_page

HOSTILE = '</script><script>document.title = "owned"</script><img src="http://example.org/x" onerror="alert(1)">'
MODELS = ("Pop", "SASRec", "TIGER", f"mine {HOSTILE}")
N_USERS = 60


def values_of_users() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    hit = rng.random(N_USERS) * (rng.random(N_USERS) < 0.4)
    return {model: np.clip(hit * (0.4 + 0.3 * number), 0, 1) for number, model in enumerate(MODELS)}


def summary() -> Summary:
    values, speeds = values_of_users(), (90_000.0, 9_000.0, 800.0, 20_000.0)
    rows = [
        {
            "model": model,
            "seeds": 2,
            "ndcg@10": float(values[model].mean()),
            "ndcg@10_sd": 0.002,
            "users_per_s": speed,
            "parameters": 10,
            "train_s": 3.0,
            "peak_memory_mb": 200.0,
            "share_of_teacher": None,
        }
        for model, speed in zip(MODELS, speeds, strict=True)
    ]
    bins = [
        {"by": by, "bin": name, "instances": 30, **{model: 0.1 for model in MODELS}}
        for by in ("history", "support")
        for name in ("never", "1-5")
    ]
    tests, users = paired_tests(values, "SASRec", resamples=50), over_users(values, "SASRec")
    return Summary(rows, tests, bins, ["X, seed 1: it failed."], users, {"users": N_USERS, "test_users": N_USERS})


def run(name: str) -> Any:
    return {
        "name": name,
        "seed": 1,
        "version": "0.5",
        "device": "cpu",
        "train_s": 2.0,
        "fingerprint": "f" * 16,
        "data": "d" * 16,
        "settings": {
            "checkpoint_dir": "/home/me/saved",
            "feature_file": "/home/me/vectors.npy",
            "loss_type": HOSTILE,
            "teacher_config": {"feature_file": "/home/me/theirs.npy", "d_model": 8},
        },
        "evaluations": {"": {"metrics": {"ndcg@10": 0.1}}},
        "curve": [{"stage": name, "epoch": epoch, "loss": 1 / epoch, "ndcg@10": 0.1} for epoch in (1, 2, 3)],
        "semantic_ids": None,
        "machine": {"processor": "a processor", "versions": {"torch": "2"}},
    }


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    """A page that asks for nothing but its own file, and whose scripts log no error."""
    with tab(browser, lambda url: url.startswith("file:")) as page:
        page.on("console", lambda message: page.troubles.append(message.text) if message.type == "error" else None)
        yield page


def test_data_in_a_script_stays_data() -> None:
    value = {"</script>": ["<!--", "\u2028", float("nan")], "a": 1.5}
    text = as_script_data(value)
    assert not re.search("[<>&\u2028]", text)
    assert json.loads(text) == {"</script>": ["<!--", "\u2028", None], "a": 1.5}


def test_users_better_and_worse_off() -> None:
    values = {"a": np.array([0.0, 0.5, 1.0, 0.2]), "b": np.array([0.1, 0.5, 0.0, 0.0])}
    (row,) = over_users(values, "b")
    assert (row["users"], row["better"], row["worse"]) == (4, 0.5, 0.25)
    assert (row["quantiles"][0], row["quantiles"][-1]) == pytest.approx((-0.1, 1.0))
    (row,) = over_users(values, "b", np.array(["x", "x", "y", "y"]))  # means of users: -.05 and .6
    assert (row["users"], row["better"], row["worse"]) == (2, 0.5, 0.5)


def test_comparison_in_a_browser(page: Any, tmp_path: Path) -> None:
    found = summary()
    details = {"dataset": f"data {HOSTILE}", "seeds": [1, 2], "command": f"recbole-sid compare --x={HOSTILE}"}
    file = write_comparison_page(found, [run(name) for name in MODELS], tmp_path / "page.html", details)
    text = file.read_text(encoding="utf-8")
    assert "/home/me" not in text
    assert "checkpoint_dir" not in text
    assert "vectors.npy" in text
    page.goto(f"file://{file}")
    page.wait_for_selector("body[data-ready]")
    assert page.title() == f"Comparison on data {HOSTILE}"
    page.wait_for_function("() => document.querySelectorAll('#speed ~ .charts [data-drawn]').length > 0")
    assert page.locator(".chart .legendtext").all_text_contents()[:3] == ["Popularity", "SASRec", "TIGER"]
    assert page.locator("img, iframe, script[src], link").count() == 0

    table = page.locator("table.sortable").first
    head = table.locator("th", has_text="NDCG@10").first
    first = [cell.split()[0] for cell in table.locator("tbody tr td:first-child").all_text_contents()]
    assert first == ["Popularity", "SASRec", "TIGER", "mine"]
    head.locator("button").press("Enter")
    assert head.get_attribute("aria-sort") == "descending"
    descending = sorted(found.rows, key=lambda row: -row["ndcg@10"])
    shown = [float(text.split()[0]) for text in table.locator("tbody tr td:nth-child(2)").all_text_contents()]
    assert shown == [round(row["ndcg@10"], 4) for row in descending]
    head.locator("button").press("Enter")
    again = [float(text.split()[0]) for text in table.locator("tbody tr td:nth-child(2)").all_text_contents()]
    assert again == shown[::-1]
    models = table.locator("th").first
    for direction in ("ascending", "descending"):  # texts from A on first
        models.locator("button").press("Enter")
        assert models.get_attribute("aria-sort") == direction
        names = [cell.split()[0] for cell in table.locator("tbody tr td:first-child").all_text_contents()]
        assert names == sorted(names, key=str.lower, reverse=direction == "descending")
    assert table.locator("td.best").count() == 1


def test_bars_of_long_names_stay_apart(page: Any, tmp_path: Path) -> None:
    names = [f"{'a long name ' * 6}{end}" for end in ("one", "two", "<three>")]
    bar = chart([bars(0, "share", names, [1, 2, 3])], "", "share")
    charts = {"bars": bar}
    details = {"title": "Bars", "facts": [], "charts": ["bars"], "tables": [], "indicator_of": ""}
    file = write_page(tmp_path / "bars.html", "analysis", {"charts": charts}, CHARTS, **details)
    page.goto(f"file://{file}")
    page.wait_for_selector("[data-drawn]")
    assert page.locator(".bars .point").count() == 3
    heights = {round(box.bounding_box()["height"]) for box in page.locator(".bars .point path").all()}
    assert len(heights) == 3
    assert len({round(box.bounding_box()["x"]) for box in page.locator(".bars .point path").all()}) == 3
    ticks = page.locator(".xtick text").all_text_contents()
    assert len(ticks) == 3
    assert max(map(len, ticks)) <= 60


def test_the_policy_refuses_what_is_not_the_pages_own(page: Any, browser: Any, tmp_path: Path) -> None:
    file = write_comparison_page(summary(), [], tmp_path / "page.html", {"dataset": "tiny", "seeds": [1]})
    text = file.read_text(encoding="utf-8")
    assert text.count("plotly.js v") == 1
    changed = text.replace("</main>", "</main><script>document.title = 'owned'</script>", 1)
    (tmp_path / "changed.html").write_text(changed, encoding="utf-8")
    other = browser.new_page()
    other.set_default_timeout(120_000)
    other.goto(f"file://{tmp_path / 'changed.html'}")
    other.wait_for_selector("body[data-ready]")
    assert other.title() == "Comparison on tiny"
    other.close()


def semantic_ids(n_items: int = 600) -> SemanticIDs:
    """Three codes an item, of which the first items share all."""
    rng = np.random.default_rng(0)
    codes = np.stack([rng.integers(size, size=n_items) for size in (300, 4, 50)], axis=1)
    codes[:3] = codes[0]
    tokens = np.array([f"i{number}" for number in range(n_items)])
    return SemanticIDs(codes, (300, 4, 50), tokens, popularity=np.arange(n_items))


def test_the_tree_in_a_browser(page: Any, tmp_path: Path) -> None:
    found = semantic_ids()
    titles = np.array([f"title {number} {HOSTILE if number == 1 else ''}" for number in range(600)])
    file = write_tree_page(sid_report(found), found, tmp_path / "tree.html", titles, "tiny")
    page.goto(f"file://{file}")
    page.wait_for_selector("body[data-ready]")
    first_codes = len(np.unique(found.codes[:, 0]))
    roots = page.locator("#tree > .inner > .branch")
    assert roots.count() == 200  # the others when they are asked for
    page.locator("#tree > .inner > .more").click()
    assert roots.count() == first_codes
    assert page.locator("#tree .item").count() == 0
    sizes = np.unique(found.codes[:, 0], return_counts=True)[1]
    assert [int(text.split()[0]) for text in roots.locator("summary > .soft").all_text_contents()] == sizes.tolist()

    page.fill("#search", "OWNED")
    page.wait_for_selector("#found .item")
    assert page.locator("#found .item").count() == 1
    page.locator("#found .item button").click()
    assert page.locator("#chosen p").first.inner_text() == f"Semantic ID: {', '.join(map(str, found.codes[1]))}"
    alike = page.locator("#chosen details").first
    assert alike.locator("summary").inner_text().startswith("2 more share the first 3 of 3 codes")
    assert {text.split("(")[-1] for text in alike.locator(".item").all_text_contents()} == {"i0)", "i2)"}
    page.locator("#chosen > button").click()
    assert page.locator("#tree .item", has_text="(i1)").count() == 1
    largest = max(np.unique(found.codes, axis=0, return_counts=True)[1])
    assert page.locator("#shared > details > summary").first.inner_text().startswith(f"{largest} items")


def test_the_tree_of_a_dataset_by_the_command_line(
    data_path: Path, page: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    data = ["--dataset=tiny", f"--data_path={data_path}", "--features=[collaborative]", "--collaborative_dim=4"]
    made = [*data, "--codebook_sizes=[5,3]", "--state=WARNING", "--use_gpu=False"]
    assert main(["tokenize", *made, "--output=ids.npz"]) == 0
    assert main(["report", "ids.npz", "--output=plain"]) == 0
    assert not Path("plain/report.html").exists()
    assert main(["report", "ids.npz", *made, "--html", "--output=out"]) == 0
    assert ".html" in capsys.readouterr().out.splitlines()[-1]
    page.goto(f"file://{Path('out/report.html').resolve()}")
    page.wait_for_selector("body[data-ready]")
    items = (data_path / "tiny" / "tiny.item").read_text(encoding="utf-8").splitlines()[1:]
    token, title = items[4].split("\t")[:2]
    page.fill("#search", title)
    page.wait_for_selector("#found .item")
    assert f"{title} ({token})" in page.locator("#found .item").all_text_contents()[0]
    sizes = page.locator("#tree > .inner > .branch summary > .soft").all_text_contents()
    assert sum(int(text.split()[0]) for text in sizes) == len(items)


def test_large_catalogues_show_their_most_popular_items() -> None:
    found = semantic_ids()
    rows = shown_rows(found, 100)
    assert set(rows) == set(range(500, 600))
    assert rows.tolist() == [row for row in found.trie.arrays()["item"] if row >= 500]
    assert sorted(shown_rows(found, 600)) == list(range(600))


def test_analysis_in_a_browser(page: Any, tmp_path: Path) -> None:
    names = ("memorization", "generalization", "uncategorized")
    shares = [{"category": name, "count": 10, "share": 1 / 3} for name in names]
    interval = {"ndcg@10": 0.2, "ndcg@10_low": 0.1, "ndcg@10_high": 0.3}
    rows = [{**share, "model": model, **interval} for share in shares for model in MODELS]
    predicted = [{"model": model, **share} for share in shares for model in MODELS]
    bins = [{"bin": name, "count": 5, **dict.fromkeys(MODELS, 0.1)} for name in ("1", "2-9")]
    found = Analysis(shares, rows, predicted, [], bins, [{"n": 1, **row} for row in bins], [], None)
    details = {"dataset": "tiny", "split": "test", "instances": 30, "hops": 4}
    file = write_analysis_page(found, tmp_path / "analysis.html", details)
    page.goto(f"file://{file}")
    page.wait_for_selector("body[data-ready]")
    page.wait_for_function("() => document.querySelectorAll('[data-drawn]').length > 1")
    assert page.locator("h2").all_text_contents()[:3] == ["Shares", "Categories", "Predicted"]
    assert page.locator("img, iframe, script[src], link").count() == 0
