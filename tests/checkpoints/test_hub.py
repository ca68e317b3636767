"""Weights from and to a hub, through the real client."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard, constants

from hear_axlstm import checkpoints, load_model
from hear_axlstm.checkpoints.checksum import ChecksumError
from hear_axlstm.checkpoints.hub import parse
from hear_axlstm.cli.push import push
from hear_axlstm.config import ModelConfig
from hear_axlstm.models.pretraining import MaskedPatchModel
from hear_axlstm.training.checkpoints import Checkpoint
from hear_axlstm.training.checkpoints import save as save_checkpoint
from tests.helpers.hub_server import Hub, serve

CONFIG = ModelConfig(dim=32, depth=1)
REPO = "lab/axlstm"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    facts = {
        "hours": 5.3,
        "validation_loss": 0.5,
        "config": {"epochs": 6.0, "init": "/secret/init", "knn": "/secret/path"},
        "settings": {"valid": "/secret/valid.csv"},
        "classifier": {"classes": ["dog", "cat"]},
    }
    checkpoints.save(folder / checkpoints.FILE_NAME, MaskedPatchModel(CONFIG), facts, torch.float32)
    return folder


@pytest.fixture
def content(run: Path) -> bytes:
    return (run / checkpoints.FILE_NAME).read_bytes()


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub that this process asks; the client reads its variables when it is imported."""
    with serve() as hub:
        template = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        registry = str(tmp_path / "harnesses.json")  # what the client would leave in HF_HOME
        monkeypatch.setattr(constants, "AGENT_HARNESSES_PATH", registry, raising=False)
        monkeypatch.setattr(time, "sleep", lambda _: None)  # between the client's attempts
        yield hub


@pytest.mark.parametrize(
    ("spec", "parts"),
    [
        ("hf://lab/a", ("lab/a", None, "model.safetensors")),
        ("hf://lab/a@v2", ("lab/a", "v2", "model.safetensors")),
        ("hf://lab/a@v2/runs/a.safetensors", ("lab/a", "v2", "runs/a.safetensors")),
        ("hf://lab/a/x@y.pth", ("lab/a", None, "x@y.pth")),
        ("hf://lab/a@refs/pr/3/b.pth", ("lab/a", "refs/pr/3", "b.pth")),
        ("hf://lab/a@my%2Fbranch/b.pth", ("lab/a", "my/branch", "b.pth")),
    ],
)
def test_addresses(spec: str, parts: tuple[str, str | None, str]) -> None:
    assert parse(spec, checkpoints.FILE_NAME) == parts


@pytest.mark.parametrize("spec", ["hf://", "hf://lab", "hf://lab/", "hf://lab/a@", "hf:///a/b"])
def test_incomplete_addresses_are_refused(spec: str) -> None:
    with pytest.raises(ValueError, match=r"incomplete: write hf://org/repo"):
        load_model(spec)


def test_a_second_load_asks_for_no_content(hub: Hub, content: bytes) -> None:
    hub.publish(REPO, {checkpoints.FILE_NAME: content})
    assert load_model(f"hf://{REPO}").config == CONFIG
    assert hub.downloads() == [checkpoints.FILE_NAME]
    hub.requests.clear()
    assert load_model(f"hf://{REPO}").config == CONFIG
    assert [method for method, _ in hub.requests] == ["HEAD"]  # is the branch where it was?


def test_a_revision_stays_what_it_was(hub: Hub, content: bytes) -> None:
    commit = hub.publish(REPO, {checkpoints.FILE_NAME: content}, "v1")
    hub.publish(REPO, {checkpoints.FILE_NAME: b"something else"})
    for revision in ("v1", commit):
        assert load_model(f"hf://{REPO}@{revision}").config == CONFIG
    with pytest.raises(ValueError, match="not a valid safetensors"):
        load_model(f"hf://{REPO}")
    hub.requests.clear()
    load_model(f"hf://{REPO}@{commit}")
    assert not hub.requests  # a commit can't change


def test_a_cached_file_that_went_bad_is_deleted(hub: Hub, content: bytes) -> None:
    hub.publish(REPO, {checkpoints.FILE_NAME: content})
    cached = checkpoints.locate(f"hf://{REPO}")
    cached.resolve().write_bytes(content[:-1] + b"\1")  # the hub knows the sha256 of large files
    with pytest.raises(ChecksumError, match="deleted"):
        load_model(f"hf://{REPO}")
    assert load_model(f"hf://{REPO}").config == CONFIG


def test_a_cut_connection_is_resumed(hub: Hub, content: bytes) -> None:
    hub.publish(REPO, {checkpoints.FILE_NAME: content})
    hub.cuts = [len(content) // 2, 100]
    assert load_model(f"hf://{REPO}").config == CONFIG
    assert hub.downloads() == [checkpoints.FILE_NAME] * 3


def test_a_connection_that_stays_cut_gets_one_line(hub: Hub, content: bytes) -> None:
    hub.publish(REPO, {checkpoints.FILE_NAME: content})
    hub.cuts = [len(content) // 2, *[0] * 20]
    with pytest.raises(ConnectionError, match=rf"hf://{REPO}: "):
        load_model(f"hf://{REPO}")
    hub.cuts = []
    assert load_model(f"hf://{REPO}").config == CONFIG


def test_what_is_missing_is_named(hub: Hub, content: bytes) -> None:
    hub.publish(REPO, {checkpoints.FILE_NAME: content})
    for spec in ("hf://lab/nothing", f"hf://{REPO}@v9", f"hf://{REPO}/b.safetensors"):
        with pytest.raises(FileNotFoundError, match=rf"^{spec}: .*{hub.url}") as caught:
            load_model(spec)
        assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="lab/a--b"):
        load_model("hf://lab/a--b")


def test_refusals_say_so(hub: Hub, content: bytes) -> None:
    hub.publish(REPO, {checkpoints.FILE_NAME: content})
    hub.gated = {REPO}
    with pytest.raises(PermissionError, match="gated"):
        load_model(f"hf://{REPO}")
    hub.token = "secret"
    with pytest.raises(PermissionError, match="HF_TOKEN"):
        load_model(f"hf://{REPO}")


@pytest.mark.parametrize("how", ["broken", "offline"])
def test_without_a_connection_the_cache_serves(
    how: str, hub: Hub, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.publish(REPO, {checkpoints.FILE_NAME: content, "b.safetensors": content})
    load_model(f"hf://{REPO}")
    hub.requests.clear()
    if how == "broken":
        hub.broken = True
    else:
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert load_model(f"hf://{REPO}").config == CONFIG
    with pytest.raises(OSError, match=rf"^hf://{REPO}/b.safetensors: ") as caught:
        load_model(f"hf://{REPO}/b.safetensors")
    assert "\n" not in str(caught.value) and (how == "broken" or not hub.requests)


@pytest.mark.slow
def test_the_clients_variables_count(hub: Hub, content: bytes, tmp_path: Path) -> None:
    """In a process of its own, as the client reads them when it is imported."""
    hub.publish(REPO, {checkpoints.FILE_NAME: content, "b.safetensors": content})
    hub.token = "secret"
    home = tmp_path / "home"
    code = """if True:
        import sys
        from hear_axlstm import checkpoints
        for spec in sys.argv[1:]:
            try:
                print(checkpoints.locate(spec))
            except OSError as error:
                print(error)
    """
    hub_variables = {"HF_ENDPOINT": hub.url, "HF_HOME": str(home), "HF_TOKEN": "secret"}

    def locate(*specs: str, **variables: str) -> list[str]:
        environment = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
        result = subprocess.run(
            [sys.executable, "-c", code, *specs],
            env=environment | hub_variables | variables,
            capture_output=True,
            text=True,
            check=True,
        )
        return result.stdout.splitlines()

    assert Path(locate(f"hf://{REPO}")[0]).is_relative_to(home)
    hub.requests.clear()
    specs = (f"hf://{REPO}", f"hf://{REPO}/b.safetensors")
    cached, missing = locate(*specs, HF_HUB_OFFLINE="1")
    assert Path(cached).read_bytes() == content and not hub.requests
    assert missing.startswith(f"hf://{REPO}/b.safetensors: ")


def test_push_publishes_what_load_model_takes(
    hub: Hub, run: Path, content: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    push(str(run), REPO, license="cc-by-4.0", dry_run=True)
    shown = capsys.readouterr().out
    assert not hub.requests
    push(str(run), REPO, license="cc-by-4.0")
    files = hub.commits[REPO][hub.refs[REPO]["main"]]
    assert set(files) == {checkpoints.FILE_NAME, "README.md"}
    assert files["README.md"].decode() == shown.strip("\n") + "\n"
    assert b"secret" in content and b"secret" not in files[checkpoints.FILE_NAME]
    assert load_model(f"hf://{REPO}").config == CONFIG
    card = ModelCard(shown)
    assert card.data.license == "cc-by-4.0" and card.data.library_name == "hear_axlstm"
    for fact in (
        "| hours | 5.3 |",
        "| classifier.classes | dog, cat |",
        "| epochs | 6.0 |",
        "| mel.n_mels | 80 |",
        "pip install",
    ):
        assert fact in card.text
    assert "secret" not in shown and "mlp_ratio" not in shown
    (example,) = re.findall(r"```python\n(.*?)```", card.text, re.S)
    names: dict[str, torch.Tensor] = {}
    exec(example, names)
    assert names["scene"].shape == (1, 160) and names["steps"].shape[2] == 160


def test_scores_are_in_the_card_and_its_metadata(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = tmp_path / "results.csv"
    rows = ["system,task,seed,metric,percent,seconds,engine"]
    rows += [f"mine,esc50,{n},top1_acc,{score},1,fast" for n, score in enumerate((50, 53))]
    results.write_text("\n".join([*rows, "naive,esc50,0,top1_acc,5,1,fast"]), "utf-8")
    push(str(run), REPO, scores=results, system="mine", dry_run=True)
    card = ModelCard(capsys.readouterr().out)
    esc50, loss = card.data.eval_results
    assert (esc50.dataset_name, esc50.metric_type, esc50.metric_value) == (
        "esc50",
        "top1_acc",
        51.5,
    )
    assert loss.metric_value == 0.5 and "| esc50 | test | top1_acc, %" in card.text
    with pytest.raises(ValueError, match="contains the systems mine, naive: pass one"):
        push(str(run), REPO, scores=results, dry_run=True)
    results.write_text("a,b\n1,2\n", "utf-8")
    with pytest.raises(ValueError, match=r"not a results.csv of hearbench"):
        push(str(run), REPO, scores=results, dry_run=True)


def test_push_takes_a_card_and_an_existing_repository(hub: Hub, run: Path, tmp_path: Path) -> None:
    (tmp_path / "card.md").write_text("# Mine\n", "utf-8")
    hub.publish(REPO, {"other.txt": b"stays"})
    push(str(run), REPO, card=tmp_path / "card.md", private=True)
    files = hub.commits[REPO][hub.refs[REPO]["main"]]
    assert files["README.md"] == b"# Mine\n" and files["other.txt"] == b"stays"


def test_of_an_unfinished_run_the_weights_alone_are_published(hub: Hub, tmp_path: Path) -> None:
    model = MaskedPatchModel(CONFIG)
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    settings = {"model": CONFIG.to_dict(), "init": "/secret/path"}
    state = Checkpoint(5, settings, "", {**tensors, "optimizer.exp_avg.x": torch.ones(9)})
    save_checkpoint(tmp_path / "checkpoints" / "step-00000005.safetensors", state)
    push(str(tmp_path), REPO)
    published = hub.commits[REPO][hub.refs[REPO]["main"]][checkpoints.FILE_NAME]
    assert b"secret" not in published and b"exp_avg" not in published
    assert load_model(f"hf://{REPO}").config == CONFIG


@pytest.mark.parametrize("repo", ["a", "a/b/c", "a/b@v2", "/a", ""])
def test_push_refuses_what_load_model_could_not_name(repo: str, run: Path) -> None:
    with pytest.raises(ValueError, match=f"repo='{repo}' must have the form org/repo"):
        push(str(run), repo, dry_run=True)


def test_push_fails_in_one_line(hub: Hub, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def check() -> None:
        with pytest.raises(OSError, match=f"hf://{REPO}: ") as caught:
            push(str(run), REPO)
        assert "\n" not in str(caught.value)

    hub.token = "secret"
    check()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    check()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    hub.token, hub.broken = None, True
    check()
