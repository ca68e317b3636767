"""Waveforms: decoding files, listing sources of audio, log-mel spectrograms."""
