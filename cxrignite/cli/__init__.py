"""Command line: commands, options, recipe files and their validation."""

from cxrignite.cli.main import run

__all__ = ["run"]
