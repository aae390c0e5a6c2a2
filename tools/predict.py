#!/usr/bin/env python
"""Predict instances in images and videos with a trained recipe; `--help` explains the command line."""

import argparse
import itertools
import json
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import cv2
import numpy as np
from detectron2.structures import Instances
from tqdm import tqdm

from instseg_d2.data.clips import Clip, find_clips
from instseg_d2.data.errors import DatasetError
from instseg_d2.data.media import MediaError, find_media, is_video, load_image
from instseg_d2.engine import Predictor, VideoPredictor
from instseg_d2.engine.auxiliary_maps import keep_auxiliary_maps
from instseg_d2.engine.coco_file import Categories, CocoWriter
from instseg_d2.engine.mask_annotation import annotate_masks, read_boxes
from instseg_d2.engine.mistakes import USER_MISTAKES, describe
from instseg_d2.engine.video_files import AnnotatedVideo, MotsFolder, TrackFile
from instseg_d2.engine.video_predictor import can_track, follow
from instseg_d2.engine.video_strips import RecordedTracks, VideoStrips
from instseg_d2.files import replacing, write_whole
from instseg_d2.visualization import draw_instances
from instseg_d2.visualization.cpmask import draw_pixel_affinity
from instseg_d2.visualization.pep import draw_mining
from instseg_d2.visualization.strips import draw_strips

_EPILOG = """\
examples:
  python tools/predict.py --config-file NAME --weights model_final.pth --input photo.jpg --output out
  python tools/predict.py --config-file NAME --weights model_final.pth --input folder 'more/*.png' clip.mp4 --output out
  python tools/predict.py --config-file NAME --weights model_final.pth --input folder --output out --strips
  python tools/predict.py --config-file NAME --weights model_final.pth --input images --boxes boxes.json \
      --save-masks masks.json
  python tools/predict.py --config-file TRACKS --weights model_final.pth --input clip.mp4 --output out --mots out/mots
  python tools/predict.py --config-file TRACKS --weights model_final.pth --input frames/ --output out --frames-as-video

The output folder gets an overlay for every image (a video for every video) and predictions.json: a COCO data set of
the predictions, with a score in each annotation. A file that cannot be read is named, skipped, and makes the exit
code 1; Ctrl-C keeps what is done.

--strips also writes <image>_strips.png: for each instance everything that the mask head predicts, such as occluder and
contours (BCNet), probabilities and thresholds (ATMask R-CNN), and the mask that comes of it; for PEP the original
instances, the key pixels around them, what was merged, and the result. Videos have none, unless the recipe tracks.

--affinity-of X Y writes <image>_affinity.png with CPMask: for each object whose box holds that pixel, how much the
pixel belongs together with every other one, the boundary and the mask.

Videos with a recipe that tracks, such as PCAN's: the overlay video has one colour and number for each object, and
<video>_tracks.json has the tracks in the format of YouTube-VIS (compressed run lengths; a score for each track). --mots
also writes them as BDD100K has them: bitmasks/<video>/<video>-0000001.png and rles/<video>.json. With --frames-as-video
the images of a folder are the frames of a video, in natural order (frame9 before frame10); otherwise images are single
images, which are not tracked. --strips writes <video>_strips.png: frames with their tracks, where the prototypes of
PCAN look, and each track with its maps; --beside adds the tracks of other recipes to it, from the folders that they
were written to: --beside baseline=out_a --beside 'frame level=out_b'. Frames are read and written one at a time; memory
grows by less than 100 bytes for each mask, and masks wait on the disk of the output folder until the video ends. One
that breaks off, or changes its size, keeps what was done before.

--save-masks turns a COCO data set of boxes into one with masks: of each annotation of --boxes the model draws the mask
in the given box, for the given class, and all else in the file stays. --input is then the folder of its images. Masks
are cut at their boxes. Annotations that have a mask keep it; crowd regions get none. The exit code is 1 when an image
cannot be read. The file is written at the end, as a whole.
"""


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
        except (DatasetError, MediaError) as error:
            self.failures.append(str(error))
            tqdm.write(str(error), file=sys.stderr)

    def predict(self, names: list[str], images: list[np.ndarray]) -> list[dict]:
        """Predict some images; what is sure enough is recorded. Outputs of the model, with these `instances`."""
        predictions = []
        for name, image, found in zip(names, images, self.predictor.predict_batch(images), strict=True):
            instances = found["instances"]
            if instances.has("pred_ids"):
                instances.remove("pred_ids")  # of one image they mean nothing
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

    def affinity(self, path: Path, image: np.ndarray, instances: Instances) -> None:
        """Write what CPMask's head saw of the pixel that is asked for; say so where that is nothing."""
        try:
            picture = draw_pixel_affinity(image, instances, tuple(self.args.affinity_of), self.names)
        except ValueError as error:
            tqdm.write(f"{path}: no picture of affinities: {error}", file=sys.stderr)
        else:
            _write_image(self.path_of(path.stem, "_affinity.png"), picture)

    def path_of(self, name: str, suffix: str) -> Path:
        """A file in the output folder, named after the source; equal names of several folders get a number."""
        path = self.output / f"{name}{suffix}"
        number = 1
        while path in self._used:
            number += 1
            path = self.output / f"{name}_{number}{suffix}"
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
                _write_image(self.path_of(path.stem, ".jpg"), self.overlay(image, output["instances"]))
            if self.args.strips:
                _write_image(self.path_of(path.stem, "_strips.png"), self.strips(image, output))
            if self.args.affinity_of:
                self.affinity(path, image, output["instances"])

    def video(self, clip: Clip) -> None:
        """Predict a video frame by frame and write it with its overlays."""
        length, done = clip.length, 0
        with ExitStack() as stack:
            bar = stack.enter_context(tqdm(total=length or None, desc=clip.name, unit="frame"))
            frames = stack.enter_context(closing(clip.frames()))
            target = None
            if not self.args.no_overlays:
                target = stack.enter_context(closing(AnnotatedVideo(self.path_of(clip.name, ".mp4"), clip.fps(0))))
            for batch in _batches(frames, self.args.batch_size):
                names = [clip.file_name(done + index) for index in range(len(batch))]
                predictions = self.predict(names, batch)
                if target is not None:
                    for image, output in zip(batch, predictions, strict=True):
                        target.write(self.overlay(image, output["instances"]))
                done += len(batch)
                bar.update(len(batch))


class Tracking:
    """What one run of the tool needs to follow the objects of videos."""

    def __init__(self, job: Job) -> None:
        self.args = job.args
        self.job = job
        self.predictor = VideoPredictor(job.predictor)
        self.strips = VideoStrips(job.predictor.model, rows=self.args.strips) if self.args.strips else None

    def video(self, clip: Clip) -> None:
        """Track the objects of a video and write all that is asked for, also when the video breaks off."""
        length, fps = clip.length, clip.fps(self.args.fps)
        tracks = TrackFile(self.job.path_of(clip.name, "_tracks.json"), clip, self.predictor.metadata)
        name = tracks.path.name.removesuffix("_tracks.json")
        others = self._others(tracks.path.name)
        outputs = [tracks, *self._further_outputs(name, fps)]
        start, done = time.perf_counter(), 0
        try:
            with (
                tqdm(total=length or None, desc=clip.name, unit="frame") as bar,
                closing(clip.frames()) as frames,
                closing(follow(self.predictor, frames, outputs, score_threshold=self.args.score_threshold)) as steps,
            ):
                for _ in steps:
                    done += 1
                    bar.update()
        finally:
            if done:
                speed = done / (time.perf_counter() - start)
                short = f" of the {length} that the video should have" if done < length else ""
                print(f"{name}: {done} frames{short}, {len(tracks)} tracks, {speed:.2f} frames/s: {tracks.path}")
                self._draw(name, others)

    def _further_outputs(self, name: str, fps: float) -> list:
        outputs = []
        if not self.args.no_overlays:
            outputs.append(AnnotatedVideo(self.job.output / f"{name}.mp4", fps, self.job.names))
        if self.args.mots:
            outputs.append(MotsFolder(self.args.mots, name, self.predictor.metadata))
        if self.strips is not None:
            self.strips.reset()
            outputs.append(self.strips)
        return outputs

    def _others(self, file_name: str) -> dict[str, RecordedTracks]:
        """Tracks that other recipes wrote of this video, by the names that they were given."""
        categories = Categories(self.predictor.metadata)
        folders = (text.partition("=") for text in self.args.beside)
        return {name: RecordedTracks(Path(folder, file_name), categories) for name, _, folder in folders}

    def _draw(self, name: str, others: dict[str, RecordedTracks]) -> None:
        if self.strips is not None:
            title = Path(self.args.config_file).stem.replace("_", " ") if others else "tracks"
            picture = self.strips.draw(title, self.job.names, others)
            _write_image(self.job.output / f"{name}_strips.png", picture)


def _write_image(path: Path, image: np.ndarray) -> None:
    write_whole(path, cv2.imencode(path.suffix, image)[1].tobytes())


def _prepare_strips(predictor: Predictor, tracking: Tracking | None) -> None:
    """Have the model attach all its maps, and say so when it has no more than soft masks."""
    has_regions = tracking is not None and tracking.strips.has_regions
    if not keep_auxiliary_maps(predictor.model) and not has_regions:
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
    job = Job(args, predictor)
    needed = args.mots or args.frames_as_video or args.beside
    tracking = Tracking(job) if needed or can_track(predictor.model) else None
    if args.strips:
        _prepare_strips(predictor, tracking)
    elif args.affinity_of:
        keep_auxiliary_maps(predictor.model)
    clips = find_clips(paths, join_images=args.frames_as_video)
    stills = [] if args.frames_as_video else [path for path in paths if not is_video(path)]
    try:
        with tqdm(total=len(stills), unit="image", disable=not stills) as bar:
            for batch in _batches(iter(stills), args.batch_size):
                job.images(batch)
                bar.update(len(batch))
        for clip in clips:
            with job.noting_failures():
                (tracking or job).video(clip)
    finally:
        if stills or tracking is None:
            job.writer.write()
            count = len(job.writer.annotations)
            print(f"{count} instances in {len(job.writer.images)} images: {job.writer.path}")
    if job.failures:
        print(f"{len(job.failures)} of {len(stills) + len(clips)} files could not be read")
    return 1 if job.failures else 0


def _add_video_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--frames-as-video", action="store_true", help="the images of a folder are the frames of a video; to be tracked"
    )
    parser.add_argument(
        "--fps", type=float, default=10.0, help="of the overlay video of --frames-as-video (default 10)"
    )
    parser.add_argument(
        "--mots", type=Path, metavar="DIR", help="write the tracks of videos as bitmasks and json of BDD100K there"
    )
    parser.add_argument(
        "--beside",
        action="append",
        default=[],
        metavar="NAME=DIR",
        help="draw the tracks in DIR, the --output of another recipe, above those of --strips; again for more",
    )


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
    parser.add_argument(
        "--affinity-of",
        type=float,
        nargs=2,
        metavar=("X", "Y"),
        help="write what a pixel of each image belongs together with, as CPMask sees it",
    )
    _add_video_flags(parser)
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
        return _wrong_drawing(args)
    if args.output or args.strips or args.affinity_of or args.mots:
        return "--save-masks writes one file and draws nothing: leave --output, --strips, --affinity-of and --mots out"
    if len(args.input) != 1 or not Path(args.input[0]).is_dir():
        return f"with --save-masks, --input is the one folder of the images, not '{' '.join(args.input)}'"
    if args.save_masks.is_dir():
        return f"--save-masks names a file to write, and '{args.save_masks}' is a folder"
    if args.save_masks.resolve() == args.boxes.resolve():
        return "--save-masks would write over --boxes: name another file"
    return None


def _wrong_drawing(args: argparse.Namespace) -> str | None:
    """What is wrong with the flags of pictures."""
    if args.strips < 0:
        return "--strips draws at least one instance"
    if args.fps <= 0:
        return "--fps is more than 0"
    if args.beside and not args.strips:
        return "--beside adds to --strips: give that too"
    pairs = [text.partition("=") for text in args.beside]
    if not all(name and folder for name, _, folder in pairs):
        return "--beside is NAME=DIR, such as baseline=out_baseline"
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
