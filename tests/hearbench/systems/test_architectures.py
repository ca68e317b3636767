"""Blocks and embeddings against torch's and transformers' modules, or plain loops."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hearbench.systems import audiomae, beats, mwmae, passt, ssam, ssast
from hearbench.systems.parts.beats_attention import Attention, relative_bias
from hearbench.systems.parts.flax_checkpoint import read_params
from hearbench.systems.parts.mamba import MambaMixer
from hearbench.systems.parts.vit import NORM_EPS, Block
from tests.helpers import system_checkpoints as write

D, HEADS = 128, 2


def randomized(module: nn.Module, seed: int = 0) -> nn.Module:
    draw = write.Draw(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.dim() > 1:
                parameter.copy_(draw.matrix(*parameter.shape, gain=1.5))
            else:
                parameter.add_(draw.values(*parameter.shape))
    return module.eval().requires_grad_(False)


def torch_layer(block: Block, activation) -> nn.TransformerEncoderLayer:
    """Torch's own pre-norm layer with the weights of `block`."""
    layer = nn.TransformerEncoderLayer(
        D, HEADS, 4 * D, 0.0, activation, NORM_EPS, batch_first=True, norm_first=True
    )
    names = {
        "norm1": "norm1",
        "norm2": "norm2",
        "linear1": "mlp.fc1",
        "linear2": "mlp.fc2",
        "self_attn.out_proj": "attn.proj",
    }
    state = block.state_dict()
    pairs = [
        (f"{a}.{kind}", f"{b}.{kind}") for a, b in names.items() for kind in ("weight", "bias")
    ]
    pairs += [(f"self_attn.in_proj_{kind}", f"attn.qkv.{kind}") for kind in ("weight", "bias")]
    layer.load_state_dict({mine: state[theirs] for mine, theirs in pairs})
    return layer.train()  # evaluation would take a fused path, which this is not about


@pytest.mark.parametrize("gelu", ["none", "tanh"])
def test_vit_block_equals_torchs_layer(gelu: str) -> None:
    block = randomized(Block(D, HEADS, gelu))
    x = torch.randn(2, 9, D, generator=torch.Generator().manual_seed(0))
    expected = torch_layer(block, nn.GELU(gelu))(x)
    torch.testing.assert_close(block(x), expected, rtol=1e-5, atol=1e-5)
    other = torch_layer(block, nn.GELU("tanh" if gelu == "none" else "none"))(x)
    assert (block(x) - other).abs().max() > 1e-4


def bucket(distance: int, max_distance: int) -> int:
    """T5's rule with 320 buckets, as the BEATs paper's code has it."""
    offset, size = (160 if distance > 0 else 0), abs(distance)
    if size < 80:
        return offset + size
    share = math.log(size / 80) / math.log(max_distance / 80)
    return offset + min(159, 80 + int(80 * share))


@pytest.mark.parametrize("max_distance", [800, 1280])
def test_relative_bias(max_distance: int) -> None:
    table = torch.arange(320.0)[:, None] * torch.tensor([1.0, -1.0])
    bias = relative_bias(table, 1001, max_distance)
    expected = torch.tensor([bucket(r, max_distance) for r in range(-1000, 1001)]).float()
    assert torch.equal(bias, torch.stack([expected, -expected]))


def test_beats_attention_row_by_row(monkeypatch: pytest.MonkeyPatch) -> None:
    attention = randomized(Attention(D, HEADS))
    x = torch.randn(2, 11, D, generator=torch.Generator().manual_seed(0))
    bias = torch.randn(HEADS, 21, generator=torch.Generator().manual_seed(1))
    q, k, v = (
        projection(x).view(2, 11, HEADS, 64)
        for projection in (attention.q_proj, attention.k_proj, attention.v_proj)
    )
    expected = torch.empty(2, 11, HEADS, 64)
    for b in range(2):
        for h in range(HEADS):
            for i in range(11):
                eight = attention.grep_linear(q[b, i, h])
                s, t = torch.sigmoid(eight[:4].sum()), torch.sigmoid(eight[4:].sum())
                gate = s * (t * attention.grep_a[0, h, 0, 0] - 1) + 2
                scores = torch.stack(
                    [q[b, i, h] @ k[b, j, h] / 8 + gate * bias[h, j - i + 10] for j in range(11)]
                )
                expected[b, i, h] = scores.softmax(0) @ v[b, :, h]
    expected = attention.out_proj(expected.flatten(2))
    for at_once in (1 << 24, 1, 100):
        monkeypatch.setattr("hearbench.systems.parts.beats_attention.SCORES_AT_ONCE", at_once)
        torch.testing.assert_close(attention(x, bias), expected, rtol=1e-5, atol=1e-5)


def test_beats_positional_convolution_is_weight_norms(tmp_path: Path) -> None:
    path = write.beats(tmp_path)
    tensors = torch.load(path, weights_only=True)["model"]
    reference = nn.utils.parametrizations.weight_norm(nn.Conv1d(64, 64, 128, groups=16), dim=2)
    original = reference.parametrizations.weight
    original.original0.data = tensors["encoder.pos_conv.0.weight_g"]
    original.original1.data = tensors["encoder.pos_conv.0.weight_v"]
    loaded = beats.load_model(str(path)).transformer.encoder.pos_conv[0]
    torch.testing.assert_close(loaded.weight, reference.weight.detach())


def test_mamba_mixer_equals_transformers() -> None:
    modeling = pytest.importorskip("transformers.models.mamba.modeling_mamba")
    config = modeling.MambaConfig(
        hidden_size=64, state_size=24, expand=3, time_step_rank=4, conv_kernel=4, use_bias=False
    )
    theirs = randomized(modeling.MambaMixer(config, layer_idx=0))
    mixer = MambaMixer(64, 192, 24, 4)
    mixer.load_state_dict(theirs.state_dict())
    x = torch.randn(3, 40, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found, expected = mixer(x), theirs(x)
    assert (found - expected).norm() < 1e-5 * expected.norm()


def test_ssam_rows(tmp_path: Path) -> None:
    path = str(write.ssam(tmp_path))
    release, time = ssam.load_model(path), ssam.load_model(path, layout="time")
    frames = torch.randn(2, 200, 80, generator=torch.Generator().manual_seed(0))
    rows, tokens = release.encoder(frames), time.encoder(frames).view(2, 250, 64)
    for t in (0, 13, 49):
        expected = torch.cat([tokens[:, t + 50 * k] for k in range(5)], dim=-1)
        assert torch.equal(rows[:, t], expected)
    with pytest.raises(ValueError, match="layout='rows'"):
        ssam.load_model(path, layout="rows")


@pytest.mark.parametrize("module", [ssam, mwmae])
@pytest.mark.parametrize("samples", [16_000, 32_000 - 160, 64_001])
def test_rows_of_the_filling_are_left_out(module, tmp_path: Path, samples: int) -> None:
    """Chunk by chunk as the paper's code does it, with a whole chunk of filling if T fits."""
    writer = write.ssam if module is ssam else write.mwmae
    model = module.load_model(str(writer(tmp_path)))
    audio = torch.randn(1, samples, generator=torch.Generator().manual_seed(0))
    mel = model.log_mel(audio)[0]
    mel = ((mel - mel.mean()) / (mel.std() + 1e-8)).numpy()
    filling = 200 - len(mel) % 200
    if module is ssam:
        mel = np.pad(mel, ((0, filling), (0, 0)))
    else:
        mel = np.pad(mel, ((0, filling), (0, 0)), mode="reflect")
    chunks = torch.from_numpy(mel).float().view(-1, 200, 80)
    rows = torch.cat([model.encoder(chunk[None])[0] for chunk in chunks])
    rows = rows[: len(rows) - filling // 4]
    embeddings, times = module.get_timestamp_embeddings(audio, model)
    torch.testing.assert_close(embeddings[0], rows, rtol=1e-4, atol=1e-4)
    scene = module.get_scene_embeddings(audio, model)[0]
    torch.testing.assert_close(scene, rows.mean(dim=0), rtol=1e-4, atol=1e-4)
    expected = torch.arange(len(rows)) * (samples / 16 / len(rows))
    torch.testing.assert_close(times[0], expected)


def test_ssast_takes_the_middle_of_the_positions_or_stretches_them(tmp_path: Path) -> None:
    model = ssast.load_model(str(write.ssast(tmp_path))).transformer
    stored = model.pos_embed[0, 2:].view(8, 64, 64)
    middle = model.positions(8, 9)[0, 2:].view(8, 9, 64)
    assert torch.equal(middle, stored[:, 28:37])
    grid = model.positions(12, 101)[0, 2:].view(12, 101, 64)
    # the corner of a bilinear picture is the corner; the middle lies between its neighbors
    torch.testing.assert_close(grid[0, 0], stored[0, 0])
    torch.testing.assert_close(grid[-1, -1], stored[-1, -1])
    torch.testing.assert_close(grid[0, 50], (stored[0, 31] + stored[0, 32]) / 2)


def test_ssast_token_by_token(tmp_path: Path) -> None:
    model = ssast.load_model(str(write.ssast(tmp_path, dim=D)))
    audio = torch.randn(1, 9_000, generator=torch.Generator().manual_seed(0))
    frames = ((model.fbank(audio) + 4.2677393) / (2 * 4.5689974))[0]  # [54, 128]
    kernel = model.transformer.patch_embed.proj
    tokens = [
        (kernel.weight[:, 0] * frames[10 * t : 10 * t + 16, 10 * f : 10 * f + 16].T).sum((1, 2))
        + kernel.bias
        for f in range(12)
        for t in range(4)
    ]
    tokens = torch.stack(tokens)
    first = torch.cat([model.transformer.cls_token, model.transformer.dist_token], dim=1)[0]
    x = torch.cat([first, tokens])[None] + model.transformer.positions(12, 4)
    for block in model.transformer.blocks:
        x = torch_layer(block, F.gelu)(x)
    expected = model.transformer.norm(x)[0, 2:]
    scene = ssast.get_scene_embeddings(audio, model)[0]
    torch.testing.assert_close(scene, expected.mean(0), rtol=1e-4, atol=1e-4)
    columns, times = ssast.get_timestamp_embeddings(audio, model)
    torch.testing.assert_close(columns[0], expected.view(12, 4, D).mean(0), rtol=1e-4, atol=1e-4)
    assert times[0].tolist() == [87.5, 187.5, 287.5, 387.5]


def test_audiomae_fills_before_it_normalizes_and_pools_as_asked(tmp_path: Path) -> None:
    path = str(write.audiomae(tmp_path))
    model = audiomae.load_model(path)
    audio = torch.randn(1, 16_000, generator=torch.Generator().manual_seed(0))
    frames = F.pad(model.fbank(audio - audio.mean()), (0, 0, 0, 1024 - 98))
    tokens = model.encoder((frames + 4.2677393) / (2 * 4.5689974))[0]  # [64, 8, D]
    scene = audiomae.get_scene_embeddings(audio, model)[0]
    torch.testing.assert_close(scene, tokens.mean((0, 1)), rtol=1e-4, atol=1e-5)
    only = audiomae.load_model(path, pool="audio")
    scene = audiomae.get_scene_embeddings(audio, only)[0]
    torch.testing.assert_close(scene, tokens[:6].mean((0, 1)), rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="pool='max'"):
        audiomae.load_model(path, pool="max")


def reflected_windows(audio: Tensor, window: int, hop: int) -> list[Tensor]:
    padded = np.pad(audio.numpy(), ((0, 0), (window // 2, window // 2)), mode="reflect")
    starts = range(0, audio.shape[-1] + 1, hop)
    return [torch.from_numpy(padded[:, s : s + window]) for s in starts]


def test_passt_windows_one_by_one(tmp_path: Path) -> None:
    model = passt.load_model(str(write.passt(tmp_path, classes=20)))
    audio = torch.randn(2, 12_345, generator=torch.Generator().manual_seed(0))
    windows = reflected_windows(audio, 5_120, 1_600)
    expected = torch.stack([model(window) for window in windows], dim=1)
    embeddings, times = passt.get_timestamp_embeddings(audio, model)
    torch.testing.assert_close(embeddings, expected, rtol=1e-4, atol=1e-4)
    assert times[1].tolist() == [50.0 * i for i in range(len(windows))]
    logits = model.transformer.head(embeddings[..., 20:])
    torch.testing.assert_close(embeddings[..., :20], logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("known", passt.WINDOWS)
def test_passt_is_the_mean_over_windows_of_a_longer_clip(
    tmp_path: Path, known: tuple[int, int]
) -> None:
    rows = next(rows for rows, stride in passt.STRIDES.items() if stride == known[0])
    path = write.passt(tmp_path, depth=1, classes=20, grid=(rows, known[1]))
    model = passt.load_model(str(path))
    window, hop = (int(32_000 * seconds) for seconds in passt.WINDOWS[known])
    longer = torch.randn(1, window + 10_000, generator=torch.Generator().manual_seed(0))
    windows = reflected_windows(longer, window, hop)
    expected = torch.stack([model(part) for part in windows]).mean(dim=0)
    scene = passt.get_scene_embeddings(longer, model)
    torch.testing.assert_close(scene, expected, rtol=1e-4, atol=1e-4)


def test_beats_from_its_tensors(tmp_path: Path) -> None:
    path = write.beats(tmp_path, dim=D)
    tensors = torch.load(path, weights_only=True)["model"]
    model = beats.load_model(str(path))
    audio = torch.randn(1, 9_000, generator=torch.Generator().manual_seed(0)) * 0.1
    frames = ((model.fbank(audio * 32_768) - 15.41663) / 13.11164)[0]  # [54, 128]: 3 x 8 patches

    def norm(x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], tensors[f"{name}.weight"], tensors[f"{name}.bias"])

    def linear(x: Tensor, name: str) -> Tensor:
        return x @ tensors[f"{name}.weight"].T + tensors[f"{name}.bias"]

    kernel = tensors["patch_embedding.weight"].flatten(1)  # [32, 256]
    patches = [
        frames[16 * t : 16 * t + 16, 16 * f : 16 * f + 16] for t in range(3) for f in range(8)
    ]
    x = torch.stack([kernel @ patch.flatten() for patch in patches])
    x = linear(norm(x, "layer_norm"), "post_extract_proj")
    convolved = model.transformer.encoder.pos_conv[0](x.T[None])[0, :, :-1].T
    x = norm(x + F.gelu(convolved), "encoder.layer_norm")
    table = tensors["encoder.layers.0.self_attn.relative_attention_bias.weight"]
    for i, layer in enumerate(model.transformer.encoder.layers):
        attended = layer.self_attn(x[None], relative_bias(table, 24, 800))[0]
        name = f"encoder.layers.{i}"
        x = norm((2 * 2) ** 0.25 * x + attended, f"{name}.self_attn_layer_norm")
        hidden = F.gelu(linear(x, f"{name}.fc1"))
        x = norm((2 * 2) ** 0.25 * x + linear(hidden, f"{name}.fc2"), f"{name}.final_layer_norm")
    scene = beats.get_scene_embeddings(audio, model)[0]
    torch.testing.assert_close(scene, x.mean(dim=0), rtol=1e-4, atol=1e-4)
    rows, times = beats.get_timestamp_embeddings(audio, model)
    torch.testing.assert_close(rows[0], x.view(3, 8, D).mean(dim=1), rtol=1e-4, atol=1e-4)
    assert times[0].tolist() == [87.5, 247.5, 407.5]


@pytest.mark.parametrize("class_token", [False, True])
def test_mwmae_from_its_tree(tmp_path: Path, class_token: bool) -> None:
    run = write.mwmae(tmp_path, dim=D, class_token=class_token)
    tree = read_params(run / "checkpoint_20")
    frames = torch.randn(200, 80, generator=torch.Generator().manual_seed(0))

    def norm(x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x, (D,), tree[f"{name}/scale"], tree[f"{name}/bias"], 1e-6)

    def dense(x: Tensor, name: str) -> Tensor:
        return x @ tree[f"{name}/kernel"] + tree[f"{name}/bias"]

    kernel = tree["patch_embed/proj/kernel"].reshape(64, D)
    patches = [frames[4 * t : 4 * t + 4, 16 * f : 16 * f + 16] for t in range(50) for f in range(5)]
    x = torch.stack([patch.flatten() @ kernel for patch in patches]) + tree["patch_embed/proj/bias"]
    if class_token:
        x = torch.cat([tree["cls_token"][0].float(), x])
    x = x + tree["pos_embed"][0]
    for i in range(2):
        block = f"encoder_block_{i:02d}"
        qkv = dense(norm(x, f"{block}/LayerNorm_0"), f"{block}/Attention_0/Dense_0")
        q, k, v = (part.view(-1, HEADS, 64).transpose(0, 1) for part in qkv.chunk(3, dim=-1))
        attended = ((q @ k.transpose(1, 2) / 8).softmax(-1) @ v).transpose(0, 1).flatten(1)
        x = x + dense(attended, f"{block}/Attention_0/Dense_1")
        hidden = dense(norm(x, f"{block}/LayerNorm_1"), f"{block}/Mlp_0/Dense_0")
        x = x + dense(F.gelu(hidden, approximate="tanh"), f"{block}/Mlp_0/Dense_1")
    x = norm(x, "encoder_norm")[int(class_token) :]
    expected = torch.stack([x[5 * t : 5 * t + 5].flatten() for t in range(50)])
    rows = mwmae.load_model(str(run)).encoder(frames[None])[0]
    torch.testing.assert_close(rows, expected, rtol=1e-4, atol=1e-4)
