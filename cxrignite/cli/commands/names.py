"""Names and tasks of the commands; imports nothing."""

COMMANDS = {
    "audit": "Check a data set for problems before training",
    "fit": "Train and validate a model, choose the threshold, and write a run folder",
    "validate": "Evaluate a run on its validation split, with the stored threshold",
    "test": "Evaluate a run on its test split or on other images, with a stored threshold",
    "recalibrate": "Choose a threshold for one site, with labelled images of that site",
    "predict": "Score new images into a CSV table; an interrupted run can be resumed",
    "explain": "Draw class activation maps, and check that they show what moves the score",
    "compare": "Compare runs with a first one, in pairs on the same images",
    "report": "Write a report about a run: one self-contained HTML page",
    "benchmark": "Measure training speed, compared with a plain PyTorch loop",
    "download": "Download and unpack a public data set, checked by size and SHA-256",
    "recipes": "List, show or copy the included recipes; print their JSON schema for editors",
}
"""Task of each command, in the order of the help."""
