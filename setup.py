"""Which folders become packages, and what is compiled; everything else is in pyproject.toml."""

import platform
from glob import glob

from setuptools import Extension, find_packages, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

# The CPU kernels, called through ctypes. Without a compiler the installation still succeeds,
# and PyTorch computes the same results, but more slowly.
THREADS = [] if platform.system() == "Windows" else ["-pthread"]
VECTORS = ["-mprefer-vector-width=512"] if platform.machine() in ("x86_64", "AMD64") else []
kernels = Extension(
    "hear_axlstm.ops._cpu",
    sorted(glob("hear_axlstm/ops/csrc/*.cpp")),
    depends=sorted(glob("hear_axlstm/ops/csrc/*.h")),
    extra_compile_args=[
        *("-O3", "-g0", "-std=c++17", "-fopenmp-simd", *THREADS, *VECTORS),
        *("-fno-math-errno", "-fno-trapping-math", "-fno-signed-zeros"),
    ],
    extra_link_args=THREADS,
    optional=True,
)


class BuildLibrary(build_ext):
    """Builds a plain shared library, which is independent of Python's ABI."""

    def get_ext_filename(self, fullname: str) -> str:
        """Leave the tag of this Python out of the file's name."""
        path = super().get_ext_filename(fullname)
        suffix = ".pyd" if path.endswith(".pyd") else ".so"
        return fullname.replace(".", "/") + suffix


class PlatformWheel(bdist_wheel):
    """Tags the wheel for every Python 3 on this platform."""

    def get_tag(self) -> tuple[str, str, str]:
        """Python tag, ABI tag, platform tag."""
        return "py3", "none", super().get_tag()[2]


# The weights that ship are in the top-level folder `weights/`, next to their model cards, and are
# installed as the package `hear_axlstm_weights`, so that `importlib.resources` finds them both in a
# checkout and in an installed wheel.
setup(
    cmdclass={"bdist_wheel": PlatformWheel, "build_ext": BuildLibrary},
    ext_modules=[kernels],
    packages=[*find_packages(include=["hear_axlstm", "hear_axlstm.*"]), "hear_axlstm_weights"],
    package_dir={"hear_axlstm_weights": "weights"},
    package_data={
        "hear_axlstm": ["py.typed"],
        "hear_axlstm_weights": ["*.safetensors", "*.json", "*.md"],
    },
    include_package_data=False,
)
