import pytest

from cxrignite.arguments import OneLineParser
from cxrignite.errors import RecipeError


@pytest.fixture
def parser():
    parser = OneLineParser("cxrignite bake", "Bakes.")
    parser.add_argument("cake", choices=["carrot", "cheese"])
    parser.add_argument("--minutes", type=int)
    return parser


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        ([], "cake is missing; `cxrignite bake --help` tells what it takes"),
        (["carot"], "no cake 'carot'; did you mean 'carrot'?"),
        (["plum"], "no cake 'plum'; there are carrot, cheese"),
        (["cheese", "--minutes", "few"], "argument --minutes: invalid int value: 'few'"),
        (["cheese", "--minute", "3"], "no option '--minute'; did you mean '--minutes'?"),
        (["--minuets", "3"], "no option '--minuets'; did you mean '--minutes'?"),
    ],
)
def test_what_argparse_refuses_is_one_line(parser, argv, says):
    with pytest.raises(RecipeError) as error:
        parser.parse_args(argv)
    assert str(error.value) == says


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        ([], "ACTION is missing; `cxrignite bake --help` tells what it takes"),
        (["egg"], "no action 'egg'; did you mean 'eggs'?"),
        (["eggs", "3"], "unrecognized arguments: 3"),
    ],
)
def test_actions_are_refused_in_one_line_too(argv, says):
    parser = OneLineParser("cxrignite bake")
    actions = parser.add_subparsers(required=True, metavar="ACTION")
    actions.add_parser("eggs", help="fry them", conflict_handler="resolve")
    with pytest.raises(RecipeError) as error:
        parser.parse_args(argv)
    assert str(error.value) == says


def test_right_arguments_are_taken(parser):
    options = parser.parse_args(["cheese", "--minutes", "3"])
    assert (options.cake, options.minutes) == ("cheese", 3)
