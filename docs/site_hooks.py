"""Hooks of the site's build: files that lie outside docs/ become pages of it, and links to them lead there.

The Markdown stays what it is in the repository, where its links are relative paths. A link from docs/ to results/ leads
to the page of that result, one to a file of code or settings to a page that shows it, one to a folder to its list of
files.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent
# Path in the repository -> in the site; other files of docs/ stand in the site's root.
_MOVED = {path.name: path.name for path in ROOT.glob("*.md")} | {"README.md": "index.md"}
_FOLDERS = ("results", "benchmarks")  # their .md and pictures keep their paths
_LINK = re.compile(r"(\]\()([^()\s]+)(\))")
_FENCED = re.compile(r"(^ *```.*?^ *```|`[^`\n]+`)", re.M | re.S)
_LANGUAGES = {".py": "python", ".yaml": "yaml", ".mjs": "javascript", ".toml": "toml", ".cff": "yaml"}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add pages and pictures from outside docs/, and pages for the code and folders that links name."""
    outside = {name: ROOT / name for name in _MOVED}
    for folder in _FOLDERS:
        outside |= {path.relative_to(ROOT).as_posix(): path for path in sorted((ROOT / folder).glob("*.md"))}
        outside |= {path.relative_to(ROOT).as_posix(): path for path in sorted((ROOT / folder).glob("*.png"))}
    for name, path in outside.items():
        uri = _MOVED.get(name, name)
        if path.suffix == ".md":
            files.append(
                File.generated(config, uri, content=path.read_text(encoding="utf-8"), inclusion=_inclusion(uri))
            )
        else:
            files.append(File.generated(config, uri, abs_src_path=str(path)))
    linked = set()
    for file in files.documentation_pages():
        targets = [found[1].partition("#")[0] for found in _LINK.findall(_FENCED.sub("", file.content_string))]
        linked |= {_in_repository(file.src_uri, target) for target in targets if target and ":" not in target}
    for name in sorted(_with_contents(filter(_is_shown, linked))):
        text = f"# {name}\n\n{_shown(name)}\n"
        page = File.generated(config, _shown_at(name), content=text, inclusion=InclusionLevel.NOT_IN_NAV)
        files.append(page)
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Let links lead to the site's pages."""
    here = page.file.src_uri

    def led(found: re.Match[str]) -> str:
        before, target, after = found.groups()
        return f"{before}{_led(here, target, files)}{after}"

    parts = _FENCED.split(markdown)
    return "".join(part if number % 2 else _LINK.sub(led, part) for number, part in enumerate(parts))


def _inclusion(uri: str) -> InclusionLevel:
    """Let pages of the repository's root be there without a place in the navigation."""
    in_nav = "/" in uri or uri in ("index.md", "CHANGELOG.md")
    return InclusionLevel.UNDEFINED if in_nav else InclusionLevel.NOT_IN_NAV


def _led(here: str, target: str, files: Files) -> str:
    path, hash_sign, anchor = target.partition("#")
    if not path or ":" in path:
        return target
    name = _in_repository(here, path)
    uri = _shown_at(name) if _is_shown(name) else _in_site(name)
    return posixpath.relpath(uri, posixpath.dirname(here) or ".") + hash_sign + anchor


def _in_repository(uri: str, target: str) -> str:
    """Return the path in the repository of what a page of the site names."""
    back = {moved: name for name, moved in _MOVED.items()}
    outside = uri in back or uri.split("/")[0] in _FOLDERS
    page = back.get(uri, uri) if outside else f"docs/{uri}"
    return posixpath.normpath(posixpath.join(posixpath.dirname(page), target))


def _in_site(name: str) -> str:
    return _MOVED.get(name, name.removeprefix("docs/"))


def _is_shown(name: str) -> bool:
    """Say whether a path of the repository gets a page that shows what is there."""
    path = ROOT / name
    is_page = name in _MOVED or (path.suffix in (".md", ".png", ".svg") and name.split("/")[0] in ("docs", *_FOLDERS))
    return not is_page and not name.startswith("..") and path.exists()


def _with_contents(names: Iterable[str]) -> set[str]:
    found = set(names)
    return found.union(*(_contents(name) for name in found))


def _contents(name: str) -> list[str]:
    """Return the files of code and settings in a folder."""
    files = sorted((ROOT / name).rglob("*"))
    return [file.relative_to(ROOT).as_posix() for file in files if file.suffix in _LANGUAGES]


def _shown_at(name: str) -> str:
    return f"source/{name}.md"


def _shown(name: str) -> str:
    path = ROOT / name
    if path.is_dir():
        here = posixpath.dirname(_shown_at(name))
        return "\n".join(f"- [{file}]({posixpath.relpath(_shown_at(file), here)})" for file in _contents(name))
    text = path.read_text(encoding="utf-8")
    return f"````{_LANGUAGES.get(path.suffix, 'text')}\n{text}\n````"
