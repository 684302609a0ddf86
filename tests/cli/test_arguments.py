import pytest
from messages import refused

from cxrignite.cli.commands.without_recipe import OneLineParser
from cxrignite.errors import RecipeError


@pytest.fixture
def parser():
    parser = OneLineParser("cxrignite bake", "Bakes.")
    parser.add_argument("cake", choices=["carrot", "cheese"])
    parser.add_argument("--minutes", type=int)
    return parser


@pytest.mark.parametrize(
    ("argv", "facts"),
    [
        ([], ["cake", "`cxrignite bake --help`"]),
        (["carot"], ["'carot'", "'carrot'"]),
        (["plum"], ["'plum'", "carrot", "cheese"]),
        (["cheese", "--minutes", "few"], ["--minutes", "int", "'few'"]),
        (["cheese", "--minute", "3"], ["'--minute'", "'--minutes'"]),
        (["--minuets", "3"], ["'--minuets'", "'--minutes'"]),
    ],
)
def test_what_argparse_refuses_is_one_line(parser, argv, facts):
    with refused(RecipeError, *facts):
        parser.parse_args(argv)


@pytest.mark.parametrize(
    ("argv", "facts"),
    [
        ([], ["ACTION", "`cxrignite bake --help`"]),
        (["egg"], ["'egg'", "'eggs'"]),
        (["eggs", "3"], ["arguments", "3"]),
    ],
)
def test_actions_are_refused_in_one_line_too(argv, facts):
    parser = OneLineParser("cxrignite bake")
    actions = parser.add_subparsers(required=True, metavar="ACTION")
    actions.add_parser("eggs", help="fry them", conflict_handler="resolve")
    with refused(RecipeError, *facts):
        parser.parse_args(argv)


def test_right_arguments_are_taken(parser):
    options = parser.parse_args(["cheese", "--minutes", "3"])
    assert (options.cake, options.minutes) == ("cheese", 3)
