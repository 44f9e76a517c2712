"""Say which files of the package a wheel lacks: ``python .ci/contents.py FILE.whl``, in the checkout."""

import sys
import zipfile
from pathlib import Path

shipped = zipfile.ZipFile(sys.argv[1]).namelist()
for folder, inside in (("recbole_sid", "recbole_sid"), ("properties", "recbole_sid/properties")):
    files = [file for file in Path(folder).rglob("*") if file.is_file() and "__pycache__" not in file.parts]
    missing = {f"{inside}/{file.relative_to(folder).as_posix()}" for file in files} - set(shipped)
    if missing or not files:
        sys.exit(f"The wheel lacks files of {folder}: {', '.join(sorted(missing))}")
