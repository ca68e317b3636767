"""Not TensorFlow: the names that heareval and hear-validator touch for a torch model."""

from types import SimpleNamespace


class Module:
    """`tf.Module`, which no torch model is an instance of."""


def _is_gpu_available(*args, **kwargs) -> bool:
    # heareval refuses to start if torch sees a GPU and TensorFlow does not.
    import torch

    return torch.cuda.is_available()


test = SimpleNamespace(is_gpu_available=_is_gpu_available)


def __getattr__(name: str):
    raise AttributeError(
        f"tensorflow.{name} is not in hear-axlstm-tensorflow-standin: for TensorFlow models "
        "uninstall the stand-in and install tensorflow"
    )
