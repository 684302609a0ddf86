"""Commands that take no recipe, among them `predict` with an exported model."""

from __future__ import annotations

import argparse
import itertools
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from cxrignite.cli.commands.with_run_recipe import check_images, checked_name
from cxrignite.cli.parsing import COMMANDS, OPTIONS, option_values
from cxrignite.cli.user_paths import user_path
from cxrignite.errors import RecipeError, suggestion
from cxrignite.terminal import print_output


def compare_command(argv: list[str]) -> int:
    """Run `compare`."""
    parser = OneLineParser("cxrignite compare", f"{COMMANDS['compare']}.")
    parser.add_argument(
        "runs",
        nargs="+",
        type=user_path,
        metavar="RUN",
        help="run folders; all others are compared with the first",
    )
    parser.add_argument(
        "--name",
        default="test",
        help="name of the results, such as test or test@SITE; default: %(default)s",
    )
    parser.add_argument("--output", type=user_path, help="CSV file for the table")
    parser.add_argument(
        "--rank_by",
        metavar="FIGURE",
        help="rank the runs by this validation figure, and compare with the best: roc_auc, "
        "average_precision or balanced_accuracy",
    )
    options = parser.parse_args(argv)
    from cxrignite.workflows.compare import compare

    for part in options.name.split("@"):
        checked_name(part)
    compare(options.runs, options.name, options.output, options.rank_by)
    return 0


def report_command(argv: list[str]) -> int:
    """Run `report`."""
    parser = OneLineParser("cxrignite report", f"{COMMANDS['report']}.")
    parser.add_argument("--run", type=user_path, required=True, help="run folder made by `fit`")
    parser.add_argument("--output", type=user_path, help="HTML file; default: report.html in RUN")
    parser.add_argument("--source_root", type=user_path, help="folder of the images, if moved")
    options = parser.parse_args(argv)
    from cxrignite.reporting.html import write_report

    page = write_report(options.run, options.output, source_root=options.source_root)
    print_output(f"{page}\n")
    return 0


def predict_exported_command(argv: list[str]) -> int:
    """Run `predict` with an exported model, without an import of torch."""
    if option_values("--run", argv):
        raise RecipeError("name the model with either --run RUN or --exported DIR")
    offered = {option.name: option for option in OPTIONS["predict"]}
    for name in ("run", "operating_point", "maps"):
        del offered[name]
    of_run = {
        **dict.fromkeys(("maps", "explain"), "an exported model gives no maps"),
        "operating_point": "an exported model has one operating point",
        **dict.fromkeys(("data", "trainer"), "an exported model has its own settings"),
    }
    for arg in argv:
        key = arg[2:].partition("=")[0]
        if arg.startswith("--") and key.partition(".")[0] in of_run:
            raise RecipeError(f"--{key} needs --run: {of_run[key.partition('.')[0]]}")
    parser = OneLineParser("cxrignite predict", f"{COMMANDS['predict']}.")
    kinds = {Path: user_path, bool: _true_or_false}
    for option in offered.values():
        parser.add_argument(
            f"--{option.name}",
            type=kinds.get(option.type, option.type),
            nargs=option.nargs,
            default=option.default,
            help=option.help.replace("%", "%%"),
        )
    options = vars(parser.parse_args(argv))
    check_images(argv, options)
    from cxrignite.workflows.predict.exported import predict_exported
    from cxrignite.workflows.predict.request import Request

    files = options.pop("files") or ()
    predict_exported(options.pop("exported"), Request(files=files, **options))
    return 0


def _true_or_false(text: str) -> bool:
    if text not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"must be true or false, got '{text}'")
    return text == "true"


def download_command(argv: list[str]) -> int:
    """Run `download`."""
    from cxrignite.workflows.download.catalogue import PUBLIC_DATA
    from cxrignite.workflows.download.download import download

    parser = OneLineParser("cxrignite download", f"{COMMANDS['download']}.")
    names = list(PUBLIC_DATA)
    parser.add_argument(
        "name", choices=names, metavar="NAME", help=f"data set: one of {', '.join(names)}"
    )
    parser.add_argument(
        "--into",
        type=user_path,
        default=Path("data"),
        help="folder for the data set; default: %(default)s",
    )
    parser.add_argument(
        "--archive", type=user_path, help="use this downloaded file, which is checked too"
    )
    parser.add_argument(
        "--keep_archive",
        choices=["true", "false"],
        default="false",
        help="keep the archive beside the images; default: %(default)s",
    )
    options = parser.parse_args(argv)
    download(
        PUBLIC_DATA[options.name],
        options.into,
        archive=options.archive,
        keep_archive=options.keep_archive == "true",
    )
    return 0


def recipes_command(argv: list[str]) -> int:
    """Run `recipes`."""
    from cxrignite.cli import shipped_recipes as shipped

    parser = OneLineParser("cxrignite recipes", f"{COMMANDS['recipes']}.")
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    actions.add_parser("list", help="list the recipes, each with a description")
    show = actions.add_parser("show", help="print a recipe")
    show.add_argument("name")
    copy = actions.add_parser("copy", help="copy a recipe into this folder, to edit it")
    copy.add_argument("name")
    actions.add_parser("schema", help="print the JSON schema, for completion in an editor")
    options = parser.parse_args(argv)
    if options.action == "list":
        sys.stdout.write(shipped.describe_recipes())
    elif options.action == "show":
        sys.stdout.write(shipped.recipe_path(options.name).read_text(encoding="utf-8"))
    elif options.action == "schema":
        from cxrignite.cli.parsing import recipe_json_schema

        sys.stdout.write(f"{json.dumps(recipe_json_schema(), indent=1)}\n")
    else:
        print_output(f"{shipped.copy_recipe(options.name, Path.cwd())}\n")
    return 0


class OneLineParser(argparse.ArgumentParser):
    """Argument parser that raises its errors, with the nearest known name.

    Args:
        prog: The command, such as `cxrignite report`.
        description: Its task.
        settings: Further arguments of `ArgumentParser`, which `argparse` passes to subparsers.
    """

    def __init__(self, prog: str, description: str | None = None, **settings: Any) -> None:
        super().__init__(prog=prog, description=description, allow_abbrev=False, **settings)

    def parse_known_args(  # type: ignore[override]  # the only overload in use
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """Refuse unknown options, then parse: `argparse` would report missing ones first.

        Raises:
            RecipeError: An option is unknown, or an argument is wrong.
        """
        words = sys.argv[1:] if args is None else list(args)
        options = [name[2:] for name in self._option_string_actions if name.startswith("--")]
        for word in itertools.takewhile(lambda word: word != "--", words):
            name = word.partition("=")[0][2:]
            if word.startswith("--") and name not in options:
                raise RecipeError(f"unknown option '--{name}'{suggestion(name, options, '--')}")
        return super().parse_known_args(words, namespace)

    def error(self, message: str) -> NoReturn:
        """Refuse the arguments.

        Raises:
            RecipeError: Always.
        """
        choice = re.search(r"argument (\S+): invalid choice: '(.*?)' \(choose from (.*)\)", message)
        missing = re.search(r"the following arguments are required: (.+)", message)
        if choice:
            names = choice[3].replace("'", "").split(", ")
            message = f"unknown {choice[1].lower()} '{choice[2]}'{suggestion(choice[2], names)}"
        elif missing:
            message = f"{missing[1]} is missing; see `{self.prog} --help`"
        raise RecipeError(message)
