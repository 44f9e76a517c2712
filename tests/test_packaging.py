"""What a checkout promises: the README's commands, the property files, nothing of Ray on import."""

from __future__ import annotations

import ast
import configparser
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import recbole_sid
from recbole_sid.compat import RECBOLE_VERSION
from recbole_sid.config import PROPERTIES

ROOT = Path(recbole_sid.__file__).resolve().parent.parent


def commands() -> list[str]:
    return re.findall(r"```bash\n(pip install .*)\n```", (ROOT / "README.md").read_text(encoding="utf-8"))


def test_ci_calls_the_readmes_test_command() -> None:
    main_job, tests = commands()
    assert main_job.endswith("python run_recbole_sid.py")
    assert f"{tests} || exit 1" in (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()  # set -e skips &&


def test_readme_shows_the_recbole_version_that_is_required() -> None:
    assert all(f"recbole=={RECBOLE_VERSION} " in command for command in commands())


def test_property_files_are_read_and_packaged() -> None:
    files = list(PROPERTIES.rglob("*.yaml"))
    assert {"overall.yaml", "TIGER.yaml", "ml-100k.yaml"} <= {file.name for file in files}
    patterns = re.findall(r'"([*/]+\.yaml)"', (ROOT / "setup.py").read_text(encoding="utf-8"))
    packaged = {file for pattern in patterns for file in PROPERTIES.glob(pattern)}
    assert packaged == set(files)
    assert all(isinstance(yaml.safe_load(file.read_text(encoding="utf-8")), dict) for file in files)


def test_changelog_and_citation_name_the_version() -> None:
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert changes.split("\n## ")[1].split("\n")[0] == recbole_sid.__version__
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == recbole_sid.__version__


def test_commits_are_checked_by_the_commands_of_ci() -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"][0]["hooks"]
    lines = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    entries = {hook["entry"].removesuffix(" --force-exclude") for hook in hooks}
    assert {"ruff check", "ruff format --check", "mypy recbole_sid examples/extending", "lint-imports"} <= set(lines)
    assert entries == {"ruff check", "ruff format", "mypy recbole_sid examples/extending", "lint-imports"}
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8"))
    assert {"run": "bash .ci/run"} in workflow["jobs"]["test"]["steps"]
    versions = workflow["jobs"]["test"]["strategy"]["matrix"]["python"]
    assert all(f"Python :: {version}\n" in (ROOT / "setup.cfg").read_text(encoding="utf-8") for version in versions)


def test_ray_is_not_imported_before_tuning() -> None:
    modules = "recbole_sid.quick_start, recbole_sid.comparison.main_job, recbole_sid.cli"
    code = f"import {modules}, sys; print('ray' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize("words", ["import recbole_sid", "from recbole_sid.cli import main; main(['--help'])"])
def test_help_imports_nothing_heavy(words: str) -> None:
    heavy = ("torch", "recbole", "numpy", "pandas", "ray")
    code = f"import sys; {words}; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.splitlines()[-1] == "[]"


# Each of our modules imported as the first one, in one process whose third-party modules are there already.
_EACH_ALONE = """
import importlib, sys
import recbole.quick_start, torch
for name in sys.argv[1:]:
    for loaded in [loaded for loaded in sys.modules if loaded.split(".")[0] == "recbole_sid"]:
        del sys.modules[loaded]
    module = importlib.import_module(name)
    origins = [getattr(value, "__module__", "") for value in vars(module).values() if callable(value)]
    uses = any((origin or "").startswith("recbole.") for origin in origins)
    if uses and "recbole_sid.compat" not in sys.modules:
        print("RecBole is not patched by", name)
"""


def test_each_module_can_be_imported_first_and_patches_recbole_if_it_uses_it() -> None:
    files = sorted((ROOT / "recbole_sid").rglob("*.py"))
    names = [".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for file in files]
    names = [name for name in names if not name.endswith("__main__")]
    words = [sys.executable, "-c", _EACH_ALONE, *names]
    done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout == ""


# Packages whose name differs from that of their module.
_PACKAGES = {"yaml": "pyyaml", "sklearn": "scikit-learn", "faiss": "faiss-cpu"}


def test_what_is_imported_is_declared() -> None:
    text = (ROOT / "setup.cfg").read_text(encoding="utf-8")
    declared = {name.lower().replace("_", "-") for name in re.findall(r"^    ([\w.-]+)(?:\[\w+\])?[>=<]", text, re.M)}
    imported = set()
    for file in (ROOT / "recbole_sid").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module or ""]
            imported |= {name.split(".")[0] for name in names}
    outside = imported - set(sys.stdlib_module_names) - {"recbole_sid", "recbole"}  # RecBole is installed beside it
    assert {"filelock", "threadpoolctl"} <= outside
    assert {_PACKAGES.get(name, name).lower().replace("_", "-") for name in outside} <= declared


def test_a_name_stands_for_one_thing() -> None:
    classes: dict[str, list[str]] = {}
    modules: dict[str, list[str]] = {}
    for file in (ROOT / "recbole_sid").rglob("*.py"):
        modules.setdefault(file.stem, []).append(file.parent.name)
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                classes.setdefault(node.name, []).append(str(file))
    assert {name: files for name, files in classes.items() if len(files) > 1} == {}
    # Modules of one name are forms of one thing (nn.t5, fast.t5), but for names that would say nothing.
    vague = ("report", "tables", "figures", "runs", "results", "job", "data", "utils", "helpers", "common")
    assert {name: rooms for name, rooms in modules.items() if name in vague and len(rooms) > 1} == {}


def test_the_oldest_versions_are_those_of_setup_cfg() -> None:
    metadata = configparser.ConfigParser()
    metadata.read(ROOT / "setup.cfg", encoding="utf-8")
    bounds = re.findall(r"^([\w-]+)(?:\[\w+\])?>=([\w.]+)", metadata["options"]["install_requires"].strip(), re.M)
    pinned = (ROOT / ".ci" / "oldest.txt").read_text(encoding="utf-8")
    found = dict(re.findall(r"^([\w-]+)==([\w.]+)$", pinned, re.M))
    needed = {name: version for name, version in bounds if name != "torch"}
    assert set(found) == set(needed)
    for name, version in needed.items():
        assert found[name] == version or found[name].startswith(f"{version}."), name
