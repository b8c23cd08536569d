"""Write the docstrings, the pages and the notebooks as a site: ``make docs``, or ``python .ci/docs.py DIR``.

pdoc renders the docstrings and, as modules of a docstring alone, the pages; nbconvert renders the notebooks as they are
committed. A link to a file that has a page of its own leads there, and every other linked file is copied.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
import warnings
from html import unescape
from pathlib import Path
from types import ModuleType
from urllib.parse import quote, unquote

import pdoc
from nbconvert import HTMLExporter

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
import keypoints  # noqa: E402

PAGES = {  # each page's file and its name in the site
    "README.md": "index",
    "docs/training.md": "docs.training",
    "docs/course.md": "docs.course",
    "data/README.md": "data.README",
    "saved_models/README.md": "saved_models.README",
    "results/README.md": "results.README",
    ".github/CONTRIBUTING.md": "CONTRIBUTING",
    "tests/soak/README.md": "tests.soak.README",
}


def build(site: Path) -> None:
    """Write the site into a folder; what was in there goes."""
    shutil.rmtree(site, ignore_errors=True)
    for name in keypoints.__all__:  # pdoc sees what the package imports late only once it is there
        setattr(keypoints, name, getattr(keypoints, name))
    submodules = sorted(f"keypoints.{path.stem}" for path in (ROOT / "keypoints").glob("[!_]*.py"))
    names = pdoc.extract.walk_specs(["keypoints", *submodules, "training", "!training.studies", "data_load", "models"])
    documented = {name: pdoc.doc.Module.from_name(name) for name in names}
    pages = {name: pdoc.doc.Module(page(ROOT / file, name)) for file, name in PAGES.items()}
    notebooks = sorted(ROOT.glob("*.ipynb"))

    homes = {ROOT / file: site / f"{name.replace('.', '/')}.html" for file, name in PAGES.items()}
    homes |= {notebook: site / f"{notebook.stem}.html" for notebook in notebooks}
    homes |= {module.source_file: site / f"{name.replace('.', '/')}.html" for name, module in documented.items()}

    def relink(source: Path, html: str) -> str:
        """Return the HTML of a page with its relative links led to where their targets are in the site."""

        def moved(match: re.Match) -> str:
            href, mark, anchor = match[2].partition("#")
            target = Path(os.path.normpath(source.parent / unquote(href)))
            if not href or re.match(r"\w+:", href) or not target.is_file():  # broken_links tells of the last
                return match[0]
            if target not in homes:
                copy = site / target.relative_to(ROOT)
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(target, copy)
            home = homes.get(target) or copy
            return f'{match[1]}="{quote(os.path.relpath(home, homes[source].parent))}{mark}{anchor}"'

        return re.sub(r'(?<= )(href|src)="([^"]+)"', moved, html)

    def write(source: Path, html: str) -> None:
        homes[source].parent.mkdir(parents=True, exist_ok=True)
        homes[source].write_text(html, encoding="utf-8")

    pdoc.render.configure(docformat="google", template_directory=ROOT / ".ci" / "docs")
    pdoc.render.env.globals.update(pages=pages, notebooks=[notebook.stem for notebook in notebooks])
    modules = pages | documented
    for file, name in PAGES.items():
        write(ROOT / file, relink(ROOT / file, pdoc.render.html_module(pages[name], modules)))
    for module in documented.values():
        write(module.source_file, pdoc.render.html_module(module, modules))
    (site / "search.js").write_text(pdoc.render.search_index(modules), encoding="utf-8")
    exporter = HTMLExporter(template_name="alt", extra_template_basedirs=[str(ROOT / ".ci" / "html")])
    for notebook in notebooks:
        write(notebook, relink(notebook, exporter.from_filename(str(notebook))[0]))


def page(file: Path, name: str) -> ModuleType:
    """A module that has a page as its docstring."""
    module = ModuleType(name, file.read_text(encoding="utf-8"))
    module.__docformat__ = "markdown"
    return module


def broken_links(site: Path) -> list[str]:
    """The links and pictures inside a site whose file or anchor is missing."""
    pages = {
        file: re.sub(r"<script\b.*?</script>", "", file.read_text(encoding="utf-8"), flags=re.DOTALL)
        for file in sorted(site.rglob("*.html"))
    }
    anchors = {file: set(map(unescape, re.findall(r'<\w[^>]* id="([^"]*)"', text))) for file, text in pages.items()}
    broken = []
    for file, text in pages.items():
        for link in map(unescape, re.findall(r'<\w[^>]* (?:href|src)="([^"]+)"', text)):
            path, _, anchor = link.partition("#")
            if re.match(r"\w+:", link):
                continue
            target = Path(os.path.normpath(file.parent / unquote(path))) if path else file
            # As a browser does: the anchor as it is written, else decoded.
            if not target.is_file() or (anchor and not {anchor, unquote(anchor)} & anchors.get(target, set())):
                broken.append(f"{file.relative_to(site)}: {link}")
    return broken


def main(site: Path) -> int:
    warnings.filterwarnings("ignore", "Error parsing type annotation")  # of what a NamedTuple has by itself
    build(site)
    broken = broken_links(site)
    print("\n".join(broken) or f"done: {site}/index.html", file=sys.stderr if broken else sys.stdout)
    return bool(broken)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).resolve()))
