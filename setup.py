"""Which folders become packages; everything else is in pyproject.toml."""

from setuptools import find_packages, setup

# The weights that ship live in the top-level folder `weights/`, where a reader finds them beside
# their model cards, and travel inside the wheel as the package `hear_axlstm_weights`, so that
# `importlib.resources` finds them in a checkout and in an installed wheel alike.
setup(
    packages=[*find_packages(include=["hear_axlstm", "hear_axlstm.*"]), "hear_axlstm_weights"],
    package_dir={"hear_axlstm_weights": "weights"},
    package_data={
        "hear_axlstm": ["py.typed"],
        "hear_axlstm_weights": ["*.safetensors", "*.json", "*.md"],
    },
)
