"""The test command: install what the tests need, then run every check there is. Standard library only.

    python3 tests/run.py [--list] [--only STEP ...] [-- PYTEST ARGUMENTS]

With root on Debian it installs missing packages; elsewhere it says which tests are skipped. With CI=true nothing is
skipped: a missing part is a failure.
"""

import argparse
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
CI = os.environ.get("CI", "").lower() == "true"
if CI:
    # Its cores are shared with others: see tests/patience.py.
    os.environ.setdefault("TEST_PATIENCE", "4")
BIN = VENV / ("Scripts" if sys.platform == "win32" else "bin")
PYTHON = str(BIN / "python")

# What must be on PATH for all tests to run, and the Debian package that brings it.
PROGRAMS = {
    "mariadbd": "mariadb-server",
    "redis-server": "redis-server",
    "nginx": "nginx",
    "ss": "iproute2",
    "chromium": "chromium",
    "openssl": "openssl",
    "curl": "curl",
    "mariadb_config": "libmariadb-dev",
    "pkg-config": "pkg-config",
    "gcc": "gcc",
}
# The same for Windows under Wine.
WINE_PROGRAMS = {"wine64": "wine64", "x86_64-w64-mingw32-gcc": "gcc-mingw-w64-x86-64-win32"}
CODE = [
    *("certs_app", "ingest", "registry", "portal", "monitoring", "deploy", "msgsys_project", "wire", "manage.py"),
    "bench",
]
NEWEST_PYTHON = "3.13"
# Workers that share the tests. More than cores: many tests wait for a deadline or another process. The slow ones lie
# together, so whoever is done early takes from the others.
AT_ONCE = ["-n", "4", "--dist", "worksteal"]
FAST = "not system and not windows"


def run(*command: str, **environment: str) -> None:
    subprocess.run(command, cwd=ROOT, check=True, env={**os.environ, **environment})


def install_packages(programs: dict[str, str] = PROGRAMS) -> None:
    """Install missing Debian packages when that is possible."""
    missing = [package for program, package in programs.items() if not _found(program)]
    if not missing:
        return
    if sys.platform != "linux" or os.geteuid() != 0 or shutil.which("apt-get") is None:
        print(f"Not installed (no root on Debian here): {', '.join(missing)}")
        return
    quiet = {"DEBIAN_FRONTEND": "noninteractive"}
    run("apt-get", "update", "-qq", **quiet)
    run("apt-get", "install", "-y", "-qq", "--no-install-recommends", *missing, **quiet)


def _found(program: str) -> bool:
    # Debian puts servers and Wine elsewhere.
    path = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/usr/lib/wine"))
    return shutil.which(program, path=path) is not None


def install_python() -> None:
    """Make .venv and install the pinned requirements; mysqlclient where it can be compiled."""
    _install(VENV, sys.executable, "requirements-dev.txt")
    if _found("mariadb_config") and _found("gcc"):
        run(PYTHON, "-m", "pip", "install", "-q", "--disable-pip-version-check", "-r", "requirements-mysql.txt")
    elif CI:
        raise Missing("mysqlclient cannot be compiled here: libmariadb-dev, gcc and pkg-config are needed")


def _install(venv: Path, python: str, requirements: str) -> None:
    interpreter = str(venv / BIN.name / "python")
    if not Path(interpreter).exists():
        run(python, "-m", "venv", str(venv))
    run(interpreter, "-m", "pip", "install", "-q", "--disable-pip-version-check", "-r", requirements)


def lint() -> None:
    run(PYTHON, "-m", "ruff", "check", ".")
    run(PYTHON, "-m", "ruff", "format", "--check", ".")


def types() -> None:
    run(PYTHON, "-m", "mypy", *CODE)


def imports() -> None:
    run(str(BIN / "lint-imports"))


def fast() -> None:
    run(PYTHON, "-m", "pytest", "-q", "-m", FAST, *AT_ONCE, *EXTRA)


def mariadb() -> None:
    if not _found("mariadbd"):
        _missing("mariadbd: the storage tests run on SQLite only")
        return
    apps = ("registry", "portal", "certs_app", "tests/balance")
    run(PYTHON, "-m", "tests.mariadb", "--", PYTHON, "-m", "pytest", "-q", *AT_ONCE, *apps, *EXTRA)


def system() -> None:
    # A file's tests share one installation, so they stay together.
    run(PYTHON, "-m", "pytest", "-q", "-m", "system and not alone", "-n", "2", "--dist", "loadfile", *EXTRA)
    run(PYTHON, "-m", "pytest", "-q", "-m", "alone", *EXTRA)


def windows() -> None:
    """Run the tests that start Windows processes, with a Python for Windows made for them under Wine."""
    if platform.machine() == "x86_64":
        install_packages(WINE_PROGRAMS)
    if not all(_found(program) for program in WINE_PROGRAMS):
        _missing("Wine and a compiler for Windows: nothing is tested on Windows")
        return
    try:
        run(PYTHON, "-m", "tests.windows.wine_python")
    except subprocess.CalledProcessError:
        _missing("what makes a Python for Windows, see above: nothing is tested on Windows")
        return
    run(PYTHON, "-m", "pytest", "-q", "tests/windows", *EXTRA)


def newest_python() -> None:
    """Run the fast tests on the newest CPython we support, if it is here: what lies between the two is not far off."""
    interpreter = _interpreter(NEWEST_PYTHON)
    if interpreter is None:
        print(f"CPython {NEWEST_PYTHON} is not here: not tested on it")
        return
    venv = ROOT / f".venv-{NEWEST_PYTHON}"
    _install(venv, interpreter, "requirements-dev.txt")
    python = str(venv / BIN.name / "python")
    run(python, "-m", "pytest", "-q", "-m", f"{FAST} and not browser", *AT_ONCE, *EXTRA)


def _interpreter(version: str) -> str | None:
    candidates = [shutil.which(f"python{version}")]
    candidates += [str(path) for path in (Path.home() / ".pyenv" / "versions").glob(f"{version}*/bin/python{version}")]
    for candidate in candidates:
        # A shim on the path may find nothing behind it: ask.
        if candidate and subprocess.run([candidate, "-c", ""], capture_output=True, check=False).returncode == 0:
            return candidate
    return None


class Missing(Exception):
    """What a step needs is not here, and CI skips nothing."""


def _missing(what: str) -> None:
    if CI:
        raise Missing(f"missing with CI=true: {what}")
    print(f"SKIPPED, missing {what}")


STEPS: dict[str, Callable[[], None]] = {
    "packages": install_packages,
    "python": install_python,
    "lint": lint,
    "types": types,
    "imports": imports,
    "fast": fast,
    "mariadb": mariadb,
    "system": system,
    "windows": windows,
    "newest-python": newest_python,
}
EXTRA: list[str] = []


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description="Run every check there is.")
    parser.add_argument("--list", action="store_true", help="list the steps")
    parser.add_argument("--only", nargs="+", choices=STEPS, metavar="STEP", help="run only these steps")
    parser.add_argument("extra", nargs="*", help="arguments for pytest, after --")
    options = parser.parse_args(arguments)
    EXTRA.extend(options.extra)
    if options.list:
        print("\n".join(STEPS))
        return
    # One look at all that is wrong: a step that fails does not hide what the next ones would find.
    failed = [name for name in options.only or STEPS if not _passes(name)]
    if failed:
        sys.exit(f"\nFAILED: {', '.join(failed)}")
    print("\nEverything passed.")


def _passes(name: str) -> bool:
    print(f"\n=== {name}", flush=True)
    started = time.monotonic()
    try:
        STEPS[name]()
    except (subprocess.CalledProcessError, Missing) as error:
        print(f"=== {name} FAILED after {time.monotonic() - started:.0f} s: {error}", flush=True)
        if STEPS[name] in (install_packages, install_python):
            sys.exit("nothing can be run without it")
        return False
    print(f"=== {name} done in {time.monotonic() - started:.0f} s", flush=True)
    return True


if __name__ == "__main__":
    main(sys.argv[1:])
