"""Figures of data, scores and training, drawn with matplotlib."""
