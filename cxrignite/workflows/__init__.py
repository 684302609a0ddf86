"""The commands' workflows: sequences of phases from a recipe to a run folder."""
