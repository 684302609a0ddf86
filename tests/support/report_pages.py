"""Pages of made-up runs: the run folder, the page as a browser reads it, and its explorer."""

import base64
import csv
import hashlib
import io
import itertools
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import yaml
from PIL import Image
from results import RULE, evaluation_of, rule_of

from cxrignite.functional import Interval
from cxrignite.handlers.checkpoint_loading import sealed
from cxrignite.reporting.html import (
    write_report,
)
from cxrignite.reporting.numbers import observed_share
from cxrignite.runs.decision_rule import DecisionRules
from cxrignite.runs.environment import RunStart, RunStarts
from cxrignite.runs.evaluation import (
    Averages,
    CertificateCheck,
    ClassDecisions,
    Estimate,
    Evaluations,
)
from cxrignite.runs.json_codec import to_json
from cxrignite.runs.map_evaluation import (
    MapEvaluation,
)

CLASSES = ["NORMAL", "PNEUMONIA"]


SUREST = "test/PNEUMONIA/image 4.png"
"""The false negative farthest from the threshold."""


VOID_TAGS = {"meta", "link", "img", "br", "input"}


class Page(HTMLParser):
    """What a browser makes of a page: its elements, correctly nested, and their text."""

    def __init__(self, path):
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.builder, self.open = ElementTree.TreeBuilder(), []
        self.feed(self.source)
        self.close()
        assert self.open == []
        self.root = self.builder.close()
        self.text = words(self.root)

    def handle_starttag(self, tag, attrs):
        self.builder.start(tag, {key: value or "" for key, value in attrs})
        if tag in VOID_TAGS:
            self.builder.end(tag)
        else:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag
        self.builder.end(tag)

    def handle_data(self, data):
        if {"style", "script"}.isdisjoint(self.open):
            self.builder.data(data)

    @property
    def tags(self):
        return {element.tag for element in self.root.iter()}

    @property
    def attributes(self):
        return [pair for element in self.root.iter() for pair in element.items()]

    def section(self, name):
        return self.root.find(f".//section[@id='{name}']")

    @property
    def state(self):
        """The classes of the first box, which are the state of the threshold, and its title."""
        (box,) = of_class(self.root, "status")
        return set(box.get("class").split()) - {"status"}, words(of_class(box, "title")[0])

    @property
    def sentence(self):
        """The sentence of the first box on the threshold."""
        return words(of_class(of_class(self.root, "status")[0], "sentence")[0])

    @property
    def remarks(self):
        box = of_class(self.root, "status")[0]
        return "\n".join(words(remark) for remark in of_class(box, "remark"))

    @property
    def warnings(self):
        """The boxes that come before any figure."""
        return [words(box) for box in of_class(self.root, "warning")]

    @property
    def problems(self):
        """The boxes on missing parts, a list of lines each."""
        return [[words(line) for line in box] for box in of_class(self.root, "note")]

    @property
    def notes(self):
        """The paragraphs between the tables at the top, outside boxes."""
        return [words(line) for line in self.root.findall("body/main/p") if not line.keys()]

    @property
    def tiles(self):
        """The tiles: threshold, guaranteed TNR, observed TNR, observed TPR, each with its terms."""
        return [
            (words(of_class(tile, "figure")[0]), " ".join(map(words, of_class(tile, "terms"))))
            for tile in self.root.findall(".//dl[@class='tiles']/div")
        ]

    @property
    def observations(self):
        """The rates of each set of images, by its name: size, threshold, TNR, TPR, reading."""
        table = self.root.find("body/main/table")
        rows = [] if table is None else table.findall("tbody/tr")
        return {row[0].text: [words(row[0][0]), *map(words, row[1:])] for row in rows}

    @property
    def matrices(self):
        """The confusion matrices: two rows of two cells, each a count, its share, its mark."""
        return [
            [
                [(words(cell[0]), figures(cell), cell.get("class")) for cell in row[1:]]
                for row in body
            ]
            for body in self.section("decisions").findall(".//table[@class='matrix']/tbody")
        ]

    @property
    def limits(self):
        return [words(limit) for limit in self.section("use").iter("li")]

    @property
    def num_jpegs(self):
        return self.source.count("data:image/jpeg;base64,")

    @property
    def gallery(self):
        """The pictures of each wrong decision, image and then map; None is a missing picture."""
        found = {}
        for wrong in self.root.findall(".//ul/li[div]"):
            name = words(of_class(wrong, "soft")[-1])
            found[name] = [place.find("img") for place in wrong[0]]
            assert all(name in image.get("alt") for image in found[name] if image is not None)
        return found


def words(element):
    """The text of an element in one line."""
    text = " ".join(" ".join(element.itertext()).split())
    return re.sub(r" (?=[,.;:)])", "", text)


def of_class(element, name):
    return [each for each in element.iter() if name in each.get("class", "").split()]


def figures(element):
    """A figure and its intervals."""
    return [words(each) for name in ("figure", "interval") for each in of_class(element, name)]


def rows_of(table):
    return [[words(cell) for cell in row] for row in table.iter("tr")]


def picture_of(image):
    return Image.open(io.BytesIO(base64.b64decode(image.get("src").partition(",")[2])))


CHECK = CertificateCheck(
    tnr=Estimate(0.7, Interval(0.55, 0.82)),
    tnr_by_patient=Estimate(0.71, Interval(0.56, 0.83)),
    is_below_certificate=False,
    is_below_min_tnr=False,
    tpr=Estimate(0.9, Interval(0.8, 0.95)),
    tpr_by_patient=Estimate(0.88, Interval(0.78, 0.94)),
    is_below_certified_tpr=False,
    is_below_min_tpr=False,
    is_shifted=False,
    is_certified=True,
)


INVALID = replace(CHECK, is_below_certificate=True, is_below_min_tnr=True)


START = RunStart(
    command=("cxrignite", "fit"),
    cxrignite="0.1.0",
    python="3.11.7",
    platform="Linux",
    packages={"torch": "2.14.1"},
    num_threads=2,
    git_revision=None,
    device="cpu",
    precision="fp32",
    num_processes=1,
)


class Run:
    """A run folder of a few images, written by the schema of the run folder."""

    def __init__(self, root):
        self.root = root / "run"
        self.images_root = root / "images"
        self.rule = RULE
        rows = [self._record("train", label, number) for label in (0, 1) for number in range(4)]
        self.scored = []
        for label, number in itertools.product((0, 1), range(6)):
            row = self._record("test", label, number)
            rows.append(row)
            score = (0.3, 0.95, 0.9, 0.899, 0.2, 0.991)[number]
            self.scored.append((row[0], row[1], label, score, "", ""))
        self.csv("split.csv", ["path", "label", "patient", "split", "sha256", "attr_subgroup"], [])
        self.records = rows
        self.write_split()
        self.write_predictions("test", self.scored)
        self.write_rule(RULE)
        for name in ("val", "calibration", "test"):
            self.evaluate(name)
        self.write_starts(START)
        best = {"epoch": 2, "metric": "val_roc_auc", "score": 0.97, "size": 1, "sha256": "ab" * 32}
        self.json("checkpoints/best.json", sealed(best))
        self.csv("history.csv", ["epoch", "loss", "epoch_seconds"], [(1, 0.5, 15), (2, 0.3, 17)])
        self.recipe = {
            "data": {
                "source": {
                    "class_path": "cxrignite.data.ClassFolders",
                    "init_args": {"root": str(self.images_root), "classes": CLASSES},
                },
                "val_fraction": 0.15,
            },
            "model": {
                "class_path": "cxrignite.nn.LightCNN",
                "init_args": {"width": 32, "weights": str(root / "secret" / "weights.pt")},
            },
            "trainer": {"max_epochs": 3},
            "seed": 42,
            "run_dir": str(self.root),
        }
        self.write_recipe()
        for name in ("roc_test", "precision_recall_test", "reliability_test", "samples_train"):
            self.picture(self.root / "figures" / f"{name}.png", np.full((20, 30), 200, np.uint8))
        for path, *_ in self.scored:
            self.picture(self.images_root / path, np.full((40, 50), 90, np.uint8))

    def _record(self, split, label, number):
        patient = f"{split}-{CLASSES[label]}-{number // 2}"
        name = f"{split}/{CLASSES[label]}/image {number}.png"
        digest = hashlib.sha256(name.encode()).hexdigest()
        # Images carry the columns of predictions first: path, patient.
        return (name, patient, label, split, digest, "virus" if label else "")

    def write_split(self):
        columns = ["path", "label", "patient", "split", "sha256", "attr_subgroup"]
        rows = [(path, label, patient, *rest) for path, patient, label, *rest in self.records]
        self.csv("split.csv", columns, rows)

    def write_predictions(self, name, rows):
        columns = ["path", "patient", "label", "score", "probability", "decision"]
        self.csv(f"predictions/{name}.csv", columns, rows)

    def write_recipe(self):
        (self.root / "recipe.yaml").write_text(yaml.safe_dump(self.recipe), encoding="utf-8")

    def csv(self, name, columns, rows):
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([columns, *rows])

    def json(self, name, content):
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content), encoding="utf-8")

    def result(self, name, result):
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(to_json(result))

    def write_rule(self, rule):
        site = rule.chosen_on not in ("val", "calibration")
        name = f"operating_points/{rule.chosen_on}.json" if site else "operating_point.json"
        self.result(name, DecisionRules((rule,)))

    def write_starts(self, *starts):
        self.result("environment.json", RunStarts(starts))

    def evaluate(self, name="test", rule=None, **changes):
        evaluation = evaluation_of(rule or self.rule, **changes)
        self.result(f"metrics/{name}.json", Evaluations((evaluation,)))
        return evaluation

    def damage(self, name, content):
        """Give a file another content; None takes it away."""
        path = self.root / name
        path.unlink() if content is None else path.write_bytes(content)

    def picture(self, path, pixels):
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path, "PNG")

    def decide(self, **changes):
        """Another operating point, in its own file and in the evaluation of every set of images."""
        self.rule = rule_of(**changes)
        self.result("operating_point.json", DecisionRules((self.rule,)))
        for path in (self.root / "metrics").glob("*.json"):
            self.evaluate(path.stem)

    def explain(self, rows=None, *, name="test", **changes):
        """What `explain` leaves: a map of every image that was scored, all of them red."""
        for number, _ in enumerate(self.scored):
            self.overlay(f"{number}.png", (250, 20, 20), name)
        self.write_maps(rows or self.map_rows(), name)
        self.write_about(name, **changes)

    def write_about(self, name="test", **changes):
        about = {"weights_sha256": "ab" * 32, "method": "grad_cam", "target_layer": "backbone.4"}
        about |= {"target_class": "PNEUMONIA", "other_class": "NORMAL", "threshold": 0.9}
        self.result(
            f"explain/{name}/explain.json", MapEvaluation(**{**about, "checks": None, **changes})
        )

    def overlay(self, file, colour, name="test"):
        self.picture(self.root / "explain" / name / file, np.full((32, 32, 3), colour, np.uint8))

    def map_rows(self, **changes):
        """The rows of `explain.csv`; `changes` apply to `SUREST`."""
        rows = []
        for number, (path, patient, label, score, *_) in enumerate(self.scored):
            row = {"path": path, "patient": patient, "label": label, "score": score}
            row |= {
                "threshold": 0.9,
                "decision": "positive" if score >= 0.9 else "negative",
                "selection": "wrong",
            }
            row |= {"raw_max": 1.5, "picture": f"{number}c.png", "overlay": f"{number}.png"}
            rows.append(row | (changes if path == SUREST else {}))
        return rows

    def write_maps(self, rows, name="test"):
        self.csv(f"explain/{name}/explain.csv", list(rows[0]), [list(row.values()) for row in rows])

    def page(self, **options):
        return Page(write_report(self.root, **options))


def scored_at_random(seed=3, sizes=(130, 64)):
    """Rows of predictions, with ties at the threshold 0.9 and scores at both ends."""
    random = np.random.default_rng(seed)
    rows = []
    for label, size in enumerate(sizes):
        scores = random.beta(1 + 2 * label, 3 - 2 * label, size).round(3)
        scores[:4] = (0.0, 0.9, 0.9, 1.0)
        rows += [(f"test/{label}/{n}.png", f"{n}", label, s, "", "") for n, s in enumerate(scores)]
    return rows


def scores_of(rows):
    """Scores and labels of rows of predictions."""
    return [np.array([row[place] for row in rows]) for place in (3, 2)]


class OpenPage:
    """A page in the browser, with its console messages and requests, and one of its explorers."""

    def __init__(self, browser, path, prefix="", **options):
        self.problems, self.requests, self.prefix = [], [], prefix
        self.page = browser.new_page(**options)
        self.page.on("console", lambda message: self.problems.append(message.text))
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(path.as_uri(), wait_until="load")

    def text(self, selector):
        return " ".join(self.page.inner_text(f"#{self.prefix}explorer {selector}").split())

    def press(self, slider, *keys):
        self.page.focus(f"#{self.prefix}explorer-threshold-{slider}")
        for key in keys:
            self.page.keyboard.press(key)

    @property
    def thresholds(self):
        """The thresholds of the sliders, as a screen reader reads them."""
        sliders = self.page.query_selector_all(f"#{self.prefix}explorer input")
        return [slider.get_attribute("aria-valuetext") for slider in sliders]

    @property
    def cells(self):
        """Count, rate and interval of each cell."""
        return [
            tuple(
                " ".join(cell.query_selector(part).inner_text().split())
                for part in ("b", ".figure", ".interval")
            )
            for cell in self.page.query_selector_all(f"#{self.prefix}explorer [data-cell]")
        ]

    def visible(self, selector):
        found = self.page.query_selector_all(f"#{self.prefix}explorer {selector}")
        return [each.is_visible() for each in found]

    def close(self):
        assert self.problems == []
        assert [url.partition(":")[0] for url in self.requests if url[:5] != "data:"] == ["file"]
        self.page.close()


def expected_cells(rows, lower, upper=None):
    """The cells as the page's other tables write them, from the scores."""
    cells = []
    for wanted in (0, 1):
        scores = np.array([score for _, _, label, score, *_ in rows if label == wanted])
        counts = [np.sum(scores < lower), np.sum(scores >= (lower if upper is None else upper))]
        if upper is not None:
            counts.insert(1, scores.size - sum(counts))
        for count in map(int, counts):
            figure = observed_share(count, scores.size - count)
            cells.append((f"{count:,}", figure.value, figure.interval))
    return cells


class SeveralRun(Run):
    """A run of several findings: exclusive classes, or findings that may occur together.

    Of the test images, 0 to 3 show nothing, and each finding has four more, 4 to 7 and so on. The
    scores of a finding are wrong on one of its images and on one of the next finding. Without
    exclusive classes the first image of each finding also shows the first finding, and the label
    of the last finding is unknown in image 0.
    """

    def __init__(self, root, findings=("BACTERIAL", "VIRAL"), *, exclusive=True):
        super().__init__(root)
        self.findings, self.exclusive = findings, exclusive
        self.classes = ("NORMAL", *findings)
        arguments = self.recipe["data"]["source"]["init_args"]
        arguments["classes"] = list(self.classes)
        if not exclusive:
            self.recipe["data"]["source"]["class_path"] = "cxrignite.data.Manifest"
        self.write_recipe()
        self.labels = {}
        for split, number in itertools.product(("train", "test"), range(4 * len(self.classes))):
            shown = number // 4
            labels = [int(shown == finding + 1) for finding in range(len(findings))]
            if not exclusive and shown and number % 4 == 0:
                labels[0] = 1
            if not exclusive and number == 0:
                labels[-1] = ""
            self.labels[f"{split}/image {number}.png"] = labels
        self.write_labels()
        self.rules = [rule_of(finding=name, exclusive=exclusive) for name in findings]
        self.write_rules()
        for number, name in enumerate(findings):
            for kind in ("roc", "precision_recall", "reliability"):
                grey = np.full((20, 30), 100 + number, np.uint8)
                self.picture(self.root / "figures" / f"{kind}_test_{name}.png", grey)

    def write_labels(self):
        columns = ["path", *(f"label:{name}" for name in self.findings), "patient", "split"]
        rows, scored = [], []
        for name, labels in self.labels.items():
            split, patient = name.split("/")[0], name.rpartition(".")[0]
            rows.append((name, *labels, patient, split, hashlib.sha256(name.encode()).hexdigest()))
            if split == "test":
                number = int(re.search(r"\d+", name)[0])
                for place, label in enumerate(labels):
                    score = 0.95 if label == 1 else 0.2
                    if number == 4 * (place + 1):
                        score = 0.3  # a false negative
                    if number == 4 * ((place + 1) % len(self.findings) + 1) + 1:
                        score = 0.97  # a false positive
                    scored.append((name, patient, self.findings[place], label, score, "", ""))
                pixels = np.full((40, 50), 90, np.uint8)
                self.picture(self.images_root / name, pixels)
        self.csv("split.csv", [*columns, "sha256"], rows)
        self.write_scored("test", scored)

    def write_scored(self, name, rows):
        columns = ["path", "patient", "finding", "label", "score", "probability", "decision"]
        if self.exclusive:
            columns, rows = [*columns, "highest_class"], [(*row, "NORMAL") for row in rows]
        self.csv(f"predictions/{name}.csv", columns, rows)

    def result_of_rules(self):
        """Write the rules alone, without evaluations at their thresholds."""
        self.result("operating_point.json", DecisionRules(tuple(self.rules)))

    def write_rules(self):
        self.result_of_rules()
        for name in ("val", "calibration", "test"):
            self.evaluate_all(name)

    def evaluate_all(self, name="test", averages=None, **changes):
        """Evaluate all findings; `changes` are those of single findings, by name."""
        evaluations = tuple(
            evaluation_of(rule, **{"num_images": 110, **changes.get(rule.finding, {})})
            for rule in self.rules
        )
        averages = averages or self.averages
        self.result(f"metrics/{name}.json", Evaluations(evaluations, averages))

    @property
    def averages(self):
        def estimate(value):
            return Estimate(value, None, Interval(value - 0.05, value + 0.04))

        counts = np.full((len(self.classes),) * 2, 7) + np.diag(range(30, 30 + len(self.classes)))
        decisions = ClassDecisions(
            tuple(map(tuple, counts.tolist())), *map(estimate, (0.7, 0.6, 0.5))
        )
        return Averages(
            len(self.findings),
            *map(estimate, (0.91, 0.82, 0.93, 0.84, 0.75, 0.76)),
            decisions if self.exclusive else None,
        )
