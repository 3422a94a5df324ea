#!/usr/bin/env python3
"""Writes the licences of all that is inside the binary: whoever passes that on passes these on, too.

    python3 deploy/notices.py --output target/dist/THIRD-PARTY-NOTICES

Each text stands there once, with the packages that it came in.  What is inside is what deploy/sbom.py lists;
two runs write the same bytes.
"""

import argparse
import collections
import pathlib
import re
import sys

sys.dont_write_bytecode = True
import sbom

LICENCE_FILE = re.compile(r"(licen[cs]e|copying|copyright|notice|unlicense)", re.IGNORECASE)

# The C libraries whose licence does not stand at the top of the crate that carries them.
INSIDE = {"libmimalloc-sys": ["c_src/mimalloc/v3/LICENSE"], "aws-lc-sys": ["aws-lc/LICENSE"]}

# What the machine that builds adds, and that lies in no crate.
MACHINE = """\
Rust's standard library is under the MIT licence or the Apache License 2.0, at your option:
https://www.rust-lang.org.
SQLite is in the public domain: https://www.sqlite.org/copyright.html.
The GNU C Library is under the GNU Lesser General Public License 2.1 or later: https://www.gnu.org/software/libc/.
The binary can be linked with another one: its sources and deploy/dist.sh are all that it takes.
libgcc is under the GNU General Public License 3 or later with the GCC Runtime Library Exception 3.1, which lets
it be linked: https://gcc.gnu.org.
"""


def main(arguments):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=pathlib.Path, required=True)
    options = parser.parse_args(arguments)

    crates, _ = sbom.linked_crates()
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(notices([crate for crate in crates.values() if crate["source"]]))


def notices(crates):
    texts = collections.defaultdict(set)
    without = []
    for crate in crates:
        name = f"{crate['name']} {crate['version']}"
        files = licence_files(crate)
        for file in files:
            texts[file.read_text(errors="replace").strip()].add(name)
        if not files:
            without.append(f"{name} ({crate['license']}) {crate['repository'] or ''}".rstrip())

    parts = ["envoy-auth-tokens holds the following packages, whose licences these are.", MACHINE.strip()]
    if without:
        parts.append("\n".join(["Packages that hold no text of their licence:", *sorted(without)]))
    for text, names in sorted(texts.items(), key=lambda entry: sorted(entry[1])):
        parts.append("\n".join([*sorted(names), "", text]))
    return f"\n\n{'-' * 80}\n".join(parts) + "\n"


def licence_files(crate):
    folder = pathlib.Path(crate["manifest_path"]).parent
    top = [path for path in folder.iterdir() if path.is_file() and LICENCE_FILE.match(path.name)]
    return [*top, *(folder / path for path in INSIDE.get(crate["name"], []))]


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (sbom.Unknown, OSError) as error:
        sys.exit(f"error: {error}")
