"""What `download` takes from its command line."""

from __future__ import annotations

from pathlib import Path

from cxrignite.cli.arguments import OneLineParser
from cxrignite.cli.user_paths import user_path
from cxrignite.workflows.download.catalogue import PUBLIC_DATA
from cxrignite.workflows.download.download import download


def download_named(argv: list[str], what: str) -> None:
    """Bring the data set that a command line names.

    Args:
        argv: The arguments after the verb.
        what: What the verb does, for its help.
    """
    parser = OneLineParser("cxrignite download", f"{what}.")
    names = list(PUBLIC_DATA)
    parser.add_argument("name", choices=names, metavar="NAME", help=f"one of {', '.join(names)}")
    parser.add_argument(
        "--into",
        type=user_path,
        default=Path("data"),
        help="the folder to unpack in (data)",
    )
    parser.add_argument("--archive", type=user_path, help="take this file, checked the same way")
    parser.add_argument(
        "--keep_archive",
        choices=["true", "false"],
        default="false",
        help="keep the archive beside the films; false by default",
    )
    options = parser.parse_args(argv)
    download(
        PUBLIC_DATA[options.name],
        options.into,
        archive=options.archive,
        keep_archive=options.keep_archive == "true",
    )
