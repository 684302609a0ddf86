"""Run folders: typed results of a run, and the only code that opens its files."""
