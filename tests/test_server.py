"""The server: answers as the recommender gives them, bounds, keys, other bundles while requests run, a clean end."""

from __future__ import annotations

import asyncio
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient
from served_bundles import ENGINE, TITLES, WHERE, Counting, write

import recbole_sid
from recbole_sid.cli import COMMANDS, main, parse
from recbole_sid.errors import InputError
from recbole_sid.serving.catalogue import Catalogue
from recbole_sid.serving.engine import ENGINES
from recbole_sid.serving.recommender import Recommender
from recbole_sid.serving.server import titles
from recbole_sid.serving.server.app import STATIC, create_app
from recbole_sid.serving.server.batching import Batcher
from recbole_sid.serving.server.errors import Refused
from recbole_sid.serving.server.limits import Limits
from recbole_sid.serving.server.requests import Explanations
from recbole_sid.serving.server.run import api_key, named_paths, serve

KEY = "a long secret"
HISTORIES = [["i1", "i2"], ["i7"], ["i3", "i3", "nothing", "i9"], ["unknown"], []]
LIMITS = Limits(max_users=6, max_k=25, max_history=10, max_items=8, max_body=5000, max_explained=5, timeout=5)


@pytest.fixture(autouse=True)
def counting_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ENGINES, ENGINE, WHERE)
    monkeypatch.setattr(Counting, "delay", 0.0)
    monkeypatch.setattr(Counting, "calls", [])


@pytest.fixture
def bundles(tmp_path: Path) -> dict[str, Path]:
    """Two models; each directory is a link, as one that is deployed would be."""
    for seed, name in enumerate(("first", "second")):
        (tmp_path / name).symlink_to(write(tmp_path / f"{name}-1", seed))
    return {name: tmp_path / name for name in ("first", "second")}


@pytest.fixture
def client(bundles: dict[str, Path]) -> Iterator[TestClient]:
    with TestClient(create_app(bundles, LIMITS, KEY), headers={"x-api-key": KEY}) as client:
        yield client


def point_to(link: Path, bundle: Path) -> None:
    """Make `link` lead to another bundle, in one step."""
    (link.parent / "next").symlink_to(bundle)
    os.replace(link.parent / "next", link)


def metric(client: TestClient, name: str) -> float:
    found = re.search(rf"^{re.escape(name)} (\S+)$", client.get("/metrics").text, re.M)
    return float(found[1]) if found else 0.0


# ---------------------------------------------------------------- answers


@pytest.mark.parametrize(
    "asked",
    [
        {},
        {"k": 3},
        {"exclude": []},
        {"exclude": ["i1", "i5"]},
        {"exclude": [["i1"], [], ["i4"], ["i2"], []]},
        {"items": ["i4", "i2", "i29", "no"], "k": 4},
    ],
)
@pytest.mark.parametrize("model", ["first", "second"])
def test_lists_are_the_recommenders(
    client: TestClient, bundles: dict[str, Path], asked: dict[str, Any], model: str
) -> None:
    offline = Recommender.load(bundles[model]).recommend(HISTORIES, **asked)
    answer = client.post("/recommend", json={"histories": HISTORIES, "model": model, **asked}).json()
    assert [row["items"] for row in answer["lists"]] == offline.lists()
    for row, known in zip(answer["lists"], offline.to_dicts(), strict=True):
        assert row["scores"] == pytest.approx(known["scores"])
        assert (row["how"], row["search"], row["unknown"]) == (known["how"], known["search"], known["unknown"])


def test_requests_of_one_batch_are_answered_as_if_alone(bundles: dict[str, Path], monkeypatch: Any) -> None:
    """Also a wrong one among them, which is the only one to hear of it."""
    bodies = [
        {"histories": [[f"i{n % 29 + 1}", f"i{n % 7 + 1}"]], "k": n % 9 + 1, "exclude": ("seen", [], [["i3"]])[n % 3]}
        for n in range(30)
    ]
    bodies += [{"histories": [["i1"]], "items": ["i2", "i3"], "k": 2}, {"histories": [["i1"]], "items": ["no"]}]
    recommender = Recommender.load(bundles["first"])
    monkeypatch.setattr(Counting, "delay", 0.05)  # while the first is ranked, the others gather

    async def ask() -> list[httpx.Response]:
        app = create_app(bundles)
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
            return await asyncio.gather(*(client.post("/recommend", json=body) for body in bodies))

    answers = asyncio.run(ask())
    assert max(Counting.calls) > 10
    assert answers.pop().status_code == 422
    for body, answer in zip(bodies, answers, strict=False):
        asked = {name: body[name] for name in ("k", "exclude", "items") if name in body}
        assert [row["items"] for row in answer.json()["lists"]] == recommender.recommend(
            body["histories"], **asked
        ).lists()


def test_a_list_for_all_of_a_request_is_looked_up_once(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    numbers = Catalogue.numbers
    monkeypatch.setattr(Catalogue, "numbers", lambda self, ids: (asked.append(len(ids)), numbers(self, ids))[1])
    body = {"histories": [["i1"]] * 6, "exclude": ["i2", "i3", "i4"]}
    assert client.post("/recommend", json=body).status_code == 200
    assert sorted(asked) == [3, 6]


def test_titles_of_lists(client: TestClient) -> None:
    row = client.post("/recommend", json={"histories": [["i1"]], "k": 5, "titles": True}).json()["lists"][0]
    assert row["titles"] == [TITLES[int(item[1:]) - 1] for item in row["items"]]


def test_explanations(client: TestClient, bundles: dict[str, Path]) -> None:
    known = Recommender.load(bundles["first"]).explain(["i1", "i2"], "i5")
    answer = client.post("/explain", json={"history": ["i1", "i2"], "items": ["i5", "i6"]})
    Explanations.model_validate_json(answer.content, strict=True, extra="forbid")
    found = answer.json()["explanations"]
    assert [row["item"] for row in found] == ["i5", "i6"]
    assert (found[0]["title"], found[0]["remembered"]) == (TITLES[4], ["i1"])
    assert found[0]["probability"] == pytest.approx(known.probability)
    assert found[0]["parts"] == pytest.approx(dict(known.parts))
    assert [level["code"] for level in found[0]["levels"]] == [level.code for level in known.levels]


@pytest.mark.parametrize(
    "words", ["red lamp", "LAMP 0", "grün", "tür 11", "1", "", "i7", "nothing like it", "chair blue"]
)
@pytest.mark.parametrize("chunk", [3, 1 << 21])
def test_search_by_title(client: TestClient, words: str, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """By brute force: all words, in any case, the more popular first; the lower a number is the more popular here."""
    monkeypatch.setattr(titles, "_CHUNK", chunk)
    found = client.get("/items", params={"words": words, "limit": 100}).json()["items"]
    holds = [
        n for n, title in enumerate(TITLES, 1) if all(word in title.casefold() for word in words.casefold().split())
    ]
    expected = [7] if words == "i7" else holds
    assert [row["item"] for row in found] == [f"i{n}" for n in expected if n < 30]
    assert all(row["title"] == TITLES[int(row["item"][1:]) - 1] for row in found)


def test_items_without_titles_are_found_by_their_ids(tmp_path: Path) -> None:
    with TestClient(create_app({"plain": write(tmp_path / "plain", titles=False)})) as client:
        found = client.get("/items", params={"words": "i2"}).json()["items"]
    assert [row["item"] for row in found] == ["i2", *(f"i{n}" for n in range(20, 30))]
    assert found[0]["title"] == "i2"


def test_what_models_say_of_themselves(client: TestClient) -> None:
    first, second = client.get("/models").json()["models"]
    assert (first["name"], second["name"], first["items"]) == ("first", "second", 29)
    assert first["version"] != second["version"]
    assert second["metrics"] == {"validation": {"recall@10": 1.1}}


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (b"{", 422, "no valid JSON"),
        (b'{"histories": [["\\ud800"]]}', 422, "no valid JSON"),
        ({}, 422, "either 'histories' or 'users'"),
        ({"histories": [["i1"]], "users": ["u"]}, 422, "either 'histories' or 'users'"),
        ({"histories": [["i1", 5]]}, 422, "histories.0.1"),
        ({"histories": ["i1"]}, 422, "histories.0"),
        ({"histories": []}, 422, "histories"),
        ({"histories": [["i1"]] * 7}, 422, "histories"),
        ({"histories": [["i1"] * 11]}, 422, "histories.0"),
        ({"histories": [["i1"]], "k": 26}, 422, "k:"),
        ({"histories": [["i1"]], "k": 0}, 422, "k:"),
        ({"histories": [["i1"]], "k": True}, 422, "k:"),
        ({"histories": [["i1"]], "exclude": "none"}, 422, "exclude"),
        ({"histories": [["i1"]], "exclude": [["i1"], ["i2"]]}, 422, "2 lists for 1"),
        ({"histories": [["i1"]], "exclude": ["seen"]}, 422, 'exclude lists "seen" among ids'),
        ({"histories": [["i1"]], "exclude": ["i1"] * 9}, 422, "exclude"),
        ({"histories": [["i1"]], "items": ["i1"] * 9}, 422, "items"),
        ({"histories": [["i1"]], "items": ["no"]}, 422, "items"),
        ({"histories": [["i1"]], "path": "/etc"}, 422, "path"),
        ({"users": ["u1"]}, 422, "--histories"),
        ({"histories": [["i1"]], "model": "frist"}, 404, "did you mean 'first'"),
        ({"histories": [["i" * 6000]]}, 413, "5,000 bytes"),
    ],
)
def test_refusals_are_one_sentence(client: TestClient, body: Any, status: int, words: str) -> None:
    sent = {"content": body} if isinstance(body, bytes) else {"json": body}
    answer = client.post("/recommend", **sent)
    assert answer.status_code == status
    assert list(answer.json()) == ["error"]
    assert words in answer.json()["error"]
    assert answer.json()["error"].count("\n") == 0


def test_a_body_of_unknown_length_is_bounded(client: TestClient) -> None:
    assert client.post("/recommend", content=(b" " * 1000 for _ in range(9))).status_code == 413


@pytest.mark.parametrize(("method", "path", "status"), [("get", "/nothing", 404), ("get", "/recommend", 405)])
def test_no_such_path(client: TestClient, method: str, path: str, status: int) -> None:
    answer = getattr(client, method)(path)
    assert (answer.status_code, list(answer.json())) == (status, ["error"])


def test_a_failure_of_the_server_is_not_told_in_detail(
    bundles: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("secret detail")

    with TestClient(create_app(bundles), raise_server_exceptions=False) as client:
        with monkeypatch.context() as patched:
            patched.setattr(Counting, "all_scores", fail)
            answer = client.post("/recommend", json={"histories": [["i1"]]})
        assert answer.status_code == 500
        assert "secret" not in answer.text
        assert client.post("/recommend", json={"histories": [["i1"]]}).status_code == 200
        assert metric(client, 'recbole_sid_errors_total{path="/recommend"}') == 1


def test_late_answers_are_given_up(bundles: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    with TestClient(create_app(bundles, Limits(timeout=0.1))) as client:
        monkeypatch.setattr(Counting, "delay", 0.3)
        assert client.post("/recommend", json={"histories": [["i1"]]}).status_code == 504
        monkeypatch.setattr(Counting, "delay", 0.0)
        for _ in range(100):  # a busy machine may be late by itself
            if (status := client.post("/recommend", json={"histories": [["i1"]]}).status_code) != 504:
                break
        assert status == 200


# ---------------------------------------------------------------- keys


@pytest.mark.parametrize("headers", [{}, {"x-api-key": "wrong"}, {"authorization": f"Basic {KEY}"}, {"x-api-key": ""}])
def test_without_the_key(bundles: dict[str, Path], headers: dict[str, str]) -> None:
    with TestClient(create_app(bundles, api_key=KEY), headers=headers) as client:
        for path in ("/recommend", "/explain", "/reload", "/rollback"):
            assert client.post(path, json={"histories": [["i1"]]}).status_code == 401
        for path in ("/items", "/models", "/metrics", "/nothing"):
            assert client.get(path).status_code == 401
        for path in ("/", "/health", "/ready", "/openapi.json", "/static/page.js"):
            assert client.get(path).status_code == 200


def test_the_key_as_bearer(bundles: dict[str, Path]) -> None:
    with TestClient(create_app(bundles, api_key=KEY), headers={"authorization": f"Bearer {KEY}"}) as client:
        assert client.get("/models").status_code == 200


def test_nothing_changes_without_a_key(bundles: dict[str, Path]) -> None:
    with TestClient(create_app(bundles)) as client:
        assert client.get("/models").status_code == 200
        for path in ("/reload", "/rollback"):
            answer = client.post(path, json={})
            assert answer.status_code == 403
            assert "RECBOLE_SID_API_KEY" in answer.json()["error"]


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost:8000", 200), ("127.0.0.1", 200), ("[::1]:8000", 200), ("LOCALHOST", 200), ("box.localhost", 200),
        ("evil.example", 403), ("evil.example:8000", 403), ("localhost.evil.example", 403), ("10.0.0.1", 403),
        ("", 403), ("[::2]", 403), ("127.0.0.1.evil.example", 403),
    ],
)  # fmt: skip
def test_a_site_whose_name_leads_here_gets_nothing(bundles: dict[str, Path], host: str, status: int) -> None:
    with TestClient(create_app(bundles, is_local=True), headers={"host": host}) as client:
        for answer in (client.post("/recommend", json={"histories": [["i1"]]}), client.get("/models"), client.get("/")):
            assert answer.status_code == status


@pytest.mark.parametrize(
    ("host", "key", "is_local"), [("127.0.0.1", "", True), ("127.0.0.1", "k", False), ("0.0.0.0", "", False)]
)
def test_names_are_looked_at_where_nothing_else_keeps_others_out(
    bundles: dict[str, Path], monkeypatch: pytest.MonkeyPatch, host: str, key: str, is_local: bool
) -> None:
    made: dict[str, Any] = {}

    def create(*_: Any, **given: Any) -> Any:
        made.update(given)
        raise InputError("enough")

    monkeypatch.setattr("recbole_sid.serving.server.run.create_app", create)
    monkeypatch.setenv("RECBOLE_SID_API_KEY", key)
    with pytest.raises(InputError, match="enough"):
        serve([str(bundles["first"])], host, 0)
    assert made["is_local"] == is_local


@pytest.mark.parametrize("key", [" x", "x\ny", "schlüssel", "x" * 5000])
def test_a_key_that_no_header_can_hold(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECBOLE_SID_API_KEY", key)
    with pytest.raises(InputError, match="RECBOLE_SID_API_KEY"):
        api_key()


# ---------------------------------------------------------------- other bundles


def test_reload_and_roll_back(client: TestClient, bundles: dict[str, Path], tmp_path: Path) -> None:
    ask = {"histories": [["i1", "i2"]]}
    old = client.post("/recommend", json=ask).json()
    assert client.post("/rollback", json={}).status_code == 409
    point_to(bundles["first"], write(tmp_path / "first-2", 7))
    assert client.post("/recommend", json=ask).json()["version"] == old["version"]

    changed = client.post("/reload", json={}).json()
    new = client.post("/recommend", json=ask).json()
    assert (changed["version"], changed["before"]) == (new["version"], old["version"])
    assert new["lists"] != old["lists"]
    assert [row["items"] for row in new["lists"]] == Recommender.load(tmp_path / "first-2").recommend(
        [["i1", "i2"]]
    ).lists()
    assert metric(client, f'recbole_sid_model_version{{model="first",version="{new["version"]}"}}') == 1
    assert metric(client, f'recbole_sid_model_version{{model="first",version="{old["version"]}"}}') == 0

    assert client.post("/rollback", json={"model": "first"}).json()["version"] == old["version"]
    assert client.post("/recommend", json=ask).json()["lists"] == old["lists"]
    assert client.post("/rollback", json={"model": "first"}).json()["version"] == new["version"]


def test_a_damaged_bundle_does_not_take_over(client: TestClient, bundles: dict[str, Path], tmp_path: Path) -> None:
    old = client.post("/recommend", json={"histories": [["i1"]]}).json()["version"]
    broken = write(tmp_path / "broken", 7)
    (broken / "weights.safetensors").write_bytes(b"\0" * (broken / "weights.safetensors").stat().st_size)
    point_to(bundles["first"], broken)
    answer = client.post("/reload", json={"model": "first"})
    assert answer.status_code == 409
    assert "stays" in answer.json()["error"]
    assert client.post("/recommend", json={"histories": [["i1"]]}).json()["version"] == old
    assert metric(client, 'recbole_sid_reloads_total{model="first",outcome="failed"}') == 1


def test_requests_run_while_bundles_change(bundles: dict[str, Path], tmp_path: Path, monkeypatch: Any) -> None:
    """Each answer is of one bundle as a whole, and none fails; one bundle after another is asked for meanwhile."""
    versions = [write(tmp_path / f"next-{seed}", seed) for seed in (7, 8)]
    known = {}
    for path in (bundles["first"], *versions):
        with TestClient(create_app({"x": path})) as client:
            answer = client.post("/recommend", json={"histories": [["i1", "i2"]]}).json()
            known[answer["version"]] = answer["lists"]
    seen: list[Any] = []
    stop = threading.Event()
    monkeypatch.setattr(Counting, "delay", 0.002)
    with TestClient(create_app(bundles, api_key=KEY), headers={"x-api-key": KEY}) as client:

        def keep_asking() -> None:
            while not stop.is_set():
                seen.append(client.post("/recommend", json={"histories": [["i1", "i2"]]}))

        threads = [threading.Thread(target=keep_asking) for _ in range(4)]
        for thread in threads:
            thread.start()
        for change in range(6):
            point_to(bundles["first"], versions[change % 2])
            assert client.post("/reload", json={}).status_code == 200
            assert client.post("/rollback", json={}).status_code == 200
        stop.set()
        for thread in threads:
            thread.join()
    assert {answer.status_code for answer in seen} == {200}
    assert all(answer.json()["lists"] == known[answer.json()["version"]] for answer in seen)
    assert len({answer.json()["version"] for answer in seen}) > 1


def test_a_watched_link(bundles: dict[str, Path], tmp_path: Path) -> None:
    with TestClient(create_app(bundles, watch=0.02)) as client:

        def version() -> str:
            return client.get("/models").json()["models"][0]["version"]

        old = version()
        point_to(bundles["first"], write(tmp_path / "first-2", 7))
        for _ in range(500):
            if version() != old:
                break
            time.sleep(0.01)
        assert version() != old


# ---------------------------------------------------------------- batches


def test_batches_hold_no_more_than_they_may() -> None:
    batches: list[list[int]] = []

    def run(jobs: Any) -> list[int]:
        batches.append(list(jobs))
        time.sleep(0.01)
        return [job * 2 for job in jobs]

    async def ask() -> list[int]:
        batcher = Batcher(run, max_batch=8)
        found = await asyncio.gather(*(batcher.submit(n, weight=n) for n in (1, 3, 4, 9, 2, 7, 1, 1)))
        await batcher.close()
        return found

    assert asyncio.run(ask()) == [2, 6, 8, 18, 4, 14, 2, 2]
    assert batches == [[1, 3, 4], [9], [2], [7, 1], [1]]


def test_a_batch_waits_for_others() -> None:
    batches: list[int] = []

    async def ask() -> None:
        batcher = Batcher(lambda jobs: batches.append(len(jobs)) or list(jobs), max_batch=3, wait=5000)
        first = asyncio.create_task(batcher.submit(1))
        await asyncio.sleep(0.05)
        assert not batches
        await asyncio.gather(first, batcher.submit(2), batcher.submit(3))  # full: it waits no longer
        await batcher.close()

    asyncio.run(ask())
    assert batches == [3]


def test_too_many_that_wait_are_refused() -> None:
    async def ask() -> list[Any]:
        batcher = Batcher(lambda jobs: time.sleep(0.02) or list(jobs), max_batch=1, max_waiting=3)
        found = await asyncio.gather(*(batcher.submit(n) for n in range(6)), return_exceptions=True)
        await batcher.close()
        return found

    found = asyncio.run(ask())
    assert [result for result in found if isinstance(result, int)] == [0, 1, 2]
    assert all(error.status == 503 for error in found[3:])


def test_closing_finishes_what_was_taken() -> None:
    async def ask() -> list[Any]:
        batcher = Batcher(lambda jobs: time.sleep(0.01) or list(jobs), max_batch=2)
        asked = [asyncio.create_task(batcher.submit(n)) for n in range(7)]
        await asyncio.sleep(0)
        await batcher.close()
        with pytest.raises(Refused, match="stopping"):
            await batcher.submit(8)
        return await asyncio.gather(*asked)

    assert asyncio.run(ask()) == list(range(7))


# ---------------------------------------------------------------- the process


def test_what_is_counted(client: TestClient) -> None:
    for _ in range(3):
        client.post("/recommend", json={"histories": [["i1"], ["no"]]})
    client.post("/recommend", json={})
    client.get("/some/path")
    client.get("/other/path")
    assert metric(client, 'recbole_sid_requests_total{path="/recommend",status="200"}') == 3
    assert metric(client, 'recbole_sid_errors_total{path="/recommend"}') == 1
    assert metric(client, 'recbole_sid_requests_total{path="other",status="404"}') == 2
    assert metric(client, 'recbole_sid_request_seconds_count{path="/recommend"}') == 4
    assert metric(client, 'recbole_sid_batch_size_sum{model="first"}') == 6
    assert metric(client, 'recbole_sid_lists_total{how="popularity",model="first",search="exact"}') == 3


def test_the_document_needs_no_network(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    assert document["paths"]["/recommend"]["post"]["requestBody"]["required"]
    assert client.get("/docs").status_code == 404
    page = "".join(
        client.get(f"/{part}").text for part in ("", "static/page.js", "static/style.css", "static/icon.svg")
    )
    assert not re.findall(r"https?://(?!www\.w3\.org/2000/svg)", page)


def test_names_of_bundles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert named_paths(["a/b", "new=/c/b/"]) == {"b": Path("a/b"), "new": Path("/c/b/")}
    with pytest.raises(InputError, match="NAME=DIRECTORY"):
        named_paths(["a/b", "c/b"])
    assert parse(["serve", "a", "b", "--port=1"]).options == {"input": "a\0b", "port": 1}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--port=0"], "needs a bundle"),
        (["nowhere", "--port=0"], "nowhere"),
        (["nowhere", "--max_batch=0"], "max_batch"),
        (["nowhere", "--max_users=3000"], "max_waiting"),
    ],
)
def test_serve_refuses_at_its_start(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", *arguments]) == 2
    assert words in capsys.readouterr().err


def test_an_address_that_is_taken_is_told_before_bundles_are_read(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert main(["serve", "nowhere", f"--port={taken.getsockname()[1]}"]) == 2
    assert "give another --host or --port" in capsys.readouterr().err
    assert main(["serve", "nowhere", "--port=99999"]) == 2


_PROCESS = f"""
import os
from served_bundles import *
from recbole_sid.serving.engine import ENGINES
from recbole_sid.cli import main
ENGINES[{ENGINE!r}] = {WHERE!r}
Counting.held = Path(os.environ["HELD"])
raise SystemExit(main())
"""


def test_a_process_finishes_what_it_took(bundles: dict[str, Path], tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    held = tmp_path / "held"
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    environment = {**os.environ, "PYTHONPATH": path, "HELD": str(held)}
    command = [sys.executable, "-c", _PROCESS, "serve", *map(str, bundles.values()), f"--port={port}"]
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    answers: list[httpx.Response] = []
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(600):
            try:
                assert httpx.get(f"{url}/ready").status_code == 200
                break
            except httpx.TransportError:
                time.sleep(0.05)
        body = {"histories": [["i1"]]}
        held.touch()
        threads = [
            threading.Thread(target=lambda: answers.append(httpx.post(f"{url}/recommend", json=body, timeout=20)))
            for _ in range(3)
        ]
        for thread in threads:
            thread.start()
        for _ in range(3000):
            if 'waiting{model="first"} 2.0' in httpx.get(f"{url}/metrics").text:
                break  # the first is being ranked, the others wait
            time.sleep(0.01)
        process.terminate()
        held.unlink()
        for thread in threads:
            thread.join()
        assert process.wait(20) in (0, -15)
    finally:
        process.kill()
        process.stderr.close()  # type: ignore[union-attr]
    assert [answer.status_code for answer in answers] == [200, 200, 200]


def test_the_page_is_packaged() -> None:
    root = Path(recbole_sid.__file__).parent.parent
    assert '"recbole_sid.serving.server": ["static/*"]' in (root / "setup.py").read_text(encoding="utf-8")
    assert {file.name for file in STATIC.iterdir()} == {"index.html", "page.js", "style.css", "icon.svg"}


def test_the_document_names_every_path_and_option(client: TestClient) -> None:
    """docs/serving.md is written by hand: it knows what there is."""
    text = (Path(recbole_sid.__file__).parent.parent / "docs" / "serving.md").read_text(encoding="utf-8")
    section = text.split("\n## A server\n")[1].split("\n## ")[0]
    paths = {path for path in client.get("/openapi.json").json()["paths"]}
    assert paths == {path for path in re.findall(r"/[a-z]+", section) if path in paths}
    options = {option.name for option in COMMANDS["serve"].options} - {"port", "access_log"}
    assert options == {name for name in re.findall(r"--([a-z_]+)", section) if name in options}
    assert set(re.findall(r"`--([a-z_]+)", section)) <= options
