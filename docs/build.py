#!/usr/bin/env python3
"""Builds docs/ as a book in target/book, and checks every link in it.

    python3 docs/build.py [--mdbook PROGRAM]

The pages link to files of the repository, such as ../deploy/config.yaml. The book has a copy of each below repository/:
Markdown as a page, a folder as a page that lists its files, and other files as they are. So it can be read without the
repository.

Exit code 1 with one line for each link that leads nowhere.
"""

import argparse
import html.parser
import os
import pathlib
import re
import shutil
import subprocess
import sys
import urllib.parse

ROOT = pathlib.Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
STAGE = ROOT / "target" / "book-source"
BOOK = ROOT / "target" / "book"
# A link in Markdown outside of code: the text may hold code, the target has no blank.
LINK = re.compile(r"\[([^\]]*)\]\(([^)\s]+)\)")
# Links to what only those need who have the repository before them stay text.
SOURCE = ("src", "tests", "fuzz")


def outside_code(text, change):
    """Changes what stands outside of fenced blocks."""
    parts = re.split(r"(^```.*?^```$)", text, flags=re.MULTILINE | re.DOTALL)
    return "".join(part if part.startswith("```") else change(part) for part in parts)


class Repository:
    """What the book takes along: Markdown and folders become pages, other files are copied."""

    def __init__(self):
        self.pages = {}  # the path in the repository: its place in the book
        self.files = set()

    def rewrite(self, text, source, here):
        """The text of a file of the repository, with links as the page at `here` needs them."""

        def one(found):
            target = found[2]
            if re.match(r"[a-z]+:", target) or target.startswith("#"):
                return found[0]
            path, _, fragment = target.partition("#")
            real = pathlib.Path(os.path.normpath(source.parent / path))
            if real.parts[0] in SOURCE:
                return found[1]
            place = self.place(real)
            relative = os.path.relpath(place, here.parent)
            return f"[{found[1]}]({relative}" + (f"#{fragment}" if fragment else "") + ")"

        return outside_code(text, lambda part: LINK.sub(one, part))

    def place(self, path):
        """Where a file of the repository is in the book."""
        if path == pathlib.Path("docs/SUMMARY.md"):
            # The book has its table of contents on every page.
            return pathlib.Path("introduction.md")
        if path.parent == pathlib.Path("docs") and path.suffix == ".md":
            return pathlib.Path(path.name)
        if (ROOT / path).is_dir():
            place = pathlib.Path("repository") / path / "files.md"
        else:
            place = pathlib.Path("repository") / path
        if place.suffix == ".md":
            self.pages.setdefault(path, place)
        else:
            self.files.add(path)
        return place


def listing(path, repository, place):
    """A page that lists the files of a folder."""
    lines = [f"# {path}/", ""]
    for file in sorted(found for found in (ROOT / path).rglob("*") if found.is_file()):
        relative = file.relative_to(ROOT)
        target = os.path.relpath(repository.place(relative), place.parent)
        lines.append(f"- [`{file.relative_to(ROOT / path)}`]({target})")
    return "\n".join(lines) + "\n"


def title(text):
    return re.search(r"^# (.+)$", text, re.MULTILINE)[1].replace("`", "")


def stage():
    """Writes the book's source into target/book-source."""
    shutil.rmtree(STAGE, ignore_errors=True)
    source = STAGE / "source"
    source.mkdir(parents=True)
    repository = Repository()
    for page in sorted(DOCS.glob("*.md")):
        here = pathlib.Path(page.name)
        text = repository.rewrite(page.read_text(), page.relative_to(ROOT), here)
        (source / here).write_text(text)
    chapters = ["", "# Files of the repository", ""]
    done = set()
    # A page may lead to further ones.
    while todo := sorted(set(repository.pages) - done):
        for path in todo:
            place = repository.pages[path]
            real = ROOT / path
            text = listing(path, repository, place) if real.is_dir() else real.read_text()
            if not real.is_dir():
                text = repository.rewrite(text, path, place)
            (source / place).parent.mkdir(parents=True, exist_ok=True)
            (source / place).write_text(text)
            chapters.append(f"- [{title(text)}]({place})")
            done.add(path)
    for path in repository.files:
        place = source / repository.place(path)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / path, place)
    with (source / "SUMMARY.md").open("a") as summary:
        summary.write("\n".join(chapters) + "\n")
    settings = (DOCS / "book.toml").read_text()
    settings = settings.replace('src = "."', 'src = "source"').replace("../target/book", str(BOOK))
    # The list of changes has a word of everything, and would be the first result of most searches.
    settings += '\n[output.html.search.chapter]\n"repository/CHANGELOG.md" = { enable = false }\n'
    (STAGE / "book.toml").write_text(settings)


# What mdBook's pages lack for people who use a keyboard or a screen reader: text in mdBook's template, and in its place.
ACCESSIBILITY = (
    # A label takes no keys, and its state is not read out.
    (
        re.compile(r'<label id="mdbook-sidebar-toggle" class="icon-button" for="([^"]*)"(.*?)</label>', re.DOTALL),
        r'<button id="mdbook-sidebar-toggle" class="icon-button" type="button" '
        r"""onclick="document.getElementById('\1').click()"\2</button>""",
    ),
    (re.compile('<div id="mdbook-menu-bar" class'), '<div id="mdbook-menu-bar" role="banner" class'),
    # What is wider than the window is scrolled with the arrow keys.
    (re.compile("<pre><code"), '<pre><code tabindex="0"'),
    (re.compile('<div class="table-wrapper">'), '<div class="table-wrapper" tabindex="0">'),
)


def make_accessible():
    """Mends mdBook's pages.  Nothing to mend in all of them means that its template has changed, which is an error."""
    mended = [0] * len(ACCESSIBILITY)
    for path in BOOK.rglob("*.html"):
        text = path.read_text()
        for index, (found, instead) in enumerate(ACCESSIBILITY):
            text, count = found.subn(instead, text)
            mended[index] += count
        path.write_text(text)
    for (found, _), count in zip(ACCESSIBILITY, mended):
        if count == 0:
            sys.exit(f"mdBook's template has changed: no page has {found.pattern}")


class Page(html.parser.HTMLParser):
    """The ids and the links of a page."""

    def __init__(self, path):
        super().__init__()
        self.ids, self.links = set(), []
        self.feed(path.read_text())

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        if attributes.get("id"):
            self.ids.add(attributes["id"])
        for name in ("href", "src"):
            if attributes.get(name) and tag != "base":
                self.links.append(attributes[name])


def dead_links():
    """Every link of the book that leads nowhere, and how many there are."""
    pages = {path: Page(path) for path in BOOK.rglob("*.html") if path.name not in ("print.html", "toc.html")}
    dead, count = [], 0
    for path, page in pages.items():
        if path.name == "404.html":
            continue
        for link in page.links:
            parts = urllib.parse.urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            count += 1
            target = path
            if parts.path:
                target = pathlib.Path(os.path.normpath(path.parent / urllib.parse.unquote(parts.path)))
            if target.is_dir():
                target /= "index.html"
            if not target.exists():
                dead.append(f"{path.relative_to(BOOK)}: {link}: no such file")
            elif parts.fragment and target in pages:
                if urllib.parse.unquote(parts.fragment) not in pages[target].ids:
                    dead.append(f"{path.relative_to(BOOK)}: {link}: no such heading")
    return sorted(set(dead)), count


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--mdbook", default="mdbook", help="the program mdbook")
    arguments = parser.parse_args()
    stage()
    shutil.rmtree(BOOK, ignore_errors=True)
    run = subprocess.run([arguments.mdbook, "build", str(STAGE)], stderr=subprocess.PIPE, text=True)
    said = run.stderr.strip()
    if run.returncode != 0 or "WARN" in said or "ERROR" in said:
        sys.exit(said or f"mdbook ended with {run.returncode}")
    make_accessible()
    dead, count = dead_links()
    if dead:
        sys.exit("\n".join(dead))
    pages = len(list(BOOK.rglob("*.html")))
    print(f"{BOOK.relative_to(ROOT)}/index.html: {pages} pages, {count} links")


if __name__ == "__main__":
    main()
