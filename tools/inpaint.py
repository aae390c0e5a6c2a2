#!/usr/bin/env python
"""Complete the hidden part of an object in a video; `--help` explains the command line."""

import argparse
import os
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import torch
from detectron2.utils.env import seed_all_rng
from tqdm import tqdm

from instseg_d2.benchmark.compare import resident_bytes
from instseg_d2.data.clips import Clip
from instseg_d2.data.errors import DatasetError
from instseg_d2.data.media import MediaError
from instseg_d2.data.object_masks import open_masks, read_tracks
from instseg_d2.engine.inpainting_folder import InpaintingFolder
from instseg_d2.engine.inpainting_stages import load_stage, warn_of_other_flow
from instseg_d2.engine.mistakes import USER_MISTAKES, describe
from instseg_d2.engine.object_video import ObjectVideo, Survey, open_clip
from instseg_d2.engine.overrides import SettingError
from instseg_d2.engine.run import resolve_device
from instseg_d2.engine.video_files import TrackFile
from instseg_d2.engine.video_predictor import VideoPredictor, follow
from instseg_d2.inpainting.flow.backends import flow_backend
from instseg_d2.inpainting.pipeline import BASELINE, VideoObjectInpainter

_EPILOG = f"""\
examples:
  python tools/inpaint.py --input clip.mp4 --masks masks.mp4 --amodal complete.mp4 --output out
  python tools/inpaint.py --input frames/ --masks Annotations/dog/ --object-id 2 --occluder others --output out
  python tools/inpaint.py --input frames/ --masks remain_mask/ --amodal full_mask/ --output out   # YouTube-VOI
  python tools/inpaint.py --input frames/ --masks tracks.json --object-id 3 --occluder others --output out
  python tools/inpaint.py --input clip.mp4 --detect person --tracker PCAN/pcan_fcos_r50_fpn_ytvis2019 \\
      --tracker-weights model_final.pth --occluder others --output out
  python tools/inpaint.py --input clip.mp4 --masks masks/ --output out --shape VOIN/voin_shape_base_ytvoi=shape.pth \\
      --flow VOIN/voin_flow_base_ytvoi=flow.pth --content VOIN/voin_content_base_ytvoi=content.pth --fp16
  python tools/inpaint.py --input clip.mp4 --masks masks/ --amodal full/ --output out --resume      # go on

The output folder gets, for each frame, scene/*.png: the frame with the object brought to the front, every pixel
outside of its hidden part as it was, bit for bit; object/*.png: the complete object alone, with alpha; masks/*.png: its
complete mask. scene.mp4 and object.mp4 show the same as videos, without sound. run.json has the settings and what they
came to, frames.jsonl the pixels of each frame: hidden, propagated, made up, left as they were.

Masks, one a frame: a video or a folder of images, light on dark; palette PNGs (with --object-id); a json of the
YouTube-VIS form, such as predict.py writes of tracks; or --detect, which follows the objects of a class with a recipe
that tracks and takes the one that shows most pixels, or that of --object-id. A mask is empty where the object is not
seen. The hidden part is given with --amodal, found by a trained network (--shape), or, without one, looked for behind
--occluder: masks of what is in front, or "others", all other objects of --masks.

Stages without a trained network are a {BASELINE}: the union of the masks along the flow, flow continued
smoothly into the hidden part, colours of other frames, and Telea's inpainting for what no frame shows. Flow needs no
weights either: "dis" and "farneback" come with OpenCV; "raft:FILE" takes torchvision's weights; "precomputed:DIR" reads
DIR/forward and DIR/backward (.flo, .npy). A network that completes flow must get that of the backend it has learnt on.

Work goes in runs of --window frames, whose first and last --margin only serve the others, on the surroundings of the
object, scaled down to the pixels of --working-size: memory does not grow with the video. After an interruption or on a
full disk what is finished stays, and the same command with --resume goes on; the result is that of a run at one go.
--save-intermediate adds flows, where each colour comes from, pictures of both, and strip.png. Exit code: 0 done, 2
wrong usage and files that cannot be used, 130 interrupted.
"""

# What the results do not depend on.
_FREE = ("output", "device", "fps", "resume", "dry_run", "save_intermediate")


def _settings(args: argparse.Namespace) -> dict[str, Any]:
    return {key: value for key, value in vars(args).items() if key not in _FREE}


def _stage(args: argparse.Namespace, part: str, device: str) -> torch.nn.Module | None:
    """The network of RECIPE=CHECKPOINT; None where none is given."""
    text = getattr(args, part)
    if text is None:
        return None
    recipe, _, checkpoint = text.partition("=")
    if not recipe or not checkpoint:
        raise SettingError(f"--{part} is RECIPE=CHECKPOINT, such as VOIN/voin_{part}_base_ytvoi=model_final.pth")
    return load_stage(recipe, checkpoint, part=part, device=device)


def _inpainter(args: argparse.Namespace) -> VideoObjectInpainter:
    device = resolve_device(args.device)
    half = torch.float16 if device.startswith("cuda") else torch.bfloat16
    width, height = args.working_size
    flow, flow_completion = flow_backend(args.flow_backend, device=device), _stage(args, "flow", device)
    if flow_completion is not None:
        warn_of_other_flow(args.flow.partition("=")[0], flow)
    return VideoObjectInpainter(
        flow=flow,
        shape=None if args.amodal else _stage(args, "shape", device),
        flow_completion=flow_completion,
        generator=_stage(args, "content", device),
        use_flow=not args.no_flow,
        category=args.category,
        size=args.window,
        margin=args.margin,
        working_area=width * height,
        device=device,
        amp_dtype=half if args.fp16 else None,
        keep_flows=args.save_intermediate,
    )


def _track(args: argparse.Namespace, clip: Clip, target: Path) -> None:
    """Follow all objects of the video and write their tracks, whole or not at all."""
    predictor = VideoPredictor.from_config(args.tracker, weights=args.tracker_weights, device=args.device)
    partial = target.with_suffix(".partial.json")
    tracks = TrackFile(partial, clip, predictor.predictor.metadata)
    with (
        closing(clip.frames()) as frames,
        closing(follow(predictor, frames, [tracks], score_threshold=args.score_threshold)) as steps,
    ):
        for _ in tqdm(steps, total=clip.length or None, desc="tracking", unit="frame"):
            pass
    os.replace(partial, target)


def _choose(args: argparse.Namespace, clip: Clip, tracks: Path) -> int:
    """The number of the track to complete."""
    found = read_tracks(tracks, clip.name).objects
    ranked = sorted(found, key=lambda one: -one.area())
    meant = [one for one in ranked if one.category.lower() == args.detect.lower()]
    if args.object_id is not None:
        meant = [one for one in ranked if one.number == args.object_id]
    listed = ", ".join(f"{one.number} ({one.category})" for one in ranked[:20]) or "nothing"
    if not meant:
        raise DatasetError(
            f"the tracker found {listed}, and no {args.detect if args.object_id is None else args.object_id}: lower "
            "--score-threshold, or name another class or --object-id"
        )
    print(f"completing object {meant[0].number} ({meant[0].category}); the tracker found {listed}: {tracks}")
    return meant[0].number


def _open(args: argparse.Namespace, clip: Clip, masks: str | Path, object_id: int | None) -> ObjectVideo:
    name = None if args.detect else args.video
    complete = occluders = None
    if args.amodal:
        complete = open_masks(args.amodal, clip, object_id=object_id, video=name, kind="complete")
    if args.occluder == "others":
        if object_id is None:
            raise SettingError("--occluder others means all objects but one: give that one's number with --object-id")
        occluders = open_masks(masks, clip, object_id=object_id, video=name, kind="others")
    elif args.occluder:
        occluders = open_masks(args.occluder, clip, video=name, kind="any", repeats=True)
    return ObjectVideo(clip, open_masks(masks, clip, object_id=object_id, video=name), complete, occluders)


def _describe(survey: Survey, inpainter: VideoObjectInpainter, complete_given: bool) -> str:
    stages = inpainter.stages(complete_given=complete_given)
    lines = [f"{survey.frames} frames of {survey.width} x {survey.height} px, the object is seen in {len(survey.seen)}"]
    return "\n".join([*lines, *(f"  {stage}: {text}" for stage, text in stages.items())])


def _plan(args: argparse.Namespace, clip: Clip, inpainter: VideoObjectInpainter) -> None:
    """What would be done; masks are read and checked, nothing is written."""
    if args.detect:
        VideoPredictor.from_config(args.tracker, weights=args.tracker_weights, device=args.device)
        print(f"would track every {args.detect} in '{clip.path}' and complete one of them; its masks are not known yet")
        return
    survey = _open(args, clip, args.masks, args.object_id).survey()
    print(f"would write {args.output}\n{_describe(survey, inpainter, bool(args.amodal))}")


def _memory(device: torch.device) -> str:
    try:
        text = f"{resident_bytes('VmHWM') / 2**20:.0f} MiB"
    except OSError:
        text = "unknown"  # only Linux tells
    if device.type == "cuda":
        text += f", {torch.cuda.max_memory_allocated(device) / 2**20:.0f} MiB on the GPU"
    return text


def _finish(args: argparse.Namespace, folder: InpaintingFolder, clip: Clip, facts: dict[str, Any]) -> None:
    videos = folder.write_videos(clip.fps(args.fps))
    strip = folder.write_strip()
    folder.write_summary(facts)
    pixels = folder.totals()
    hidden = max(pixels.get("hidden", 0), 1)
    ends = {"propagated": "from other frames", "made_up": "made up", "left": "left as they were"}
    shares = ", ".join(f"{pixels.get(key, 0) / hidden:.0%} {text}" for key, text in ends.items())
    print(f"{pixels.get('hidden', 0)} hidden pixels: {shares}")
    if pixels.get("left"):
        print("  left: nothing of the object is seen in those frames or near them; --content has a network paint them")
    print(f"written: {', '.join(map(str, [folder.path, *videos, *([strip] if strip else [])]))}")


def run(args: argparse.Namespace) -> None:
    """Do what the command line says."""
    clip = open_clip(args.input)
    seed_all_rng(args.seed)
    inpainter = _inpainter(args)
    if args.dry_run:
        _plan(args, clip, inpainter)
        return
    video = None if args.detect else _open(args, clip, args.masks, args.object_id)
    survey = video.survey() if video else None
    folder = InpaintingFolder(
        args.output, clip, _settings(args), resume=args.resume, intermediate=args.save_intermediate
    )
    if args.detect:
        tracks = args.output / "tracks.json"
        if not (folder.continues and tracks.is_file()):
            _track(args, clip, tracks)
        video = _open(args, clip, tracks, _choose(args, clip, tracks))
        survey = video.survey()
    print(_describe(survey, inpainter, video.complete is not None))
    start, before = time.perf_counter(), len(folder)
    with (
        tqdm(total=survey.frames, initial=before, unit="frame") as bar,
        closing(inpainter.process(video.frames(), folder.is_finished)) as frames,
    ):
        for done in frames:
            folder.add(done)
            bar.update(len(folder) - bar.n)
    seconds, worked = time.perf_counter() - start, len(folder) - before
    memory = _memory(inpainter.device)
    print(f"{worked} frames in {seconds:.1f} s, {worked / max(seconds, 1e-9):.2f} frames/s; peak memory {memory}")
    stages = inpainter.stages(complete_given=video.complete is not None)
    _finish(args, folder, clip, {"stages": stages, "seconds": round(seconds, 2), "peak_memory": memory})
    if len(folder) < survey.frames:
        raise MediaError(f"video '{clip.path}' broke off after {len(folder)} of its {survey.frames} frames")


def _size(text: str) -> tuple[int, int]:
    width, _, height = text.partition("x")
    if not (width.isdigit() and height.isdigit() and int(width) and int(height)):
        raise argparse.ArgumentTypeError(f"'{text}' is no size; give WIDTHxHEIGHT, such as 432x240")
    return int(width), int(height)


def _add_sources(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--input", required=True, metavar="VIDEO", help="video, or folder of frames")
    parser.add_argument("--output", required=True, type=Path, metavar="DIR", help="folder to write")
    masks = parser.add_argument_group("masks")
    masks.add_argument("--masks", metavar="PATH", help="visible masks: video, folder of images, or YouTube-VIS json")
    masks.add_argument("--object-id", type=int, metavar="N", help="number in palette PNGs, 'id' of the track in a json")
    masks.add_argument(
        "--video", metavar="NAME", help="video of a json that has several (default: that called as --input)"
    )
    masks.add_argument("--amodal", metavar="PATH", help="complete masks, in the same forms; no shape stage then")
    masks.add_argument("--occluder", metavar="PATH", help="masks of what is in front, one image for all, or 'others'")
    masks.add_argument("--detect", metavar="CLASS", help="follow objects of this class instead of --masks")
    masks.add_argument("--tracker", metavar="RECIPE", help="a recipe that tracks, for --detect")
    masks.add_argument("--tracker-weights", metavar="FILE", help="its checkpoint")
    masks.add_argument("--score-threshold", type=float, default=0.5, help="of --detect (default %(default)s)")


def parse() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        description="Complete the hidden part of an object in a video: its shape, its motion, and its colours.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_sources(parser)
    stages = parser.add_argument_group("stages")
    for part, what in (("shape", "complete masks"), ("flow", "flow"), ("content", "colours")):
        stages.add_argument(f"--{part}", metavar="RECIPE=CHECKPOINT", help=f"trained network for {what}")
    stages.add_argument("--flow-backend", default="dis", metavar="WHAT", help="dis (default), farneback, raft:FILE, precomputed:DIR")  # fmt: skip # noqa: E501
    stages.add_argument("--no-flow", action="store_true", help="propagate nothing: all colours are made up")
    stages.add_argument("--category", type=int, metavar="INDEX", help="class index for --shape (default: unknown)")
    how = parser.add_argument_group("running")
    how.add_argument("--window", type=int, default=40, metavar="N", help="frames of a run (default %(default)s)")
    how.add_argument("--margin", type=int, default=10, metavar="N", help="overlap at its ends (default %(default)s)")
    how.add_argument("--working-size", type=_size, default=(432, 240), metavar="WxH", help="pixels that the object's surroundings are scaled down to, if they have more (default 432x240)")  # fmt: skip # noqa: E501
    how.add_argument("--fps", type=float, default=10.0, help="of videos made from a folder (default %(default)s)")
    how.add_argument("--fp16", action="store_true", help="networks in half precision (bfloat16 on the CPU)")
    how.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, ... (default auto)")
    how.add_argument("--seed", type=int, default=0, help="of whatever is random (default %(default)s)")
    how.add_argument("--resume", action="store_true", help="go on where an earlier run stopped")
    how.add_argument("--save-intermediate", action="store_true", help="also flows, origins of colours, and pictures")
    how.add_argument("--dry-run", action="store_true", help="check everything and say what would be done")
    return parser


def _wrong_usage(args: argparse.Namespace) -> str | None:
    """What is wrong with the flags taken together."""
    if (args.masks is None) == (args.detect is None):
        return "give the object's masks (--masks), or a class to follow (--detect), and not both"
    if args.detect and not (args.tracker and args.tracker_weights):
        return "--detect needs a recipe that tracks and its checkpoint: --tracker and --tracker-weights"
    if not args.detect and (args.tracker or args.tracker_weights):
        return "--tracker and --tracker-weights go with --detect"
    if not (args.amodal or args.shape or args.occluder):
        return (
            "where is the hidden part? Give the complete masks (--amodal), a trained network (--shape), or what is in "
            "front (--occluder, 'others' for all other objects)"
        )
    if args.amodal and args.shape:
        return "--amodal gives the complete masks that --shape would find: leave one out"
    if args.fps <= 0:
        return "--fps is more than 0"
    return None


def main() -> int:
    """Parse and run; a mistake of the user is one sentence."""
    parser = parse()
    args = parser.parse_args()
    if wrong := _wrong_usage(args):
        parser.error(wrong)
    try:
        run(args)
    except USER_MISTAKES as error:
        parser.exit(2, f"{parser.prog}: error: {describe(error, args.output)}\n")
    except KeyboardInterrupt:
        parser.exit(130, f"{parser.prog}: interrupted; the same command with --resume goes on\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
