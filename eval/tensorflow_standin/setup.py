"""Installs the .pth file next to the module; setuptools has no setting for it."""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithPth(build_py):
    """build_py and the .pth file."""

    def run(self) -> None:
        super().run()
        self.copy_file("heareval_compat.pth", str(Path(self.build_lib, "heareval_compat.pth")))

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        outputs = super().get_outputs(include_bytecode)
        return [*outputs, str(Path(self.build_lib, "heareval_compat.pth"))]


setup(cmdclass={"build_py": BuildWithPth})
