"""Draw class activation maps of a run's images, and measure what the maps are worth."""
