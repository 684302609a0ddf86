"""Figures of data, scores and training, as matplotlib draws them."""
