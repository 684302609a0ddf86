"""The names of the commands; imports nothing."""

COMMANDS = {
    "audit": "what is wrong with a data set, before training on it",
    "fit": "train and validate, keep the best, choose the operating point, leave a run folder",
    "validate": "score a run on its validation split, with the stored threshold",
    "test": "score a run on its test split or on other images, with a stored threshold",
    "recalibrate": "choose a threshold for one site from its own labelled images",
    "predict": "new images to a table of scores and decisions, which a stop does not undo",
    "explain": "draw where the model looked, and measure whether the maps mean anything",
    "compare": "runs against each other, in pairs on the same images",
    "report": "a run folder as one self-contained HTML page",
    "benchmark": "what this machine makes of a recipe, beside the same loop written by hand",
    "download": "a public data set by name, checked by size and sha256, unpacked",
    "recipes": "list, show or copy the recipes that ship with the package; a schema for editors",
}
"""The task of each command, in the order in which help names them."""
