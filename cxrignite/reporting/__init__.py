"""Output for people: the console, plots and HTML pages."""
