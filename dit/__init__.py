"""The denoiser: transformer, text encoders, loss, training, generation and the command line."""

import vae  # noqa: F401  (before PyTorch)

__version__ = "0.1.0"
