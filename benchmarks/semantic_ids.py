"""Quality of semantic IDs on real datasets: writes results/semantic_ids.md.

python benchmarks/semantic_ids.py DATA_PATH [--datasets scientific beauty]

DATA_PATH holds ``<name>/<name>.inter`` and ``.item``, embeddings ``<name>.emb-minilm.npy`` (row = item id) and
ready-made sets ``<name>.sid.rqvae-zcr.json``. Every set is made, or read, and reported on by the command shown.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from recbole_sid.evaluation.tables import markdown_table
from recbole_sid.util.files import write_text

RUNNER = Path(__file__).parent.parent / "run_recbole_sid.py"
RESULTS = Path(__file__).parent.parent / "results" / "semantic_ids.md"
TOKENIZERS = ("rq_kmeans", "rq_kmeans_balanced", "rq_vae", "faiss_rq", "opq", "random")
READY_MADE = "rqvae-zcr"
INTRODUCTION = """\
# Semantic IDs on real data

Sentence embeddings (all-MiniLM-L6-v2, 384 numbers an item), 3 levels of 256 codes and the rank of collisions, seed
2020; and one ready-made set. Written by `python benchmarks/semantic_ids.py DATA_PATH`; each row is one command:

    recbole-sid tokenize --dataset=NAME --data_path=DATA_PATH --features=[file] \\
        --feature_file=DATA_PATH/NAME/NAME.emb-minilm.npy --codebook_sizes="[256,256,256]" \\
        --tokenizer=TOKENIZER --report
    recbole-sid report DATA_PATH/NAME/NAME.sid.rqvae-zcr.json --dataset=NAME --data_path=DATA_PATH \\
        --features=[file] --feature_file=DATA_PATH/NAME/NAME.emb-minilm.npy

Error is the mean squared reconstruction error over the features' variance. Collided items share their codes before the
collision rule. Neighbours: the share of each item's 10 nearest items by features that have the same first code, and the
same first two. Adjacent: pairs of neighbours in training sequences with the same first code, and by chance. The
reports warn of more than 5% collided items, and of what stands below a table.
"""


def run(words: list[str]) -> dict[str, Any]:
    """Run a command of recbole-sid and return the JSON object it writes."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "result.json"
        command = [sys.executable, str(RUNNER), *words, f"--json={file}", "--show_progress=False"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=folder)
        return json.loads(file.read_text(encoding="utf-8"))


def cells(name: str, found: dict[str, Any]) -> dict[str, str]:
    """Return a row of the table."""
    rows = found["rows"]

    def levels(key: str, digits: int) -> str:
        return " / ".join(f"{row[key]:.{digits}f}" for row in rows)

    error = found["reconstruction_error"]
    collided = f"{found['collided_items']:,} ({found['collided_share']:.1%}), largest {found['largest_group']}"
    neighbours, adjacent = found["neighbourhood"]["shared"], found["co_occurrence"]
    return {
        "semantic IDs": name,
        "error": "" if error is None else f"{error:.3f}",
        "collided items": collided,
        "perplexity per level": levels("perplexity", 0),
        "children per prefix": levels("children_mean", 1),
        "only children": levels("only_child_share", 2),
        "neighbours, 1 and 2 codes": f"{neighbours[0]:.1%}, {neighbours[1]:.1%}",
        "adjacent / chance": f"{adjacent['shared'][0]:.1%} / {adjacent['chance'][0]:.1%}",
    }


def table(data_path: Path, dataset: str) -> str:
    """Return a dataset's table and, in words, the warnings that its columns do not show."""
    common = [f"--dataset={dataset}", f"--data_path={data_path}", "--features=[file]", "--use_gpu=False"]
    common.append(f"--feature_file={data_path / dataset / f'{dataset}.emb-minilm.npy'}")
    rows, warnings = [], []
    for name in (*TOKENIZERS, READY_MADE):
        print(f"{dataset}: {name} ...", file=sys.stderr, flush=True)
        if name == READY_MADE:
            found = run(["report", str(data_path / dataset / f"{dataset}.sid.{name}.json"), *common])
        else:
            found = run(["tokenize", f"--tokenizer={name}", "--codebook_sizes=[256,256,256]", "--report", *common])
        rows.append(cells(name, found))
        shown = f"{found['collided_share']:.1%} of the items share their codes"
        warnings += [f"- {name}: {warning}" for warning in found["warnings"] if not warning.startswith(shown)]
    texts = [key for key in rows[0] if key not in ("error", "neighbours, 1 and 2 codes", "adjacent / chance")]
    parts = [f"## {dataset}", markdown_table(rows, left=texts), "\n".join(warnings)]
    return "\n\n".join(part for part in parts if part)


def main() -> None:
    """Write the results file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data_path", type=Path)
    parser.add_argument("--datasets", nargs="+", default=["scientific", "beauty"])
    options = parser.parse_args()
    tables = [table(options.data_path.resolve(), dataset) for dataset in options.datasets]
    write_text(RESULTS, "\n\n".join([INTRODUCTION.strip(), *tables]) + "\n")


if __name__ == "__main__":
    main()
