#!/usr/bin/env python
"""Measure speed and memory as ratios of two things that run in turns; `--help` explains the command line."""

import argparse
import copy
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
_EPILOG = """\
examples:
  python tools/benchmark.py detectron2 --python bundled=python --python upstream=/other/venv/bin/python --threads 1
  python tools/benchmark.py torchvision --size 800 --rounds 7 --output results/benchmark.csv
  python tools/benchmark.py evaluation --images 5000 --detections 20
  python tools/benchmark.py mapper --config-file Baselines/mask_rcnn_r50_fpn_coco_1x
  python tools/benchmark.py models --config-file A --config-file B --mode train --size 512 --batch 2
  python tools/benchmark.py temporal --lengths 2 4 8
  python tools/benchmark.py video --config-file BASELINE --config-file PCAN --frames 2000

Every ratio is seconds of A / seconds of B, medians over all measurements of a run; min and max are the ratios of its
rounds: when they are far apart the machine was busy, and the ratio says little. On a machine that others use too,
--clock cpu is steadier. Peak memory is what a run needs above what is held between runs. `COMMAND --help` shows the
options and examples of a command.
"""


def _finish(args: argparse.Namespace, rows: list[dict], sides: Sequence[dict] = ()) -> None:
    from instseg_d2.benchmark.compare import COLUMNS, context, rounded, table
    from instseg_d2.results import append_rows

    print(table(rows))
    if args.output:
        about = context(args.device, ROOT, args.threads, args.clock, sides)
        append_rows(args.output, [rounded({**about, **row}) for row in rows], COLUMNS)
        print(f"{len(rows)} rows appended to {args.output}")


def _counts(args: argparse.Namespace) -> dict[str, int]:
    return {"rounds": args.rounds, "repeats": args.repeats, "warmup": args.warmup}


def _same_work(what: str, found: dict[str, float], expected: int, least_iou: float) -> None:
    """Print how equal the detections of both sides are; stop where they are not, or not `expected` many (0: any)."""
    print(
        f"{what}: {found['count_A']} and {found['count_B']} detections, mean box side {found['side_A']:.1f} and "
        f"{found['side_B']:.1f} px, mean IoU {found['iou']:.4f}, IoU > 0.99: {found['same']}"
    )
    if not found["count_A"] == found["count_B"] == (expected or found["count_A"]) or found["iou"] < least_iou:
        raise SystemExit(f"{what}: the two sides do not do the same work; no ratio")


def detectron2(args: argparse.Namespace) -> None:
    """One recipe in two environments."""
    from instseg_d2.benchmark.compare import compare
    from instseg_d2.benchmark.models import agreement
    from instseg_d2.benchmark.worker import Worker, WorkerError

    pairs = [text.partition("=") for text in args.python]
    if len(pairs) != 2 or not all(name and path for name, _, path in pairs):
        raise ValueError("give two environments: --python A=PATH --python B=PATH")
    rows, sides = [], []
    try:
        with (
            tempfile.TemporaryDirectory() as folder,
            Worker(pairs[0][0], pairs[0][2], ROOT, args.threads) as a,
            Worker(pairs[1][0], pairs[1][2], ROOT, args.threads) as b,
        ):
            for what, size, batch in (("inference", args.size, 1), ("training", args.train_size, args.batch)):
                if what not in args.what:
                    continue
                print(f"preparing {what}: {a.name}, then {b.name}", flush=True)
                request = {
                    "what": what,
                    "config_file": args.config_file,
                    "size": size,
                    "batch": batch,
                    "device": args.device,
                }
                request |= {"clock": args.clock, "threads": args.threads, "weights": str(Path(folder) / "weights.pth")}
                of_a = a.ask("prepare", save=True, **request)
                of_b = b.ask("prepare", save=False, **request)
                sides = [of_a["versions"], of_b["versions"]]
                title = f"{Path(args.config_file).stem} {what}, {size} px, batch {batch}"
                if what == "inference":
                    found = agreement(of_a["detections"][0], of_b["detections"][0])
                    _same_work(title, found, expected=args.detections, least_iou=0.99)
                else:
                    _same_losses(title, of_a["losses"], of_b["losses"])
                rows += compare([a, b], [(0, 1)], what=title, **_counts(args))
    except WorkerError as error:
        raise SystemExit(str(error)) from None
    _finish(args, rows, sides)


def _same_losses(what: str, a: dict[str, float], b: dict[str, float]) -> None:
    """Print what both sides logged, and stop where a loss differs."""
    for name in a.keys() & b.keys():
        if name.startswith("loss") and abs(a[name] - b[name]) > 1e-3 * max(1, abs(b[name])):
            raise SystemExit(f"{what}: {name} is {a[name]} and {b[name]}: not the same work; no ratio")
    worst = max(abs(a[name] - b[name]) for name in a.keys() & b.keys() if name.startswith("loss"))
    print(f"{what}: losses differ by {worst:.2g}; foreground regions per image {a.get('roi_head/num_fg_samples', 0):g}")


def torchvision(args: argparse.Namespace) -> None:
    """Our inference against torchvision's."""
    import torch
    from detectron2.config import instantiate
    from torchvision.ops import FrozenBatchNorm2d

    from instseg_d2.benchmark import models
    from instseg_d2.benchmark.compare import compare
    from instseg_d2.engine.fusion import fuse_for_inference
    from instseg_d2.model_zoo import get_config

    cfg = get_config(models.MASK_RCNN)
    models.use_torchvision_settings(cfg)
    torch.manual_seed(0)
    ours = instantiate(cfg.model).to(args.device)
    inputs = models.batch_of(args.size, 1)
    models.make_it_detect(ours, inputs)
    predict = models.inference(ours, inputs)
    steps = [models.step("instseg_d2", ours, predict, device=args.device, clock=args.clock)]
    pixels = [inputs[0]["image"].float() / 255]
    title = f"Mask R-CNN R50-FPN inference, {args.size} px"
    for norm in (torch.nn.BatchNorm2d, FrozenBatchNorm2d):
        twin = models.to_torchvision(ours, norm)
        run = models.inference(twin, [image.to(args.device) for image in pixels])
        name = f"torchvision {norm.__name__}"
        found = models.agreement(models.detections(predict()[0]), models.detections(run()[0]))
        _same_work(f"{title}, {name}", found, expected=100, least_iou=0.9)
        steps.append(models.step(name, twin, run, device=args.device, clock=args.clock))
    fused = fuse_for_inference(copy.deepcopy(ours))
    run = models.inference(fused, inputs)
    found = models.agreement(models.detections(run()[0]), models.detections(predict()[0]))
    _same_work(f"{title}, fused", found, expected=100, least_iou=0.99)
    steps.append(models.step("instseg_d2, fused as by Predictor", fused, run, device=args.device, clock=args.clock))
    pairs = [(3, 1), (3, 2), (0, 1), (0, 2)]
    _finish(args, compare(steps, pairs, what=title, **_counts(args)))


def evaluation(args: argparse.Namespace) -> None:
    """COCO evaluation: the fast path against pycocotools."""
    from instseg_d2.benchmark.compare import compare
    from instseg_d2.benchmark.evaluation import competitors, generate, largest_difference

    rows = []
    with tempfile.TemporaryDirectory() as folder:
        json_file, predictions = generate(Path(folder), args.images, args.detections)
        for task in ("bbox", "segm"):
            for what, sides in competitors(json_file, predictions, task, args.clock).items():
                title = f"{what}, {args.images} images, {args.detections} detections"
                rows += compare(sides, [(0, 1)], what=title, **_counts(args))
                difference = largest_difference(sides[0].figures, sides[1].figures)
                print(f"{title}: {len(sides[0].figures)} figures differ by at most {difference:.3g} points")
    _finish(args, rows)


def mapper(args: argparse.Namespace) -> None:
    """Mappers of recipes, the first of them also against detectron2's own."""
    from detectron2.config import instantiate

    from instseg_d2.benchmark.compare import Step, compare
    from instseg_d2.benchmark.mappers import detectron2_mapper, mapping, write_records
    from instseg_d2.model_zoo import get_config

    configs = [get_config(name) for name in args.config_file]
    with tempfile.TemporaryDirectory() as folder:
        records = write_records(Path(folder), args.images)
        mappers = {
            name: instantiate(cfg.dataloader.train.mapper) for name, cfg in zip(args.config_file, configs, strict=True)
        }
        mappers["detectron2's DatasetMapper"] = detectron2_mapper(configs[0])
        steps = [Step(name, mapping(one, records), clock=args.clock) for name, one in mappers.items()]
        pairs = [(0, len(steps) - 1)] + [(index, 0) for index in range(1, len(steps) - 1)]
        rows = compare(steps, pairs, what=f"mapper, {args.images} images of 640x480", **_counts(args))
    for row in rows:
        # Per image, as the loader's workers are counted.
        row.update(seconds_A=row["seconds_A"] / args.images, seconds_B=row["seconds_B"] / args.images)
        row["what"] = "mapper, seconds per image of 640x480"
    _finish(args, rows)


def models(args: argparse.Namespace) -> None:
    """Steps of recipes against the first one's."""
    import torch
    from detectron2.config import instantiate

    from instseg_d2.benchmark import models as parts
    from instseg_d2.benchmark.compare import compare
    from instseg_d2.benchmark.thresholds import lower_thresholds
    from instseg_d2.model_zoo import get_config

    is_training = args.mode == "train"
    steps = []
    for name in args.config_file:
        cfg = get_config(name)
        torch.manual_seed(0)
        model = instantiate(cfg.model).to(args.device)
        # All recipes get the same images, with classes that every one of them has.
        inputs = parts.batch_of(args.size, args.batch, instances=args.instances if is_training else 0)
        if is_training and "gt_occluders" in cfg.dataloader.train.mapper.get("extra_fields", ()):
            parts.add_occluders(inputs)
        detects = parts.make_it_detect(model, inputs) or (not is_training and lower_thresholds(model, inputs))
        run = parts.training(model, cfg, inputs) if is_training else parts.inference(model, inputs)
        output = run()
        if is_training:
            about = f"{sum(value for key, value in output.items() if key.startswith('loss')):.4g} loss"
        else:
            about = f"{sum(len(item['instances']) for item in output)} detections"
        size = sum(parameter.numel() for parameter in model.parameters()) / 1e6
        print(f"{name}: {size:.1f} M parameters, {about}" + ("" if detects else " with weights as initialised"))
        steps.append(parts.step(name, model, run, device=args.device, clock=args.clock, is_training=is_training))
    pairs = [(index, 0) for index in range(1, len(steps))] or [(0, 0)]
    what = f"{args.mode}, {args.size} px, batch {args.batch}"
    if is_training:
        what += f", {args.instances} instances"
    _finish(args, compare(steps, pairs, what=what, **_counts(args)))


def temporal(args: argparse.Namespace) -> None:
    """Attention over time: multiply-adds and memory by length of the clip."""
    from instseg_d2.benchmark.temporal import beside_the_paper, measure_all, rows

    how = {"size": tuple(reversed(args.size)), "joined": not args.separate, "is_training": args.mode == "train"}
    costs = measure_all(args.lengths, device=args.device, **how)
    print(beside_the_paper(costs))
    levels = "separate levels" if args.separate else "joined levels"
    _finish(args, rows(costs, f"frame attention, {args.mode}, {args.size[0]}x{args.size[1]}, {levels}"))


def video(args: argparse.Namespace) -> None:
    """A frame of a video: recipes against the first one, and late frames against early ones."""
    from instseg_d2.benchmark import video as parts

    made = parts.players(args.config_file, size=args.size, objects=args.objects, device=args.device)
    how = {"device": args.device, "clock": args.clock, "rounds": args.rounds, "repeats": args.repeats}
    rows = parts.side_by_side(made, warmup=args.warmup, **how) if len(made) > 1 else []
    for one in made if args.frames else ():
        rows += parts.late_and_early(one, early=args.early, late=args.frames, **how)
    _finish(args, rows)


def _command(commands, function, *, help: str, example: str, rounds: int, repeats: int, warmup: int = 2):
    """A subcommand that measures time; `_untimed_command` has only the options for others."""
    parser = _untimed_command(commands, function, help=help, example=example)
    parser.add_argument(
        "--clock",
        choices=["wall", "cpu"],
        default="wall",
        help="cpu counts the time that the process works, whatever else the machine does; not for CUDA (default wall)",
    )
    parser.add_argument("--rounds", type=int, default=rounds, help=f"a ratio is told for each (default {rounds})")
    parser.add_argument("--repeats", type=int, default=repeats, help=f"turns in a round (default {repeats})")
    parser.add_argument("--warmup", type=int, default=warmup, help=f"turns that do not count (default {warmup})")
    return parser


def _untimed_command(commands, function, *, help: str, example: str):
    name = function.__name__
    parser = commands.add_parser(
        name,
        help=help,
        description=f"{help}.",
        epilog=f"example:\n  python tools/benchmark.py {name} {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(function=function, clock="", rounds=1, repeats=1, warmup=0)
    parser.add_argument("--threads", type=int, default=1, help="of torch, OpenMP and BLAS (default 1)")
    parser.add_argument("--device", default="cpu", help="auto, cpu, cuda, ... (default cpu)")
    parser.add_argument("--output", type=Path, metavar="CSV", help="append the table, e.g. results/benchmark.csv")
    return parser


def _add_detectron2(commands) -> None:
    command = _command(
        commands,
        detectron2,
        help="A Mask R-CNN in two Python environments, such as two detectron2s",
        example="--python bundled=python --python upstream=/other/venv/bin/python",
        rounds=5,
        repeats=2,
    )
    command.add_argument("--python", action="append", default=[], metavar="NAME=PATH", help="an interpreter; twice")
    command.add_argument(
        "--what", nargs="+", default=["inference", "training"], choices=["inference", "training"], help="default: both"
    )
    command.add_argument(
        "--config-file",
        default="Baselines/mask_rcnn_r50_fpn_coco_1x",
        help="a recipe of a Mask R-CNN (default: %(default)s)",
    )
    command.add_argument("--size", type=int, default=800, help="short edge in inference, pixels (default 800)")
    command.add_argument(
        "--detections", type=int, default=100, help="what both sides must find; 0: any number (default 100)"
    )
    command.add_argument("--train-size", type=int, default=512, help="short edge in training, pixels (default 512)")
    command.add_argument("--batch", type=int, default=2, help="images of a training step (default 2)")


def _add_torchvision(commands) -> None:
    command = _command(
        commands,
        torchvision,
        help="Inference against torchvision's Mask R-CNN R50-FPN with the same weights and 100 detections",
        example="--size 800 --threads 1 --output results/benchmark.csv",
        rounds=5,
        repeats=2,
    )
    command.add_argument("--size", type=int, default=800, help="short edge, pixels (default 800)")


def _add_evaluation(commands) -> None:
    command = _command(
        commands,
        evaluation,
        help="COCO evaluation: the fast path against pycocotools, on generated data",
        example="--images 5000 --detections 20",
        rounds=3,
        repeats=1,
        warmup=0,
    )
    command.add_argument("--images", type=int, default=5000, help="of 640x480 with seven objects (default 5000)")
    command.add_argument("--detections", type=int, default=20, help="of each image (default 20)")


def _add_mapper(commands) -> None:
    command = _command(
        commands,
        mapper,
        help="Mappers of recipes, in seconds per image",
        example="--config-file Baselines/mask_rcnn_r50_fpn_coco_1x",
        rounds=5,
        repeats=2,
    )
    command.add_argument("--config-file", action="append", required=True, help="a recipe; give it again for more")
    command.add_argument("--images", type=int, default=20, help="to map in one turn (default 20)")


def _add_models(commands) -> None:
    command = _command(
        commands,
        models,
        help="Recipes against the first of them, with random weights",
        example="--config-file A --config-file B --mode train --size 512 --batch 2",
        rounds=5,
        repeats=2,
    )
    command.add_argument("--config-file", action="append", required=True, help="a recipe; the first is the baseline B")
    command.add_argument("--mode", choices=["train", "inference"], default="inference", help="default inference")
    command.add_argument(
        "--instances",
        type=int,
        default=20,
        help="objects an image in training; with 128 a mask head of R-CNN has as many regions (default 20)",
    )
    command.add_argument("--size", type=int, default=512, help="short edge, pixels (default 512)")
    command.add_argument("--batch", type=int, default=1, help="images (default 1)")


def _add_video(commands) -> None:
    command = _command(
        commands,
        video,
        help="A frame of a video: recipes that track against the first of them, with random weights",
        example="--config-file BASELINE --config-file PCAN --size 360 --frames 2000 --clock cpu",
        rounds=5,
        repeats=10,
        # As many as the recipe with the longest memory looks back.
        warmup=32,
    )
    command.add_argument("--config-file", action="append", required=True, help="a recipe; the first is the baseline B")
    command.add_argument("--size", type=int, default=360, help="short edge, pixels (default 360)")
    command.add_argument("--objects", type=int, default=10, help="detections of a frame at most (default 10)")
    command.add_argument(
        "--frames",
        type=int,
        default=0,
        help="also: so many frames into the video, time and memory beside those of frame --early (default: not)",
    )
    command.add_argument("--early", type=int, default=100, help="default 100")


def _add_temporal(commands) -> None:
    command = _untimed_command(
        commands,
        temporal,
        help="PCAN's frame attention beside non-local attention and a transformer (Table 5.5): multiply-adds of the "
        "forward pass, and memory: of live tensors on the CPU, without making them; of the allocator on CUDA",
        example="--lengths 2 4 8 --output results/benchmark.csv",
    )
    command.add_argument("--lengths", type=int, nargs="+", default=[2, 4, 8], help="frames of a clip (default 2 4 8)")
    command.add_argument("--mode", choices=["train", "inference"], default="train", help="of the memory; default train")
    command.add_argument(
        "--size", type=int, nargs=2, default=[640, 360], metavar="PX", help="width and height (640 360)"
    )
    command.add_argument("--separate", action="store_true", help="an attention for each level; else one for all pixels")


def parse() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        description="Measure speed and memory as ratios of two things that run in turns.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_detectron2(commands)
    _add_torchvision(commands)
    _add_evaluation(commands)
    _add_mapper(commands)
    _add_models(commands)
    _add_video(commands)
    _add_temporal(commands)
    return parser


def main() -> int:
    """Parse and run; a mistake of the user is one sentence."""
    parser = parse()
    args = parser.parse_args()
    if min(args.rounds, args.repeats, args.threads) < 1 or args.warmup < 0:
        parser.error("--rounds, --repeats and --threads are at least 1, --warmup at least 0")
    # NumPy's BLAS and OpenMP read these once, when they are loaded.
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = str(args.threads)
    sys.path.insert(0, str(ROOT))
    import torch

    from instseg_d2.engine.run import resolve_device

    torch.set_num_threads(args.threads)
    try:
        args.device = resolve_device(args.device)
        if args.clock == "cpu" and args.device != "cpu":
            raise ValueError("--clock cpu does not see what a GPU does; use --clock wall")
        args.function(args)
    except (FileNotFoundError, RuntimeError, ValueError) as error:
        parser.error(str(error))
    return 0


if __name__ == "__main__":
    sys.exit(main())
