"""Builds the native library and puts it into the package. All other settings of the package are in pyproject.toml."""

import importlib.util
import sys
from pathlib import Path

from setuptools import Distribution, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py


class BuildNative(build_py):
    """Compile the native library before the package's files are collected.

    If this fails, the package has no native library, and says so when it runs.
    """

    def run(self) -> None:  # noqa: D102
        spec = importlib.util.spec_from_file_location(
            "native_build", Path(__file__).with_name("labkit") / "native" / "build.py"
        )
        native = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(native)
        try:
            native.build()
        except native.BuildError as error:
            print(f"labkit's native CPU library was not built, so torch's own kernels will run: {error}", file=sys.stderr)
        super().run()


class PlatformDistribution(Distribution):
    """Marks the wheel as platform-specific, because it contains machine code."""

    def has_ext_modules(self) -> bool:  # noqa: D102
        return True


class AnyPython(bdist_wheel):
    """The machine code is called through ctypes and does not use Python's API, so one wheel works with every Python version."""

    def get_tag(self) -> tuple[str, str, str]:  # noqa: D102
        return "py3", "none", super().get_tag()[2]


setup(cmdclass={"build_py": BuildNative, "bdist_wheel": AnyPython}, distclass=PlatformDistribution)
