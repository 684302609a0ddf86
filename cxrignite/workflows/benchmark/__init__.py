"""Measure training speed with this machine, recipe and data, compared with a plain PyTorch loop."""
