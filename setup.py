"""Build of the C core: a shared library for ctypes, beside ``detector/engine/core.py``.

A compiler is not required: without one the wheel is pure Python, and onnxruntime runs the network. Environment:
``CC`` is the compiler with its options, ``SNN_WHEEL_PLATFORM`` the platform tag of a wheel that is compiled for another
processor (``make wheels`` sets both), ``SNN_CORE_REQUIRED=1`` makes a failure of the compiler one of the build.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from setuptools import Distribution, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext
from setuptools.extension import Extension

SOURCES = Path("detector") / "engine" / "c"
LIBRARY = "_snn_core.so"
# No fused multiply-add: each operation rounds as in every other implementation. No C compiler that defines these has
# options of one processor: code for better ones is chosen when the library is loaded.
FLAGS = ["-std=c11", "-O3", "-fPIC", "-fvisibility=hidden", "-ffp-contract=off", "-fno-math-errno", "-DSNN_CORE=1"]
WARNINGS = ["-Wall", "-Wextra"]
X86_64 = {
    "avx2": ["-mavx2"],
    "avx512": ["-mavx512f", "-mavx512dq", "-mavx512bw", "-mavx512vl", "-mprefer-vector-width=512"],
}


class BuildCore(build_ext):
    """Compiles the core with the compiler's own command: setuptools' is for extensions of one interpreter."""

    def get_ext_filename(self, fullname: str) -> str:
        """Return the library's path: it belongs to no version of Python."""
        return str(Path(*fullname.split(".")[:-1]) / LIBRARY)

    def get_export_symbols(self, ext: Any) -> list[str]:
        """Return nothing: the sources say what is exported."""
        return []

    def build_extension(self, ext: Any) -> None:
        """Compile the library, or say why there is none."""
        target = Path(self.get_ext_fullpath(ext.name))
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        compiler = shlex.split(os.environ.get("CC") or "cc")
        try:
            with tempfile.TemporaryDirectory() as folder:
                compile_core(compiler, SOURCES, target, Path(folder))
        except (OSError, subprocess.CalledProcessError) as error:
            if os.environ.get("SNN_CORE_REQUIRED"):
                raise
            print(f"snn-detect: no C core ({error}): onnxruntime will run the network", file=sys.stderr)

    def get_outputs(self) -> list[str]:
        """Return the files that were built."""
        return [path for path in super().get_outputs() if Path(path).exists()]

    def copy_extensions_to_source(self) -> None:
        """Put the library beside its module, for an editable installation; nothing where there is none."""
        command: Any = self.get_finalized_command("build_py")
        for ext in self.extensions:
            inplace, regular = self._get_inplace_equivalent(command, ext)
            if Path(regular).exists():
                self.copy_file(regular, inplace, level=self.verbose)


def compile_core(compiler: list[str], sources: Path, target: Path, folder: Path) -> None:
    """Compile all sources into a library, with the stages once for each set of instructions."""
    variants: dict[str, list[str]] = {"baseline": []}
    if is_x86_64(compiler):
        variants |= X86_64
    objects = [folder / "core.o"]
    commands = [[*compiler, *FLAGS, *WARNINGS, "-c", str(sources / "snn_core.c"), "-o", str(objects[0])]]
    for name, options in variants.items():
        objects.append(folder / f"{name}.o")
        named = [f"-DSNN_STAGES=snn_core_{name}", f"-DSNN_INSTRUCTIONS={name}"]
        stages = ["-c", str(sources / "snn_core_stages.c"), "-o", str(objects[-1])]
        commands.append([*compiler, *FLAGS, *WARNINGS, *options, *named, *stages])
    script = folder / "exports"
    script.write_text("{ global: snn_core_*; local: *; };\n", encoding="ascii")
    link = ["-shared", "-s", f"-Wl,--version-script={script}", "-o", str(target), *map(str, objects)]
    for command in [*commands, [*compiler, *link]]:
        subprocess.run(command, check=True)


def is_x86_64(compiler: list[str]) -> bool:
    """Ask the compiler for which processor it compiles."""
    macros = [*compiler, "-dM", "-E", "-x", "c", "/dev/null"]
    found = subprocess.run(macros, check=True, stdout=subprocess.PIPE, text=True)
    return "__x86_64__" in found.stdout


class PlatformWheel(bdist_wheel):
    """Names the wheel for every Python 3 and, where it holds the core, one platform."""

    def get_tag(self) -> tuple[str, str, str]:
        """Return the wheel's tag."""
        library = Path(self.bdist_dir) / "detector" / "engine" / LIBRARY
        if not library.exists():
            return "py3", "none", "any"
        return "py3", "none", os.environ.get("SNN_WHEEL_PLATFORM") or super().get_tag()[2]


class WithCore(Distribution):
    """A distribution that may hold a library, and requires onnxruntime where that has a wheel."""

    def has_ext_modules(self) -> bool:
        """Return whether files depend on the platform."""
        return True

    def parse_config_files(self, *arguments: Any, **options: Any) -> None:
        """Read pyproject.toml; leave out onnxruntime, and what is for it alone, for a 32-bit system.

        No environment marker says what that is: where the kernel has 64 bits, its machine is aarch64.
        """
        super().parse_config_files(*arguments, **options)
        wanted = os.environ.get("SNN_WHEEL_PLATFORM")
        if wanted.endswith("armv7l") if wanted else sys.maxsize < 1 << 32:
            self.install_requires = [r for r in self.install_requires if not r.startswith(("onnxruntime", "protobuf"))]
            self.metadata.install_requires = self.install_requires


setup(
    distclass=WithCore,
    ext_modules=[Extension("detector.engine._snn_core", [])],
    cmdclass={"build_ext": BuildCore, "bdist_wheel": PlatformWheel},
)
