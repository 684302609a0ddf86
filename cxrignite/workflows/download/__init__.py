"""Fetch a public data set by name, check its size and sha256, and unpack it safely."""
