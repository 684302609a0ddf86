"""Everything that a person reads: the console, plots and HTML pages."""
