#!/usr/bin/env python
"""Train the rows of a paper's tables over several seeds and put the results beside what the paper prints."""

import argparse
import os
import shlex
import sys
from functools import partial
from pathlib import Path

import torch

from instseg_d2.engine.mistakes import USER_MISTAKES, describe
from instseg_d2.engine.run import resolve_device
from instseg_d2.reproduction import StudyError, find_project, load_study, records, tables
from instseg_d2.reproduction.plan import Planner, Task
from instseg_d2.reproduction.runner import Runner, Slot, command
from instseg_d2.reproduction.study import BUDGETS, Study
from instseg_d2.results import RUN_COLUMNS, ResultsError, read_rows

ROOT = Path(__file__).resolve().parents[1]
TRAINER = (sys.executable, str(Path(__file__).resolve().with_name("train_net.py")))
_EPILOG = """\
what it does:
  Every row of projects/<Paper>/ablations.py is trained and evaluated for every seed, each in a process of its own, all
  rows of a seed together. A row that fails stops no other; failed ones are listed at the end, and the exit code is 1.
  Each finished run is a line of results/<paper>.csv, and the tables in the project's README are made from that file:
  mean and spread over seeds, the printed number, and a verdict on each difference (tables say by which rule).

going on after an interruption:
  Give the same command again, whatever ended it, kill -9 included. Finished runs are skipped; the one that was under
  way continues from its last checkpoint. A run is known by row, budget, seed and a hash of its whole config: where the
  config has changed it is made again, and its line is replaced. --redo forgets the chosen runs first and makes them all
  again (so leave it out when going on after an interruption). After kill -9 of this tool alone the run under way goes
  on; started again, the tool waits for it.

shared detectors:
  Rows that differ in the mask head alone may start from one detector. It is trained first, once, and reused until its
  own config changes. The spread over seeds is then that of the rows' training, given this detector.

examples:
  python tools/reproduce.py --project Baselines --list
  python tools/reproduce.py --project Baselines                           # quick budget, seeds 0, 1, 2
  python tools/reproduce.py --project Baselines --rows 'Mask R-CNN,Cascade Mask R-CNN' --seeds 5
  python tools/reproduce.py --project Baselines --budget full --gpus 8 --gpus-per-run 4
  python tools/reproduce.py --project my_study/ --output runs/my_study    # a folder with an ablations.py of your own
"""


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=_EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--project", required=True, metavar="NAME_OR_DIR", help="a folder below projects/, or any with an ablations.py")
    add("--rows", default="all", metavar="R1,R2", help="names of rows with commas between them (default: all)")
    seeds = parser.add_mutually_exclusive_group()
    seeds.add_argument("--seeds", type=_count, default=3, metavar="S", help="train with seeds 0 to S-1 (default 3)")
    seeds.add_argument("--seed-list", type=_numbers, metavar="A,B", help="train with these seeds instead")
    add("--budget", choices=BUDGETS, default="quick", help="quick: minutes a run on two CPU cores; full: the paper's")
    add("--device", default="auto", choices=("auto", "cpu", "cuda"), help="default auto: the GPU where there is one")
    add("--gpus", type=_count, default=1, metavar="N", help="GPUs to use side by side (default 1)")
    add("--gpus-per-run", type=_count, default=1, metavar="K", help="GPUs that one training takes (default 1)")
    add("--jobs", type=_count, default=1, metavar="N", help="trainings side by side on the CPU (default 1)")
    add("--output", type=Path, metavar="DIR", help="for the runs (default output/reproduce/<project>)")
    add("--results", type=Path, metavar="FILE", help="csv file instead of the project's; its README is left alone then")
    add("--redo", action="store_true", help="forget the chosen runs that are there already, and make them again")
    add("--list", action="store_true", help="print rows, configs and which seeds are there, and leave")
    add("--dry-run", action="store_true", help="print what would be run, and leave")
    return parser.parse_args(argv)


def _count(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"'{text}' is not a number from 1")
    return int(text)


def _numbers(text: str) -> list[int]:
    if not all(part.strip().isdecimal() for part in text.split(",")):
        raise argparse.ArgumentTypeError(f"'{text}' is no list of numbers such as 0,5,7")
    return list(dict.fromkeys(int(part) for part in text.split(",")))


def make_slots(args: argparse.Namespace) -> list[Slot]:
    """Places for trainings on this machine.

    Raises:
        StudyError: there are fewer GPUs than asked for.
        SettingError: there is none.
    """
    device = resolve_device(args.device)
    if device == "cpu":
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        return [Slot("cpu", threads=max(1, cores // args.jobs) if args.jobs > 1 else None)] * args.jobs
    there = torch.cuda.device_count()
    names = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if there else []
    names = names if names != [""] else [str(index) for index in range(there)]
    total = max(args.gpus, args.gpus_per_run)
    if total > there:
        raise StudyError(f"{total} GPUs are asked for (--gpus, --gpus-per-run), and {there} are there")
    size = args.gpus_per_run
    return [Slot(device, tuple(names[at : at + size]), at) for at in range(0, total - size + 1, size)]


def print_rows(study: Study, csv: Path) -> None:
    """What `--list` shows."""
    seeds: dict = {}
    for row in read_rows(csv, RUN_COLUMNS):
        seeds.setdefault((row["row"], row["budget"]), []).append(row["seed"])
    for table in study.tables:
        print(f"{table.title}{': ' + table.what if table.what else ''}")
        for budget in BUDGETS:
            print(f"  watched in {budget}: {', '.join(table.metrics_in(budget))}")
        for row in table.rows:
            print(f"  {row.name}{': ' + row.what if row.what else ''}")
            for budget in BUDGETS:
                if recipe := row.recipe(budget):
                    print(f"    {budget}: {' '.join((recipe.config, *recipe.overrides))}")
                    start = f"starts from shared detector {row.shared_detector.name}; " if row.shared_detector else ""
                    start = f"tests the weights of {row.weights_of.name}; " if row.weights_of else start
                    print(f"      {start}seeds recorded: {', '.join(seeds.get((row.name, budget), ())) or 'none'}")


def split(tasks: list[Task], csv: Path) -> tuple[list[Task], list[str]]:
    """Tasks that are to be run, and lines on those that are not or are run anew."""
    open_tasks, lines = [], []
    for task in tasks:
        row = records.recorded(csv, task)
        if row and records.counts(row, task):
            lines.append(f"{task}: is in {csv} with this config ({row['metrics']}); skipped")
            continue
        if row and row["fingerprint"] != task.fingerprint:
            lines.append(f"{task}: its config has changed since it was recorded; run anew")
        elif row:
            lines.append(f"{task}: is in {csv}, but without every metric that is watched now; looked up or run anew")
        open_tasks.append(task)
    return open_tasks, lines


def print_commands(tasks: list[Task], slot: Slot) -> None:
    """What `--dry-run` shows."""
    detectors = dict.fromkeys(task.start for task in tasks if task.start and not records.is_done(task.start))
    for task in (*detectors, *tasks):
        print(f"{task}: {shlex.join(command(TRAINER, task, slot))}")


def _prepare(args: argparse.Namespace, folder: Path, csv: Path, readme: Path | None, tasks: list[Task]) -> None:
    """Whatever cannot be written or belongs to others shall turn out before the first training, not after the last."""
    read_rows(csv, RUN_COLUMNS)
    if readme:
        tables.renew(readme, csv)
    records.claim(args.output, folder)
    if args.redo:
        records.forget(csv, tasks)


def reproduce(args: argparse.Namespace) -> int:
    """Do what the command line says; the exit code."""
    folder = find_project(args.project)
    study = load_study(folder)
    inside = folder.parent == ROOT / "projects"
    csv = args.results or (ROOT / "results" / f"{folder.name.lower()}.csv" if inside else folder / "results.csv")
    output = args.output = (args.output or Path("output") / "reproduce" / folder.name).absolute()
    if args.list:
        print_rows(study, csv)
        return 0
    seeds = args.seed_list or range(args.seeds)
    rows = study.choose(name.strip() for name in args.rows.split(","))
    if unable := [row.name for row in rows if not row.recipe(args.budget)]:
        print(f"left out, since they have no config in the budget {args.budget}: {', '.join(unable)}")
    tasks = Planner(folder, study, output).tasks(rows, args.budget, seeds)
    slots = make_slots(args)
    readme = None if args.results or not (folder / "README.md").is_file() else folder / "README.md"
    if not args.dry_run:
        _prepare(args, folder, csv, readme, tasks)
    open_tasks, lines = split(tasks, csv) if not (args.redo and args.dry_run) else (tasks, [])
    print("\n".join([*lines, f"{len(open_tasks)} runs to do"]))
    if args.dry_run:
        print_commands(open_tasks, slots[0])
        return 0
    say = partial(print, flush=True)  # into a file or pipe, too, at once
    failed = Runner(trainer=TRAINER, slots=slots, results=csv, say=say).run(open_tasks)
    print(tables.project_text(folder, study, read_rows(csv, RUN_COLUMNS)))
    if readme:
        tables.renew(readme, csv)
    for task, problem in failed.items():
        print(f"FAILED {task}: {problem}", file=sys.stderr)
    return 1 if failed else 0


def main(argv: list[str] | None = None) -> int:
    """Entry point; a mistake of the user is one message, not a traceback."""
    args = parse_arguments(argv)
    try:
        return reproduce(args)
    except KeyboardInterrupt:
        print("stopped; give the same command again to go on", file=sys.stderr)
        return 130
    except (*USER_MISTAKES, StudyError, ResultsError) as error:
        sys.exit(f"error: {describe(error, args.output)}")


if __name__ == "__main__":
    sys.exit(main())
