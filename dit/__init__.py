"""The denoiser: transformer, text encoders, loss, training, generation and the command line."""

__version__ = "0.1.0"
