"""Export of a run: a folder with a model that needs neither the run nor this package."""
