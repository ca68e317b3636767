"""Fingerprints change with everything an embedding depends on; systems that can't be loaded."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest

from hearbench.systems.fingerprint import (
    COMPUTE_NOTHING,
    _sources,
    check_unchanged,
    fingerprint,
    fingerprints,
)
from hearbench.systems.specs import System, SystemSpecError, load_system

MODULE = """
import torch
class Model(torch.nn.Module):
    sample_rate = 16000
    def __init__(self, scale):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(3) * scale)
def load_model(model_file_path="", scale=1.0):
    return Model(scale)
def get_scene_embeddings(audio, model):
    return audio[:, :3] * model.weight
def get_timestamp_embeddings(audio, model):
    return audio[:, None, :3] * model.weight, torch.zeros(len(audio), 1)
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A HEAR module in a file of its own."""
    name = f"hear_module_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(MODULE, "utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    return name


def test_fingerprint_follows_weights_and_code(module: str, tmp_path: Path) -> None:
    first = fingerprint(System("x", module))
    assert fingerprint(System("another label", module)) == first
    assert (first.sample_rate, first.parameters) == (16_000, 3)
    named = fingerprint(System("x", module, "weights.pt"))
    (tmp_path / f"{module}.py").write_text(MODULE.replace(":3]", ":2]"), "utf-8")
    edited = fingerprint(System("x", module))
    sys.modules[module].load_model.__defaults__ = ("", 3.0)
    reweighted = fingerprint(System("x", module))
    assert len({first.digest, named.digest, edited.digest, reweighted.digest}) == 4


def test_the_digest_of_what_has_not_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Embeddings of earlier evaluations are found by it."""
    name = "hear_module_of_a_known_digest"
    (tmp_path / f"{name}.py").write_bytes(MODULE.encode())
    (tmp_path / "weights.pt").write_bytes(b"weights")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert fingerprint(System("x", name)).digest == "70975984b123"
    for path in ("weights.pt", "./weights.pt", str(tmp_path / "weights.pt")):
        assert fingerprint(System("x", name, path)).digest == "a307dd5d409f"


def test_fingerprint_follows_a_module_that_is_wrapped(module: str, tmp_path: Path) -> None:
    sizes = "sample_rate = 16000\n    scene_embedding_size = timestamp_embedding_size = 3"
    content = MODULE.replace("sample_rate = 16000", sizes)
    digests = []
    for changed in (content, content.replace(":3]", ":2]")):
        (tmp_path / f"{module}.py").write_text(changed, "utf-8")
        digests.append(fingerprint(System("x", "hearbench.systems.msm_mae", module)).digest)
    assert digests[0] != digests[1]


@pytest.mark.parametrize("name", ["alone", "top.apis.hear"])
def test_fingerprint_follows_what_the_module_imports(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    file = tmp_path / f"{name.replace('.', '/')}.py"
    other = file.parents[1] / "net.py" if "." in name else tmp_path / "beside" / "net.py"
    for path in (file, other):
        path.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"import {'top' if '.' in name else 'beside'}.net\n{MODULE}", "utf-8")
    installed = tmp_path / "site-packages" / "installed_module.py"
    installed.parent.mkdir()
    monkeypatch.syspath_prepend(str(installed.parent))
    digests = []
    for content, of_installed in (("A = 1", "B = 1"), ("A = 1", "B = 2"), ("A = 2", "B = 2")):
        other.write_text(content, "utf-8")
        installed.write_text(of_installed, "utf-8")
        import_module("installed_module")
        digests.append(fingerprint(System("x", name)).digest)
    assert digests[0] == digests[1] != digests[2]


def test_fingerprint_follows_compiled_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a package, all of it, which ctypes may load; beside a module, what it imports."""
    monkeypatch.syspath_prepend(str(tmp_path))
    library = tmp_path / "with_kernels" / "ops" / "_cpu.so"
    library.parent.mkdir(parents=True)
    (tmp_path / "with_kernels" / "__init__.py").write_text(MODULE, "utf-8")
    extension = tmp_path / "fast_part.abi3.so"
    (tmp_path / "without_package.py").write_text(MODULE, "utf-8")
    imported = ModuleType("fast_part")
    imported.__file__ = str(extension)
    monkeypatch.setitem(sys.modules, "fast_part", imported)
    for name, file in (("with_kernels", library), ("without_package", extension)):
        file.write_bytes(b"first")
        system = System("x", name)
        before = fingerprint(system)
        check_unchanged(system, *load_system(system), before)
        file.write_bytes(b"fixed")
        assert fingerprint(system) != before
        with pytest.raises(SystemSpecError, match=r"weights or code have changed since"):
            check_unchanged(system, *load_system(system), before)


@pytest.mark.parametrize(
    ("module", "checkpoint"),
    [
        ("hear_axlstm", "axlstm_tiny"),
        ("hear_axlstm.mean_std", "axlstm_tiny"),
        ("hearbench.systems.msm_mae", "hearbench.systems.naive"),
        ("hearbench.systems.msm_mae", "hear_axlstm@axlstm_tiny"),
    ],
)
def test_folders_with_the_name_of_weights_or_a_module_do_not_count(
    module: str, checkpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    system = System("x", module, checkpoint)
    before = fingerprint(system)
    folder = tmp_path / checkpoint.rpartition("@")[2]
    folder.mkdir()
    (folder / "log.jsonl").touch()
    assert fingerprint(system) == before


def test_weights_that_differ_each_time_are_named(module: str, tmp_path: Path) -> None:
    system, file = System("x", module), tmp_path / f"{module}.py"
    file.write_text(MODULE.replace("torch.ones(3)", "torch.randn(3)"), "utf-8")
    before = fingerprint(system)
    with pytest.raises(SystemSpecError, match=r"returns other weights .* each time .* set a seed"):
        check_unchanged(system, *load_system(system), before)
    sys.modules.pop(module)
    file.write_text(MODULE, "utf-8")
    with pytest.raises(SystemSpecError, match=r"changed since .* run the same command again"):
        check_unchanged(system, *load_system(system), before)


def test_fingerprint_leaves_out_what_computes_nothing() -> None:
    files = _sources(import_module("hearbench.systems.naive"))
    assert "naive.py" in {file.name for file in files}
    assert not set(files) & {Path(str(sys.modules[name].__file__)) for name in COMPUTE_NOTHING}


def test_fingerprint_follows_the_files_of_a_folder(module: str, tmp_path: Path) -> None:
    folder = tmp_path / "model" / "deep"
    folder.mkdir(parents=True)
    digests = set()
    for content in ("{}", '{"normalize": true}'):
        (folder / "config.json").write_text(content, "utf-8")
        digests.add(fingerprint(System("x", module, str(folder.parent))).digest)
    assert len(digests) == 2


def test_modules_in_the_current_folder_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "lies_here.py").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [place for place in sys.path if place])  # as of a script
    with pytest.raises(SystemSpecError, match="no module 'lies_there'"):
        fingerprints([System("x", "lies_here"), System("y", "lies_there")])


def test_systems_that_cant_be_loaded(module: str, tmp_path: Path) -> None:
    with pytest.raises(SystemSpecError, match="can't import 'absent_module'"):
        fingerprint(System("x", "absent_module"))
    with pytest.raises(SystemSpecError, match="json is not a HEAR module: it lacks load_model"):
        fingerprint(System("x", "json"))
    with pytest.raises(SystemSpecError, match="failed: ValueError: the naive baseline takes no"):
        fingerprint(System("x", "hearbench.systems.naive", "weights.pt"))
    failing = {
        "old": ("import numpy\nnumpy.float", "AttributeError: module 'numpy' has no"),
        "exits": ("import sys\nsys.exit('needs a GPU')", "SystemExit: needs a GPU"),
        "dies": ("import os\nos._exit(1)", "the process that loaded it died"),
    }
    for name, (code, message) in failing.items():
        (tmp_path / f"{name}_module.py").write_text(code, "utf-8")
        with pytest.raises(SystemSpecError, match=f"system 'x': .*{message}"):
            fingerprints([System("x", f"{name}_module")])
