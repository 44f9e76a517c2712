"""Tables: the cells that a reader sees, their order, decimals and sides."""

from __future__ import annotations

from conftest import table_cells

from recbole_sid.evaluation.tables import latex_table, markdown_table

ROWS = [
    {"model": "TIGER", "seeds": 3, "ndcg@10": 0.03125, "users_per_s": 12345.6, "share_of_teacher": None, "x": "a | b"},
    {
        "model": "SID_MLP",
        "seeds": 12000,
        "ndcg@10": 1 / 3,
        "users_per_s": None,
        "share_of_teacher": 0.98765,
        "x": "c\nd",
    },
]


def test_markdown_shows_titles_decimals_and_nothing_for_none() -> None:
    heading, *cells = table_cells(markdown_table(ROWS))
    assert heading == ["Model", "Seeds", "NDCG@10", "Users/s", "Share of teacher's NDCG@10", "x"]
    assert cells == [
        ["TIGER", "3", "0.0312", "12,346", "", "a \\| b"],
        ["SID_MLP", "12,000", "0.3333", "", "0.988", "c d"],
    ]


def test_names_stand_left_and_figures_right() -> None:
    sides = markdown_table(ROWS).splitlines()[1].strip("|").split("|")
    assert [(side[0] + side[-1]).replace("-", "") for side in sides] == [":", *[":"] * 5]
    assert [side.startswith(":") for side in sides] == [True, *[False] * 5]
    assert [line.count("|") for line in markdown_table(ROWS[1:]).splitlines()] == [7] * 3
    assert markdown_table([{"what": "a", "n": "1"}], left=["what"]).splitlines()[1].startswith("|:---")


def test_latex_escapes_what_is_text() -> None:
    text = latex_table([{"model": "a_b", "ndcg@10": r"\textbf{0.1}"}])
    assert text.splitlines()[4] == r"a\_b & \textbf{0.1} \\"
