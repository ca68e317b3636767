"""Hooks of mkdocs: pages outside docs/ join the site, and links between files keep working.

Every Markdown file links to others by their paths in the repository, so that it reads well there.
On the site docs/ is the root, README.md is its index, and a linked file of the repository is
included under its own path.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path, PurePosixPath
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
LINK = re.compile(r"(\]\()(?!https?:|mailto:|#)([^)#\s]+)")
PAGES = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "benchmarks/RESULTS.md")


def on_files(files: Files, config: Any) -> Files:
    """Add the pages outside docs/, and whatever they and the others link to."""
    waiting = [*PAGES, *(f"docs/{file.src_uri}" for file in files if file.is_documentation_page())]
    seen = set()
    while waiting:
        page = waiting.pop()
        path = ROOT / page
        if page in seen or not path.is_file():
            continue
        seen.add(page)
        if files.get_file_from_path(uri(page)) is None:
            files.append(File.generated(config, uri(page), content=path.read_bytes()))
        if path.suffix == ".md":
            waiting += [to(page, link) for _, link in LINK.findall(path.read_text("utf-8"))]
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Point links to where their targets are on the site."""
    here = source(page.file.src_uri)

    def point(match: re.Match[str]) -> str:
        target = to(here, match[2])
        if (ROOT / target).is_dir():  # no page of the site: its README on the repository's host
            return match[1] + "#"
        up = "../" * (len(PurePosixPath(uri(here)).parts) - 1)
        return match[1] + up + uri(target)

    return LINK.sub(point, markdown)


def uri(path: str) -> str:
    """Path on the site of a file of the repository."""
    return "index.md" if path == "README.md" else path.removeprefix("docs/")


def source(uri: str) -> str:
    """Path in the repository of a file of the site."""
    if uri == "index.md":
        return "README.md"
    return uri if (ROOT / uri).is_file() else f"docs/{uri}"


def to(page: str, link: str) -> str:
    """The path in the repository that a page's link leads to."""
    return posixpath.normpath(posixpath.join(posixpath.dirname(page), link))
