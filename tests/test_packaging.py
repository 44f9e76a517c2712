"""What a checkout promises: the README's commands, the property files, nothing of Ray on import."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import yaml

import recbole_sid
from recbole_sid.config import PROPERTIES

ROOT = Path(recbole_sid.__file__).resolve().parent.parent


def commands() -> list[str]:
    return re.findall(r"```bash\n(pip install .*)\n```", (ROOT / "README.md").read_text(encoding="utf-8"))


def test_ci_calls_the_readmes_test_command() -> None:
    main_job, tests = commands()
    assert main_job.endswith("python run_recbole_sid.py")
    assert f"{tests} || exit 1" in (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()  # set -e skips &&


def test_readme_shows_the_recbole_version_that_is_required() -> None:
    assert all(f"recbole=={recbole_sid.compat.RECBOLE_VERSION} " in command for command in commands())


def test_property_files_are_read_and_packaged() -> None:
    files = list(PROPERTIES.rglob("*.yaml"))
    assert {"overall.yaml", "TIGER.yaml", "ml-100k.yaml"} <= {file.name for file in files}
    patterns = re.findall(r'"([*/]+\.yaml)"', (ROOT / "setup.py").read_text(encoding="utf-8"))
    packaged = {file for pattern in patterns for file in PROPERTIES.glob(pattern)}
    assert packaged == set(files)
    assert all(isinstance(yaml.safe_load(file.read_text(encoding="utf-8")), dict) for file in files)


def test_changelog_names_the_version() -> None:
    assert f"## {recbole_sid.__version__}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_ray_is_not_imported_before_tuning() -> None:
    code = "import recbole_sid.quick_start, recbole_sid.main_job, recbole_sid.cli, sys; print('ray' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "False"
