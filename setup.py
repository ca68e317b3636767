"""Which folders become packages, and what is compiled; everything else is in pyproject.toml."""

import platform

from setuptools import Extension, find_packages, setup

# What pays to be compiled for a CPU; called by way of ctypes. Without a compiler the
# installation goes on, and PyTorch computes the same.
VECTORS = ["-mprefer-vector-width=512"] if platform.machine() in ("x86_64", "AMD64") else []
block = Extension(
    "hear_axlstm.ops._cpu",
    [f"hear_axlstm/ops/csrc/{name}.cpp" for name in ("forward", "products", "backward", "probe")],
    depends=[f"hear_axlstm/ops/csrc/{name}.h" for name in ("numbers", "products", "probe")],
    extra_compile_args=[
        *("-O3", "-std=c++17", "-fopenmp-simd", *VECTORS),
        *("-fno-math-errno", "-fno-trapping-math", "-fno-signed-zeros"),
    ],
    optional=True,
)

# The weights that ship live in the top-level folder `weights/`, where a reader finds them beside
# their model cards, and travel inside the wheel as the package `hear_axlstm_weights`, so that
# `importlib.resources` finds them in a checkout and in an installed wheel alike.
setup(
    ext_modules=[block],
    packages=[*find_packages(include=["hear_axlstm", "hear_axlstm.*"]), "hear_axlstm_weights"],
    package_dir={"hear_axlstm_weights": "weights"},
    package_data={
        "hear_axlstm": ["py.typed"],
        "hear_axlstm_weights": ["*.safetensors", "*.json", "*.md"],
    },
)
