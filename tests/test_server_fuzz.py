"""Whatever is sent to the server, it answers as its OpenAPI document says, and never with a failure of its own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import httpx
import hypothesis.strategies as st
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from served_bundles import ENGINE, WHERE, running, write

from recbole_sid.serving.engine import ENGINES
from recbole_sid.serving.server.app import create_app
from recbole_sid.serving.server.limits import Limits

KEY = {"x-api-key": "key"}
UNLIKELY = ("POST /explain", "POST /rollback")  # by chance, of known items, or of a bundle before
CHECKS = [not_a_server_error, content_type_conformance, response_schema_conformance, status_code_conformance]
QUICK = settings(max_examples=15, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patched:
        patched.setitem(ENGINES, ENGINE, WHERE)
        path = write(tmp_path_factory.mktemp("fuzz") / "bundle")
        with running(create_app({"model": path}, Limits(max_users=4, max_k=40), "key")) as address:
            yield address


def test_answers_are_as_documented(address: str) -> None:
    document = schemathesis.openapi.from_url(f"{address}/openapi.json")
    operations = [operation.ok() for operation in document.get_all_operations()]
    assert len(operations) == 9
    statuses: dict[str, Counter[int]] = {operation.label: Counter() for operation in operations}
    for operation in operations:

        @QUICK
        @given(case=operation.as_strategy())
        def send(case: Any) -> None:
            statuses[case.operation.label][case.call_and_validate(headers=KEY, checks=CHECKS).status_code] += 1

        send()
    assert all(200 in found for label, found in statuses.items() if label not in UNLIKELY), statuses


# Bodies near to good ones, which the document alone seldom leads to.
ITEMS = st.lists(st.sampled_from(["i1", "i2", "i29", "i30", "", "é", "i1 ", "\0"]), max_size=6)
ANY = st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), st.lists, max_leaves=5)
BODIES = st.fixed_dictionaries(
    {},
    optional={
        "histories": st.lists(ITEMS, max_size=5) | ANY,
        "users": ITEMS | ANY,
        "history": ITEMS | ANY,
        "k": st.integers(-1, 41) | ANY,
        "exclude": st.just("seen") | ITEMS | st.lists(ITEMS, max_size=5) | ANY,
        "items": ITEMS | ANY,
        "titles": st.booleans(),
        "model": st.sampled_from(["model", "other", "../model", ""]) | ANY,
    },
)


@pytest.mark.parametrize("path", ["/recommend", "/explain", "/reload", "/rollback"])
def test_no_body_makes_it_fail(address: str, path: str) -> None:
    with httpx.Client(base_url=address, headers=KEY) as client:

        @settings(QUICK, max_examples=40)
        @given(body=BODIES | st.binary(max_size=60))
        def send(body: Any) -> None:
            try:
                answer = client.post(path, **({"content": body} if isinstance(body, bytes) else {"json": body}))
            except ValueError:  # of NaN, which JSON does not know
                return
            assert answer.status_code in (200, 404, 409, 422)
            assert answer.status_code == 200 or list(answer.json()) == ["error"]

        send()
