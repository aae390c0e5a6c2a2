#!/usr/bin/env python
"""Parameters, FLOPs, time per part, memory, config and structure of a recipe's model; see `--help`."""

import argparse
import statistics
import sys

import torch
from detectron2.config import instantiate
from detectron2.data import transforms as T
from detectron2.utils.analysis import parameter_count_table
from fvcore.nn import parameter_count
from omegaconf import DictConfig, OmegaConf
from torch import nn

from instseg_d2.benchmark.flops import count_flops
from instseg_d2.benchmark.memory import peak_tensor_memory
from instseg_d2.benchmark.models import batch_of, blurry_image, inference, make_it_detect
from instseg_d2.benchmark.stages import time_stages
from instseg_d2.benchmark.thresholds import lower_thresholds
from instseg_d2.checkpoint import load_weights
from instseg_d2.data.media import find_media, is_video
from instseg_d2.engine.mistakes import USER_MISTAKES, describe
from instseg_d2.engine.overrides import SettingError, apply_overrides
from instseg_d2.engine.run import resolve_device
from instseg_d2.model_zoo import get_config
from instseg_d2.results import hardware

_EPILOG = """\
tasks:
  parameters  numbers of all parameters and of the trained ones, and a table down to --depth
  flops       multiply-adds of one image (what papers call FLOPs), by part, with the parts inside of it
  time        milliseconds of one image, by part: each without the parts inside of it. `preprocess` and `postprocess`
              (pasting masks, and what a detector does after its head) lie outside of all parts; `in between` are steps
              that belong to no submodule, such as NMS
  memory      size of the weights, and peak of the tensors of a prediction above what is held before it: what CUDA's
              allocator says, or on the CPU torch's profiler (without memory of other libraries)
  config      the config with overrides and with interpolations resolved, as YAML
  structure   the modules

Cost depends on what is detected. With random weights the thresholds are lowered until there is about as much as after a
training; the number of detections is told. With --weights the thresholds are the recipe's.

examples:
  python tools/analyze.py --config-file Baselines/mask_rcnn_r50_fpn_coco_1x
  python tools/analyze.py --config-file CONFIG --tasks time,memory --size 800 --repeats 10
  python tools/analyze.py --config-file CONFIG --tasks time --input photos/ --weights model_final.pth
  python tools/analyze.py --config-file CONFIG --tasks parameters --depth 4 model.roi_heads.num_classes=1
"""


class Subject:
    """A recipe, its model on its device and the images, one by one, that it is analysed on."""

    def __init__(self, cfg: DictConfig, args: argparse.Namespace) -> None:
        self.cfg = cfg
        self.args = args
        self.device = resolve_device(args.device)
        torch.manual_seed(0)
        self.model: nn.Module = instantiate(cfg.model).to(self.device).eval()
        self._inputs: list[list[dict]] = []
        if args.weights:
            load_weights(self.model, args.weights)

    def inputs(self) -> list[list[dict]]:
        """Batches of one image; on the first call, models with random weights are made to detect something."""
        if self._inputs:
            return self._inputs
        self._inputs = [[item] for item in _images(self.cfg, self.args)]
        weights = self.args.weights
        if not weights:
            weights = "random weights"
            if make_it_detect(self.model, self._inputs[0]):
                weights += ", scaled to detect"
            elif lower_thresholds(self.model, self._inputs[0]):
                weights += ", thresholds lowered"
        found = [len(inference(self.model, batch)()[0].get("instances", ())) for batch in self._inputs]
        shapes = sorted({tuple(batch[0]["image"].shape[1:]) for batch in self._inputs})
        sizes = " to ".join(f"{height} x {width}" for height, width in dict.fromkeys((shapes[0], shapes[-1])))
        print(
            f"{len(found)} image(s) of {sizes} px, {statistics.mean(found):.4g} detections each ({weights}); "
            f"{hardware(self.device)}, {torch.get_num_threads()} thread(s)"
        )
        if not any(found):
            print("nothing is detected: a mask head behind the detector has no work in these numbers")
        return self._inputs

    def predict(self) -> None:
        """Predict every image."""
        for batch in self.inputs():
            inference(self.model, batch)()


def _images(cfg: DictConfig, args: argparse.Namespace) -> list[dict]:
    """Inputs of the model: files through the recipe's test mapper, or one generated image."""
    if args.input:
        paths = [path for path in find_media(args.input) if not is_video(path)][: args.count]
        if not paths:
            raise SettingError(f"--input: no images among {', '.join(args.input)}")
        mapper = instantiate(cfg.dataloader.test.mapper)
        return [mapper({"file_name": str(path)}) for path in paths]
    if args.size:
        return batch_of(args.size, 1)
    augmented = T.AugInput(blurry_image(480, 640).permute(1, 2, 0).numpy())
    T.AugmentationList(instantiate(cfg.dataloader.test.mapper.augmentations))(augmented)
    image = torch.from_numpy(augmented.image.copy()).permute(2, 0, 1)
    return [{"image": image, "height": 480, "width": 640}]


def parameters(subject: Subject) -> None:
    """Print numbers of parameters."""
    model = subject.model
    total = parameter_count(model)[""]
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    print(f"{total / 1e6:.3f} M parameters, {trained / 1e6:.3f} M of them are trained")
    print(parameter_count_table(model, max_depth=subject.args.depth))


def flops(subject: Subject) -> None:
    """Print multiply-adds by part."""
    counts = [count_flops(subject.model, batch) for batch in subject.inputs()]
    means = {name: statistics.mean(count[name] for count in counts) / 1e9 for name in counts[0]}
    total = means.pop("")
    print(f"{'part':<32}{'G multiply-adds':>16}{'share':>8}")
    for name, value in means.items():
        if value:
            print(f"{name:<32}{value:>16.3f}{100 * value / total:>7.1f}%")
    print(f"{'all':<32}{total:>16.3f}")


def times(subject: Subject) -> None:
    """Print milliseconds by part."""
    count = len(subject.inputs())
    rows = time_stages(subject.model, subject.predict, repeats=subject.args.repeats, warmup=subject.args.warmup)
    total = sum(row.median for row in rows)
    print(f"{'part':<32}{'ms':>10}{'least':>10}{'most':>10}{'share':>8}{'calls':>8}")
    for row in rows:
        milliseconds = "".join(f"{1e3 * value / count:>10.2f}" for value in (row.median, row.least, row.most))
        print(f"{row.name:<32}{milliseconds}{100 * row.median / total:>7.1f}%{row.calls / count:>8g}")
    print(f"{'sum':<32}{1e3 * total / count:>10.2f}   an image, medians of {subject.args.repeats} runs")


def memory(subject: Subject) -> None:
    """Print the peak memory of a prediction."""
    weights = sum(tensor.numel() * tensor.element_size() for tensor in subject.model.state_dict().values())
    on_cuda = torch.device(subject.device).type == "cuda"
    how = "torch.cuda.max_memory_allocated" if on_cuda else "tensors on the CPU, by torch.profiler"
    subject.predict()
    peak = peak_tensor_memory(subject.predict, on_cuda=on_cuda)
    print(
        f"weights {weights / 2**20:.1f} MiB; peak of a prediction {peak:.1f} MiB above what is held before it ({how})"
    )


def config(subject: Subject) -> None:
    """Print the resolved config."""
    cfg = subject.cfg.copy()
    OmegaConf.resolve(cfg)
    print(OmegaConf.to_yaml(cfg))


def structure(subject: Subject) -> None:
    """Print the modules."""
    print(subject.model)


TASKS = {
    "parameters": parameters,
    "flops": flops,
    "time": times,
    "memory": memory,
    "config": config,
    "structure": structure,
}


def parse() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        description="Say what the model of a recipe is made of and what a prediction costs.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config-file", required=True, metavar="FILE_OR_NAME", help="a recipe: a file or a name")
    parser.add_argument("--weights", help="checkpoint of that recipe (default: random weights)")
    parser.add_argument(
        "--tasks",
        default="parameters,flops,time,memory",
        help=f"of {', '.join(TASKS)}, with commas between (default %(default)s)",
    )
    parser.add_argument("--depth", type=int, default=3, help="levels of the parameter table (default 3)")
    parser.add_argument("--size", type=int, help="short edge of a generated image, pixels (default: what the recipe's "
                        "test augmentations make of 640 x 480)")  # fmt: skip
    parser.add_argument("--input", nargs="+", help="images, folders or glob patterns instead of a generated image")
    parser.add_argument("--count", type=int, default=10, help="images of --input, at most (default 10)")
    parser.add_argument("--repeats", type=int, default=5, help="timed runs over all images (default 5)")
    parser.add_argument("--warmup", type=int, default=1, help="runs before them (default 1)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, ... (default auto)")
    parser.add_argument("opts", nargs="*", metavar="key=value", help="overrides of config keys, as of train_net.py")
    return parser


def main() -> int:
    """Parse and run; a mistake of the user is one sentence."""
    parser = parse()
    args = parser.parse_intermixed_args()
    tasks = [task.strip() for task in args.tasks.split(",") if task.strip()]
    unknown = [task for task in tasks if task not in TASKS]
    if unknown or not tasks:
        parser.error(f"--tasks: no task {', '.join(unknown) or 'is named'}; known: {', '.join(TASKS)}")
    if min(args.depth, args.count, args.repeats) < 1 or args.warmup < 0:
        parser.error("--depth, --count and --repeats are at least 1, --warmup at least 0")
    try:
        cfg = apply_overrides(get_config(args.config_file), args.opts)
        subject = Subject(cfg, args)
        for task in tasks:
            print(f"== {task}")
            TASKS[task](subject)
    except USER_MISTAKES as error:
        parser.exit(2, f"{parser.prog}: error: {describe(error)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
