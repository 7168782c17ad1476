"""Kifa as its users have it, for the commands that are measured.

An editable install adds an import hook to every start of the interpreter: 10 ms and 1 MiB, more than much of what is
measured here; and where PYTHONDONTWRITEBYTECODE is set, its sources are compiled at every start, which pip does once.
So commands run in a virtual environment of their own, which lasts as long as this process, with a compiled copy of Kifa
and without the hook.
"""

from __future__ import annotations

import compileall
import shutil
import sysconfig
import tempfile
import venv
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path

import kifa


@dataclass(frozen=True, slots=True)
class Installation:
    """``python`` is its interpreter, ``kifa`` the command as a list to which arguments are added."""

    directory: tempfile.TemporaryDirectory[str]  # removed when this process ends

    @property
    def python(self) -> str:
        """Path of the interpreter."""
        return f"{self.directory.name}/bin/python"

    @property
    def kifa(self) -> list[str]:
        """The command ``kifa``."""
        return [self.python, f"{self.directory.name}/bin/kifa"]


@cache
def installation() -> Installation:
    """Return the installation, made at the first call."""
    made = Installation(tempfile.TemporaryDirectory(prefix="kifa-bench-install-"))
    root = Path(made.directory.name)
    venv.EnvBuilder(symlinks=True, with_pip=False).create(root)
    packages = Path(sysconfig.get_path("purelib", vars={"base": str(root)}))
    for source in Path(sysconfig.get_path("purelib")).iterdir():
        is_hook = source.suffix == ".pth" or source.name.startswith("__editable__")
        if not is_hook and source.name not in ("kifa", "__pycache__"):
            (packages / source.name).symlink_to(source)
    shutil.copytree(
        Path(kifa.__file__).parent, packages / "kifa", ignore=shutil.ignore_patterns("__pycache__")
    )
    if not compileall.compile_dir(packages / "kifa", quiet=2):
        raise RuntimeError("kifa cannot be compiled")
    command = next(iter(entry_points(group="console_scripts", name="kifa")))
    Path(made.kifa[1]).write_text(
        f"import sys\nfrom {command.module} import {command.attr}\nsys.exit({command.attr}())\n"
    )
    return made
