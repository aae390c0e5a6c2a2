#!/usr/bin/env python
"""Predict instances in images and videos with a trained recipe; `--help` explains the command line."""

import argparse
import itertools
import json
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import cv2
import numpy as np
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.structures import Instances
from pycocotools import mask as mask_utils
from tqdm import tqdm

from instseg_d2.data.media import MediaError, find_media, is_video, load_image, read_frames, video_info
from instseg_d2.engine import Predictor
from instseg_d2.engine.auxiliary_maps import keep_auxiliary_maps
from instseg_d2.engine.mask_annotation import annotate_masks, read_boxes
from instseg_d2.engine.mistakes import USER_MISTAKES, describe
from instseg_d2.files import replacing, write_whole
from instseg_d2.visualization import draw_instances
from instseg_d2.visualization.pep import draw_mining
from instseg_d2.visualization.strips import draw_strips

_EPILOG = """\
examples:
  python tools/predict.py --config-file NAME --weights model_final.pth --input photo.jpg --output out
  python tools/predict.py --config-file NAME --weights model_final.pth --input folder 'more/*.png' clip.mp4 --output out
  python tools/predict.py --config-file NAME --weights model_final.pth --input folder --output out --strips
  python tools/predict.py --config-file NAME --weights model_final.pth --input images --boxes boxes.json \
      --save-masks masks.json

The output folder gets an overlay for every image (a video for every video) and predictions.json: a COCO data set of
the predictions, with a score in each annotation. A file that cannot be read is named, skipped, and makes the exit
code 1; Ctrl-C keeps what is done.

--strips also writes <image>_strips.png: for each instance everything that the mask head predicts, such as occluder and
contours (BCNet), probabilities and thresholds (ATMask R-CNN), and the mask that comes of it; for PEP the original
instances, the key pixels around them, what was merged, and the result. Videos have none.

--save-masks turns a COCO data set of boxes into one with masks: of each annotation of --boxes the model draws the mask
in the given box, for the given class, and all else in the file stays. --input is then the folder of its images. Masks
are cut at their boxes. Annotations that have a mask keep it; crowd regions get none. The exit code is 1 when an image
cannot be read. The file is written at the end, as a whole.
"""


class CocoWriter:
    """Collects predictions as a COCO data set.

    Args:
        path: the json to write.
        metadata: of the data set that the model was trained for; gives category names and ids.
    """

    def __init__(self, path: Path, metadata) -> None:
        self.path = path
        self.images, self.annotations, self.categories = [], [], {}
        self._names = getattr(metadata, "thing_classes", None)
        ids = getattr(metadata, "thing_dataset_id_to_contiguous_id", {})
        self._category_ids = {index: category for category, index in ids.items()}

    def add(self, file_name: str, shape: tuple[int, int], instances) -> None:
        """Add one image of shape (height, width) and its predicted Instances."""
        image_id = len(self.images) + 1
        self.images.append({"id": image_id, "file_name": file_name, "height": shape[0], "width": shape[1]})
        for item in instances_to_coco_json(instances.to("cpu"), image_id):
            index = item["category_id"]
            item["category_id"] = category = self._category_ids.get(index, index + 1)
            name = self._names[index] if self._names else f"class {index}"
            self.categories[category] = {"id": category, "name": name}
            width, height = item["bbox"][2:]
            mask = item.get("segmentation")
            area = int(mask_utils.area(mask)) if mask else width * height
            self.annotations.append({"id": len(self.annotations) + 1, "iscrowd": 0, "area": area, **item})

    def write(self) -> None:
        """Write the json, replacing an older one only when the new one is whole."""
        categories = [self.categories[key] for key in sorted(self.categories)]
        data = {"images": self.images, "annotations": self.annotations, "categories": categories}
        write_whole(self.path, json.dumps(data))


def _batches(items: Iterator, size: int) -> Iterator[list]:
    while batch := list(itertools.islice(items, size)):
        yield batch


class Job:
    """Everything that one run of the tool needs to handle a file."""

    def __init__(self, args: argparse.Namespace, predictor: Predictor) -> None:
        self.args = args
        self.predictor = predictor
        self.names = getattr(predictor.metadata, "thing_classes", None)
        self.output = Path(args.output)
        self.writer = CocoWriter(self.output / "predictions.json", predictor.metadata)
        self.failures: list[str] = []
        self._used: set[Path] = set()

    @contextmanager
    def noting_failures(self) -> Iterator[None]:
        """Print and remember that a file cannot be read, and go on with the next one."""
        try:
            yield
        except MediaError as error:
            self.failures.append(str(error))
            tqdm.write(str(error), file=sys.stderr)

    def predict(self, names: list[str], images: list[np.ndarray]) -> list[dict]:
        """Predict some images; what is sure enough is recorded. Outputs of the model, with these `instances`."""
        predictions = []
        for name, image, found in zip(names, images, self.predictor.predict_batch(images), strict=True):
            instances = found["instances"]
            kept = instances[instances.scores >= self.args.score_threshold]
            self.writer.add(name, image.shape[:2], kept)
            predictions.append({**found, "instances": kept})
        return predictions

    def overlay(self, image: np.ndarray, instances: Instances) -> np.ndarray:
        """The image with its predictions."""
        return draw_instances(image, instances, self.names, score_threshold=self.args.score_threshold)

    def strips(self, image: np.ndarray, output: dict) -> np.ndarray:
        """What the model saw on its way to the masks."""
        if "mining" in output:
            threshold = self.args.score_threshold
            return draw_mining(
                image, output["mining"], output["instances"], self.names, score_threshold=threshold, enlarge=2
            )
        return draw_strips(image, output["instances"], self.names, rows=self.args.strips)

    def path_of(self, source: Path, suffix: str) -> Path:
        """A file in the output folder, named after the source; equal names of several folders get a number."""
        path = self.output / f"{source.stem}{suffix}"
        number = 1
        while path in self._used:
            number += 1
            path = self.output / f"{source.stem}_{number}{suffix}"
        self._used.add(path)
        return path

    def images(self, paths: list[Path]) -> None:
        """Predict a batch of images; those that cannot be read are noted and left out."""
        loaded = {}
        for path in paths:
            with self.noting_failures():
                loaded[path] = load_image(path)
        if not loaded:
            return
        predictions = self.predict([str(path) for path in loaded], list(loaded.values()))
        for (path, image), output in zip(loaded.items(), predictions, strict=True):
            if not self.args.no_overlays:
                _write_image(self.path_of(path, ".jpg"), self.overlay(image, output["instances"]))
            if self.args.strips:
                _write_image(self.path_of(path, "_strips.png"), self.strips(image, output))

    def video(self, path: Path) -> None:
        """Predict a video frame by frame and write it with its overlays."""
        info = video_info(path)
        target = None
        done = 0
        try:
            with (
                tqdm(total=info.frames or None, desc=path.name, unit="frame") as bar,
                closing(read_frames(path)) as frames,
            ):
                for batch in _batches(frames, self.args.batch_size):
                    names = [f"{path}/{done + index:06d}" for index in range(len(batch))]
                    predictions = self.predict(names, batch)
                    if target is None and not self.args.no_overlays:
                        target = _video_writer(self.path_of(path, ".mp4"), info.fps, batch[0].shape)
                    if target is not None:
                        for image, output in zip(batch, predictions, strict=True):
                            target.write(self.overlay(image, output["instances"]))
                    done += len(batch)
                    bar.update(len(batch))
        finally:
            if target is not None:
                target.release()


def _write_image(path: Path, image: np.ndarray) -> None:
    write_whole(path, cv2.imencode(path.suffix, image)[1].tobytes())


def _video_writer(path: Path, fps: float, shape: tuple[int, ...]) -> cv2.VideoWriter:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), fps, (shape[1], shape[0]))
    if not writer.isOpened():
        raise OSError(f"cannot write video {path}")
    return writer


def _prepare_strips(predictor: Predictor) -> None:
    """Have the model attach all its maps, and say so when it has no more than soft masks."""
    if not keep_auxiliary_maps(predictor.model):
        print(
            "--strips: no mask head of this model has further maps (keep_aux); strips show the image, the soft mask "
            "and the mask",
            file=sys.stderr,
        )


def _predictor(args: argparse.Namespace) -> Predictor:
    return Predictor.from_config(args.config_file, weights=args.weights, overrides=args.opts, device=args.device)


def _print_some(texts: list[str], limit: int = 20) -> None:
    for text in texts[:limit]:
        print(f"  {text}", file=sys.stderr)
    if len(texts) > limit:
        print(f"  ... and {len(texts) - limit} more", file=sys.stderr)


def save_masks(args: argparse.Namespace) -> int:
    """Segment the boxes of a data set and write it with masks; returns the exit code."""
    (image_root,) = args.input
    content = read_boxes(args.boxes, image_root)
    args.save_masks.parent.mkdir(parents=True, exist_ok=True)
    # Entered before the work, so that a place that cannot be written to is told at once.
    with replacing(args.save_masks) as partial:
        partial.touch()
        result = annotate_masks(_predictor(args), content, image_root, batch_size=args.batch_size, progress=True)
        partial.write_text(json.dumps(result.content))
    _print_some([*result.unreadable, *result.without])
    print(
        f"{result.predicted} masks predicted, {result.kept} kept, {len(result.without)} boxes without one: "
        f"{args.save_masks}" + (f"; {len(result.unreadable)} images could not be read" if result.unreadable else "")
    )
    return 1 if result.unreadable else 0


def run(args: argparse.Namespace) -> int:
    """Predict all inputs; returns the exit code."""
    paths = find_media(args.input)
    Path(args.output).mkdir(parents=True, exist_ok=True)
    predictor = _predictor(args)
    if args.strips:
        _prepare_strips(predictor)
    job = Job(args, predictor)
    try:
        stills = [path for path in paths if not is_video(path)]
        with tqdm(total=len(stills), unit="image", disable=not stills) as bar:
            for batch in _batches(iter(stills), args.batch_size):
                job.images(batch)
                bar.update(len(batch))
        for path in filter(is_video, paths):
            with job.noting_failures():
                job.video(path)
    finally:
        job.writer.write()
    print(
        f"{len(job.writer.annotations)} instances in {len(job.writer.images)} images: {job.writer.path}"
        + (f"; {len(job.failures)} of {len(paths)} files could not be read" if job.failures else "")
    )
    return 1 if job.failures else 0


def parse() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        description="Predict instances in images and videos.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config-file", required=True, help="the recipe: a file or a name of the model zoo")
    parser.add_argument("--weights", required=True, help="checkpoint of that recipe")
    parser.add_argument("--input", required=True, nargs="+", help="images, videos, folders, glob patterns")
    parser.add_argument("--output", help="folder for overlays and predictions.json")
    parser.add_argument("--score-threshold", type=float, default=0.5, help="keep predictions from it on (default 0.5)")
    parser.add_argument("--batch-size", type=int, default=1, help="images in one pass (default 1)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, ... (default auto)")
    parser.add_argument("--no-overlays", action="store_true", help="do not draw predictions over images and videos")
    parser.add_argument(
        "--strips",
        type=int,
        nargs="?",
        const=8,
        default=0,
        metavar="ROWS",
        help="write what the mask head predicts of the ROWS best instances of each image (default 8)",
    )
    parser.add_argument("--boxes", type=Path, metavar="JSON", help="a COCO data set whose boxes --save-masks segments")
    parser.add_argument(
        "--save-masks", type=Path, metavar="JSON", help="where to write that data set with masks; see below"
    )
    parser.add_argument("--opts", nargs="*", default=[], metavar="key=value", help="overrides of config keys")
    return parser


def _wrong_usage(args: argparse.Namespace) -> str | None:
    """What is wrong with the flags taken together."""
    if (args.boxes is None) != (args.save_masks is None):
        return "--boxes and --save-masks go together: the boxes to segment, and where to write them with masks"
    if args.save_masks is None:
        if args.output is None:
            return "the following arguments are required: --output"
        return "--strips draws at least one instance" if args.strips < 0 else None
    if args.output or args.strips:
        return "--save-masks writes one file and draws nothing: leave --output and --strips out"
    if len(args.input) != 1 or not Path(args.input[0]).is_dir():
        return f"with --save-masks, --input is the one folder of the images, not '{' '.join(args.input)}'"
    if args.save_masks.is_dir():
        return f"--save-masks names a file to write, and '{args.save_masks}' is a folder"
    if args.save_masks.resolve() == args.boxes.resolve():
        return "--save-masks would write over --boxes: name another file"
    return None


def main() -> int:
    """Parse and run; a mistake of the user is one sentence."""
    parser = parse()
    args = parser.parse_args()
    if wrong := _wrong_usage(args):
        parser.error(wrong)
    try:
        return run(args) if args.save_masks is None else save_masks(args)
    except USER_MISTAKES as error:
        parser.exit(2, f"{parser.prog}: error: {describe(error, args.output or args.save_masks.parent)}\n")


if __name__ == "__main__":
    sys.exit(main())
