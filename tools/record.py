#!/usr/bin/env python
"""Record a finished run in results/<project>.csv, and renew the tables of the READMEs from results/*.csv."""

import argparse
import sys
from pathlib import Path

from instseg_d2.reproduction import tables
from instseg_d2.results import RUN_COLUMNS, append_rows, markdown_table, replace_between, result_row

ROOT = Path(__file__).resolve().parents[1]
SPEEDS_SHOWN = ("what", "A", "B", "seconds_A", "seconds_B", "ratio", "ratio_min", "ratio_max", "threads", "commit")


def renew_tables() -> None:
    """Write every table anew: those in each project's README, and the speeds in the main one."""
    for readme in sorted((ROOT / "projects").glob("*/README.md")):
        results = ROOT / "results" / f"{readme.parent.name.lower()}.csv"
        if results.is_file():
            tables.renew(readme, results)
    speeds = ROOT / "results" / "benchmark.csv"
    if speeds.is_file():
        # Rows of a part of a run have its name behind a colon.
        table = markdown_table(speeds, SPEEDS_SHOWN, keep=lambda row: ": " not in row["what"])
        replace_between(ROOT / "README.md", "benchmark", table)


def main() -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, epilog="Whole tables of a paper: tools/reproduce.py.")
    parser.add_argument("--run", type=Path, metavar="DIR", help="output folder to record; without it only the tables")
    parser.add_argument("--project", help="folder name below projects/ that the run belongs to")
    parser.add_argument("--config", help="name of the run's recipe")
    args = parser.parse_args()
    if args.run and not (args.config and args.project):
        parser.error("--run needs --project and --config")
    if args.run:
        try:
            row = result_row(args.run, args.config)
        except FileNotFoundError as error:
            parser.error(f"'{args.run}' is not a finished run: {error}")
        append_rows(ROOT / "results" / f"{args.project.lower()}.csv", [row], RUN_COLUMNS)
    renew_tables()
    return 0


if __name__ == "__main__":
    sys.exit(main())
