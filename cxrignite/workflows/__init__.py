"""What each command does, from a recipe to a run folder."""
