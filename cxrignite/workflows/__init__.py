"""What each verb does, from a recipe to a run folder."""
