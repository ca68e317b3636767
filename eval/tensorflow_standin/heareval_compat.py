"""Lets heareval and hear-validator run unmodified with a current torch, without TensorFlow.

A .pth file imports this module whenever Python starts. It adds an import hook that

- answers `import tensorflow` in heareval and hearvalidator, and nowhere else, with a stand-in,
  unless TensorFlow is installed: for torch models they use two names of it;
- sets TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD=1 when heareval's predictions are imported: torch >= 2.6
  would refuse the checkpoints that they write and read again.
"""

import os
import sys
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import ModuleType, SimpleNamespace

OFFICIAL = ("heareval", "hearvalidator")
PREDICTIONS = "heareval.predictions"
VARIABLE = "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"


class StandIn(ModuleType):
    """Not TensorFlow: the names that heareval and hear-validator touch for a torch model."""

    class Module:
        """`tf.Module`, which no torch model is an instance of."""

    def __init__(self) -> None:
        super().__init__("tensorflow", self.__doc__)
        self.test = SimpleNamespace(is_gpu_available=_is_gpu_available)

    def __getattr__(self, name: str):
        raise AttributeError(
            f"tensorflow.{name} is not in the stand-in for TensorFlow that heareval and "
            "hear-validator use here: for TensorFlow models install tensorflow"
        )


def _is_gpu_available(*args, **kwargs) -> bool:
    # heareval refuses to start if torch sees a GPU and TensorFlow does not.
    import torch

    return torch.cuda.is_available()


class OfficialLoader(SourceFileLoader):
    """Hides the stand-in when the module that imported it has been executed."""

    def exec_module(self, module) -> None:
        """Execute the module."""
        try:
            super().exec_module(module)
        finally:
            _hide()


class Finder:
    """The import hook; Python asks it first about every module that is not loaded yet."""

    @classmethod
    def find_spec(cls, name, path=None, target=None):
        """The stand-in's spec, or None to leave the module to Python."""
        _hide()  # also here, since a module run by `python -m` is not loaded by OfficialLoader
        if name.startswith(f"{PREDICTIONS}."):
            os.environ.setdefault(VARIABLE, "1")
        if name == "tensorflow" and _is_official(_importer()) and not PathFinder.find_spec(name):
            return ModuleSpec(name, cls)
        if _is_official(name):
            spec = PathFinder.find_spec(name, path, target)
            if spec is not None and type(spec.loader) is SourceFileLoader:
                spec.loader = OfficialLoader(spec.loader.name, spec.loader.path)
            return spec
        return None

    @staticmethod
    def create_module(spec):
        """Create the stand-in module."""
        return StandIn()

    @staticmethod
    def exec_module(module) -> None:
        """Do nothing: `create_module` returns a complete module."""


def _hide() -> None:
    """Remove the stand-in from sys.modules; modules that imported it keep it."""
    module = sys.modules.get("tensorflow")
    if isinstance(module, StandIn) and not module.__spec__._initializing:
        del sys.modules["tensorflow"]


def _importer() -> str:
    """The name of the module that is importing, even if it runs as `python -m NAME`."""
    frame = sys._getframe(2)
    while frame is not None and frame.f_code.co_filename.startswith("<frozen importlib"):
        frame = frame.f_back
    if frame is None:
        return ""
    spec = frame.f_globals.get("__spec__")
    return getattr(spec, "name", "") or frame.f_globals.get("__name__", "")


def _is_official(name: str) -> bool:
    return name.partition(".")[0] in OFFICIAL


if Finder not in sys.meta_path:
    sys.meta_path.insert(0, Finder)
