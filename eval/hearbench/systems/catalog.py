"""The systems that come with hearbench: sources, licenses, weights and choices made.

A name is a module `hearbench.systems.NAME`. Sizes and rates are those of the checkpoints in
the paper's Table 2; parameters are counted as the table counts them.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Card:
    """Facts about a system that a user needs before running it."""

    title: str
    """The system, and the paper that describes it."""
    rows: tuple[str, ...]
    """Its rows in the paper's Table 2."""
    code_license: str
    """SPDX identifier of the authors' code, which hearbench does not contain."""
    weights_license: str
    """SPDX identifier, or a name."""
    sample_rate: int
    """Hz."""
    embedding_size: str
    """Numbers in a scene embedding."""
    parameters: str
    """Millions."""
    checkpoint: str
    """The part after @: a file, a run's folder or a name; empty if there are no weights."""
    published: str
    """Source of the weights."""
    verified: str
    """Reference that the adapter was compared with."""
    choices: str
    """Choices made where the paper or the authors' code leave a question open."""


BY_FORMULA = "each part against torch's own modules or plain formulas (tests/hearbench/systems)"

CATALOG: dict[str, Card] = {
    "naive": Card(
        title="HEAR-naive, a random projection of the log-mel (Turian et al., 2022)",
        rows=("HEAR-Naive",),
        code_license="Apache-2.0",
        weights_license="-",
        sample_rate=16_000,
        embedding_size="4096",
        parameters="0",
        checkpoint="",
        published="-",
        verified="the formula of the HEAR paper",
        choices="16 kHz instead of 44.1 kHz, HTK mels, other random numbers",
    ),
    "spectrum": Card(
        title="Mean log-magnitude spectrum",
        rows=(),
        code_license="Apache-2.0",
        weights_license="-",
        sample_rate=16_000,
        embedding_size="257",
        parameters="0",
        checkpoint="",
        published="-",
        verified="numpy's FFT",
        choices="32 ms frames every 20 ms, log(1 + magnitude), mean over time",
    ),
    "logmel": Card(
        title="Mean and deviation of the log-mel spectrogram",
        rows=(),
        code_license="Apache-2.0",
        weights_license="-",
        sample_rate=16_000,
        embedding_size="160",
        parameters="0",
        checkpoint="",
        published="-",
        verified="torchaudio's MelSpectrogram",
        choices="80 HTK mels, 50 to 8000 Hz; timestamps see 210 ms",
    ),
    "passt": Card(
        title="PaSST (Koutini et al., 2022)",
        rows=("PaSST-Base",),
        code_license="Apache-2.0",
        weights_license="Apache-2.0",
        sample_rate=32_000,
        embedding_size="1295",
        parameters="86.2",
        checkpoint="passt-s-f128-p16-s10-ap.476-swa.pt",
        published="https://github.com/kkoutini/PaSST/releases",
        verified="hear21passt 0.0.26 on random weights: scenes and timestamps within 1e-6",
        choices="the table's system is taken to be the authors' HEAR 2021 entry: logits, features",
    ),
    "huggingface": Card(
        title="wav2vec 2.0, HuBERT and WavLM by transformers (Baevski, Hsu, Chen et al., 2020-22)",
        rows=("W2V2-large", "WavLM-large", "HuBERT-large"),
        code_license="Apache-2.0",
        weights_license="Apache-2.0, MIT",
        sample_rate=16_000,
        embedding_size="1024",
        parameters="315.4",
        checkpoint="facebook/hubert-large-ll60k",
        published="https://huggingface.co/models",
        verified="transformers' own output",
        choices="last hidden layer, mean over time; the hub's names that fit VP, Mix and LL: "
        "facebook/wav2vec2-large-100k-voxpopuli, microsoft/wavlm-large, "
        "facebook/hubert-large-ll60k",
    ),
    "beats": Card(
        title="BEATs (Chen et al., 2023)",
        rows=("BEATs-iter3",),
        code_license="MIT",
        weights_license="MIT",
        sample_rate=16_000,
        embedding_size="768",
        parameters="90.3",
        checkpoint="BEATs_iter3.pt",
        published="https://github.com/microsoft/unilm/tree/master/beats",
        verified="SpeechBrain 1.1.2's BEATs on random weights: tokens within 2e-6",
        choices="no official HEAR module: mean over all tokens of the last layer; attention spans "
        "the whole clip",
    ),
    "audiomae": Card(
        title="AudioMAE (Huang et al., 2022)",
        rows=("AudioMAE",),
        code_license="CC-BY-NC-4.0",
        weights_license="CC-BY-NC-4.0",
        sample_rate=16_000,
        embedding_size="768",
        parameters="85.6",
        checkpoint="pretrained.pth",
        published="https://github.com/facebookresearch/AudioMAE",
        verified=BY_FORMULA,
        choices="no official HEAR module: pretrained file, chunks of 10.24 s, mean over all patch "
        "tokens, padding included, as in the authors' fine-tuning (pool='audio' excludes it)",
    ),
    "msm_mae": Card(
        title="MSM-MAE (Niizumi et al., 2022), by its authors' own HEAR module",
        rows=("MSM-MAE-208",),
        code_license="NTT evaluation license",
        weights_license="NTT evaluation license",
        sample_rate=16_000,
        embedding_size="3840",
        parameters="92.7",
        checkpoint="THEIR_MODULE@80x208p16x16_0422/checkpoint-100.pth",
        published="https://github.com/nttcslab/msm-mae/releases",
        verified="a stand-in module; the license allows no derived code, so none is included",
        choices="one clip at a time: the authors' code standardizes over the whole batch",
    ),
    "mwmae": Card(
        title="MW-MAE (Yadav et al., 2024)",
        rows=("MWMAE-Tiny", "MWMAE-Base"),
        code_license="Apache-2.0",
        weights_license="Apache-2.0",
        sample_rate=16_000,
        embedding_size="960, 3840",
        parameters="12.5, 92.5",
        checkpoint="mwmae_base_200_4x16_8x128_default_bfloat16_run1",
        published="https://github.com/SarthakYadav/mwmae-jax-official",
        verified=BY_FORMULA,
        choices="float32, where the authors' configuration computes in bfloat16",
    ),
    "ssam": Card(
        title="SSAM, Self-Supervised Audio Mamba (Yadav and Tan, 2024)",
        rows=("SSAM-Tiny", "SSAM-Small", "SSAM-Base"),
        code_license="MIT",
        weights_license="MIT",
        sample_rate=16_000,
        embedding_size="960, 1920, 3840",
        parameters="4.8, 17.9, 69.3",
        checkpoint="ssam_base_200_16x4_4x256_fp16_r1",
        published="https://github.com/SarthakYadav/audio-mamba-official",
        verified="transformers' MambaMixer; " + BY_FORMULA,
        choices="rows as in the release, which mix five moments (layout='time' does not)",
    ),
    "ssast": Card(
        title="SSAST (Gong et al., 2022)",
        rows=("SSAST",),
        code_license="BSD-3-Clause",
        weights_license="BSD-3-Clause",
        sample_rate=16_000,
        embedding_size="768",
        parameters="89.0",
        checkpoint="SSAST-Base-Patch-400.pth",
        published="https://github.com/YuanGongND/ssast",
        verified=BY_FORMULA,
        choices="no official HEAR module: stride 10, positions for the clip's length, mean over "
        "patch tokens; longer clips in chunks of 10.24 s",
    ),
}
