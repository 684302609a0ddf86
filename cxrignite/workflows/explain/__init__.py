"""Draw class activation maps of a run's images, and measure the maps."""
