#!/usr/bin/env python
"""Record a finished run in results/<project>.csv and renew the table of the project's README."""

import argparse
import sys
from pathlib import Path

from instseg_d2.results import RUN_COLUMNS, append_rows, markdown_table, replace_between, result_row

ROOT = Path(__file__).resolve().parents[1]
SHOWN = ("config", "dataset", "seed", "box_AP", "mask_AP", "mask_AP50", "iterations", "minutes", "hardware", "commit")


def main() -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--project", required=True, help="folder name below projects/")
    parser.add_argument("--run", type=Path, metavar="DIR", help="output folder to record; without it only the table")
    parser.add_argument("--config", help="name of the run's recipe")
    args = parser.parse_args()
    if args.run and not args.config:
        parser.error("--run needs --config")
    table = ROOT / "results" / f"{args.project.lower()}.csv"
    if args.run:
        try:
            append_rows(table, [result_row(args.run, args.config)], RUN_COLUMNS)
        except FileNotFoundError as error:
            parser.error(f"'{args.run}' is not a finished run: {error}")
    replace_between(ROOT / "projects" / args.project / "README.md", "results", markdown_table(table, SHOWN))
    print(markdown_table(table, SHOWN))
    return 0


if __name__ == "__main__":
    sys.exit(main())
