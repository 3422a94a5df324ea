#!/usr/bin/env python3
"""Writes the bill of materials of the binary that we ship, as CycloneDX, and holds it to its schema.

    python3 deploy/sbom.py [--binary target/dist/envoy-auth-tokens] [--output FILE]

It lists what is inside the binary: the crates that cargo links for this machine's target (none that only
builds, expands macros or tests), and what no lock file knows: the C libraries that crates carry, the C library
that a static binary takes from the machine, and Rust's own.  Two runs write the same bytes: no clock, no random
number.

It needs cargo, a C compiler, and cyclonedx-python-lib with its JSON validation, which tests/tools/fetch.py
fetches.
"""

import argparse
import collections
import functools
import hashlib
import json
import os
import pathlib
import re
import subprocess
import sys
import uuid

ROOT = pathlib.Path(__file__).resolve().parents[1]
# Where tests/tools/fetch.py puts the library; without it, one that is installed serves as well.
sys.path.insert(0, str(ROOT / "target" / "tools" / "cyclonedx"))

try:
    from cyclonedx.contrib.license.factories import LicenseFactory
    from cyclonedx.model import HashAlgorithm, HashType
    from cyclonedx.model.bom import Bom
    from cyclonedx.model.component import Component, ComponentScope, ComponentType
    from cyclonedx.output.json import JsonV1Dot6
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator
    from packageurl import PackageURL
except ImportError as missing:
    sys.exit(f"error: {missing}: run `python3 tests/tools/fetch.py cyclonedx` first.")


class Unknown(Exception):
    """Something of the binary cannot be named; the text says what."""


def said(*command):
    """What a program prints, or why it failed."""
    try:
        run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    except OSError as error:
        raise Unknown(f"{command[0]} does not run: {error}") from None
    if run.returncode != 0:
        raise Unknown(f"{' '.join(command)}: {run.stderr.strip()}")
    return run.stdout


def main(arguments):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--binary", type=pathlib.Path, help="the binary, whose digest is written down")
    parser.add_argument("--output", type=pathlib.Path, help="where to, instead of standard output")
    parser.add_argument("--built", type=pathlib.Path, help="a fresh build's libraries, to hold the bill to")
    options = parser.parse_args(arguments)

    crates, edges = linked_crates()
    if options.built:
        compare(crates, options.built)
    text = document(bill_of_materials(crates, edges, options.binary))
    if options.output:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(text)
    else:
        print(text, end="")


def bill_of_materials(crates, edges, binary):
    components = {package: crate_component(crate) for package, crate in crates.items()}
    product = next(package for package, crate in crates.items() if crate["source"] is None)

    bom = Bom()
    bom.metadata.component = components[product]
    if binary:
        digest = hashlib.sha256(binary.read_bytes()).hexdigest()
        components[product].hashes.add(HashType(alg=HashAlgorithm.SHA_256, content=digest))
    for package, component in components.items():
        if package != product:
            bom.components.add(component)
        bom.register_dependency(component, [components[other] for other in edges[package]])

    libraries = [*carried_libraries(crates), *((product, library) for library in machine_libraries())]
    for package, library in libraries:
        bom.components.add(library)
        bom.register_dependency(library)
        bom.register_dependency(components[package], [library])
    return bom


def linked_crates():
    """The packages whose code is linked, by cargo's id, and which of them each depends on."""
    triple = re.search(r"^host: (.+)$", said("rustc", "-vV"), re.MULTILINE)[1]
    cargo = os.environ.get("CARGO", "cargo")
    # `cargo tree` resolves features as a build does, and `cargo metadata` knows the rest about a package.
    edges = ("--edges", "normal,no-proc-macro", "--target", triple)
    tree = said(cargo, "tree", "--package", "envoy-auth-tokens", "--locked", *edges, "--prefix", "none", "--format", "{p}")
    linked = {tuple(line.split()[:2]) for line in tree.splitlines()}
    metadata = json.loads(
        said(cargo, "metadata", "--locked", "--format-version", "1", "--filter-platform", triple)
    )
    crates = {
        package["id"]: package
        for package in metadata["packages"]
        if (package["name"], f"v{package['version']}") in linked
    }
    if len(crates) != len(linked):
        raise Unknown(f"cargo tree names {len(linked)} packages, cargo metadata {len(crates)} of them")
    nodes = {node["id"]: node["deps"] for node in metadata["resolve"]["nodes"]}
    depends = {
        package: [dep["pkg"] for dep in nodes[package] if dep["pkg"] in crates and is_linked(dep)]
        for package in crates
    }
    return crates, depends


def is_linked(dependency):
    return any(kind["kind"] is None for kind in dependency["dep_kinds"])


def compare(crates, folder):
    """Fails unless the build compiled what the bill lists, and nothing else."""
    listed = collections.Counter(
        target["name"].replace("-", "_")
        for crate in crates.values()
        for target in crate["targets"]
        if {"lib", "rlib"} & set(target["kind"])
    )
    built = collections.Counter(re.match(r"lib(.+)-\w+$", file.stem)[1] for file in folder.glob("lib*.rlib"))
    if not built:
        raise Unknown(f"no build has left libraries in {folder}")
    if listed != built:
        more, fewer = sorted(built - listed), sorted(listed - built)
        raise Unknown(f"built and not listed: {more}; listed and not built: {fewer}")


def crate_component(crate):
    """A crate of the registry, or our own."""
    ours = crate["source"] is None
    kind = "generic" if ours else "cargo"
    component = named(
        PackageURL(kind, name=crate["name"], version=crate["version"]),
        crate["license"],
        crate["description"],
        ComponentType.APPLICATION if ours else ComponentType.LIBRARY,
    )
    if not ours:
        checksum = checksums()[crate["name"], crate["version"]]
        component.hashes.add(HashType(alg=HashAlgorithm.SHA_256, content=checksum))
    return component


@functools.cache
def checksums():
    """What Cargo.lock holds each package of the registry to."""
    lock = (ROOT / "Cargo.lock").read_text()
    entry = r'name = "(.+)"\nversion = "(.+)"\nsource = ".+"\nchecksum = "(.+)"'
    return {(name, version): checksum for name, version, checksum in re.findall(entry, lock)}


def named(purl, licence, description=None, kind=ComponentType.LIBRARY, cpe=None):
    # Cargo's older packages write a choice as "MIT/Apache-2.0".
    licence = re.sub(r"\s*/\s*", " OR ", licence)
    return Component(
        type=kind,
        name=purl.name,
        version=purl.version,
        bom_ref=purl.to_string(),
        purl=purl,
        licenses=[LicenseFactory().make_from_string(licence)],
        description=" ".join(description.split()) if description else None,
        scope=None if kind is ComponentType.APPLICATION else ComponentScope.REQUIRED,
        cpe=cpe,
    )


Carried = collections.namedtuple("Carried", "crate name licence header version cpe_vendor")

# The C libraries whose source stands in a crate, and the line there that tells their version.
CARRIED = [
    Carried(
        "libsqlite3-sys",
        "sqlite",
        "blessing",
        "sqlite3/sqlite3.h",
        r'SQLITE_VERSION +"([\d.]+)"',
        "sqlite",
    ),
    Carried(
        "aws-lc-sys",
        "aws-lc",
        "ISC AND (Apache-2.0 OR ISC) AND Apache-2.0 AND MIT AND BSD-3-Clause"
        " AND (Apache-2.0 OR ISC OR MIT) AND (Apache-2.0 OR ISC OR MIT-0)",
        "aws-lc/include/openssl/base.h",
        r'AWSLC_VERSION_NUMBER_STRING "([\d.]+)"',
        None,
    ),
    Carried(
        "libmimalloc-sys",
        "mimalloc",
        "MIT",
        "c_src/mimalloc/v3/include/mimalloc.h",
        r"MI_MALLOC_VERSION +(\d)(\d\d)(\d\d)",
        None,
    ),
]


def carried_libraries(crates):
    """Each C library that a crate carries, with the crate's package."""
    by_name = {crate["name"]: package for package, crate in crates.items()}
    for carried in CARRIED:
        package = by_name.get(carried.crate)
        if package is None:
            raise Unknown(f"{carried.crate} is not linked any more: take it out of {__file__}")
        header = pathlib.Path(crates[package]["manifest_path"]).parent / carried.header
        found = re.search(carried.version, header.read_text())
        if found is None:
            raise Unknown(f"{header} does not tell the version of {carried.name}")
        version = ".".join(part if "." in part else str(int(part)) for part in found.groups())
        vendor = carried.cpe_vendor
        cpe = f"cpe:2.3:a:{vendor}:{carried.name}:{version}:*:*:*:*:*:*:*" if vendor else None
        purl = PackageURL("generic", name=carried.name, version=version)
        yield package, named(purl, carried.licence, cpe=cpe)

    # Whatever else builds C or C++ has to be looked at before it is shipped.
    known = {carried.crate for carried in CARRIED}
    others = sorted(c["name"] for c in crates.values() if c["links"] and c["name"] not in known | NO_LIBRARY)
    if others:
        raise Unknown(f"these crates may carry a library that this bill does not name: {', '.join(others)}")


# Crates that say `links` for the sake of a symbol or a single copy, and carry nothing.
NO_LIBRARY = {"aws-lc-rs"}


def machine_libraries():
    """What a static binary takes from the machine that builds it."""
    rust = re.search(r"^release: (.+)$", said("rustc", "-vV"), re.MULTILINE)[1]
    yield named(PackageURL("generic", name="rust-std", version=rust), "MIT OR Apache-2.0")
    compiler = os.environ.get("CC", "cc")
    gcc = "GPL-3.0-or-later WITH GCC-exception-3.1"
    for archive, name, licence in [("libc.a", "glibc", "LGPL-2.1-or-later"), ("libgcc_eh.a", "libgcc", gcc)]:
        path = pathlib.Path(said(compiler, f"-print-file-name={archive}").strip())
        if not path.is_absolute():
            raise Unknown(f"{compiler} knows no {archive}, which a static binary is linked with")
        yield named(machine_purl(path.resolve(), name), licence)


def machine_purl(path, name):
    """A library of the machine, as its package manager names it where we know that one."""
    try:
        package = said("dpkg-query", "--search", str(path)).split(": ")[0]
        form = "${source:Package} ${source:Version} ${Architecture}"
        told = said("dpkg-query", "--show", "--showformat", form, package)
        source, version, architecture = told.split()
        system = pathlib.Path("/etc/os-release").read_text()
    except (Unknown, OSError):
        return PackageURL("generic", name=name, version=machine_version(name))
    release = dict(re.findall(r'^(\w+)="?([^"\n]*)"?$', system, re.MULTILINE))
    distribution = f"{release['ID']}-{release.get('VERSION_ID', 'unstable')}"
    return PackageURL("deb", release["ID"], source, version, {"arch": architecture, "distro": distribution})


def machine_version(name):
    if name == "libgcc":
        return said(os.environ.get("CC", "cc"), "-dumpfullversion").strip()
    return os.confstr("CS_GNU_LIBC_VERSION").split()[-1]


def document(bom):
    """The bill as JSON, less what would make two runs differ, and only if its schema takes it."""
    bom.serial_number = uuid.UUID(int=0)
    text = json.loads(JsonV1Dot6(bom).output_as_string())
    del text["serialNumber"], text["metadata"]["timestamp"]
    text = json.dumps(text, indent=2) + "\n"
    error = JsonStrictValidator(SchemaVersion.V1_6).validate_str(text)
    if error:
        raise Unknown(f"this is no CycloneDX 1.6: {error}")
    return text


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (Unknown, OSError) as error:
        sys.exit(f"error: {error}")
