"""Code of a MONAI bundle: reading of images, network, table of scores; MONAI runs it."""
