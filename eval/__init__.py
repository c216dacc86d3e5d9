"""Scores: videos and autoencoders against real ones."""

import vae  # noqa: F401  (before PyTorch)
