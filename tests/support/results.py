"""Results of a run as JSON, for tests that read what a user reads."""

import json


def finding(path):
    """The one finding of `operating_point.json` or of `metrics/*.json`."""
    (content,) = json.loads(path.read_text())["findings"]
    return content


def point(path):
    """The operating point of `operating_point.json`, with what chose it."""
    content = finding(path)
    return {**content["point"], "chosen_on": content["chosen_on"]}
