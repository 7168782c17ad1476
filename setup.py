"""Builds the C extensions: every .pyx of kifa/ and bench/ is one extension of its own."""

from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup

ROOT = Path(__file__).parent
COMPILE_ARGS = ["-O3", "-std=c11", "-Wall", "-Wno-unused-function", "-Wno-unreachable-code"]


def extensions() -> list[Extension]:
    """One extension for each .pyx, named by its path from the root."""
    sources = sorted(path for top in ("kifa", "bench") for path in (ROOT / top).rglob("*.pyx"))
    return [
        Extension(
            ".".join(path.relative_to(ROOT).with_suffix("").parts),
            [str(path.relative_to(ROOT))],
            extra_compile_args=COMPILE_ARGS,
            include_dirs=["kifa"],
        )
        for path in sources
    ]


setup(
    ext_modules=cythonize(
        extensions(),
        build_dir="build/cython",
        compiler_directives={
            "language_level": 3,
            "binding": True,
            "embedsignature": True,
        },
    )
)
