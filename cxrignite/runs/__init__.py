"""Results of a run, and the only code that opens the files of its folder."""
