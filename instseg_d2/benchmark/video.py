"""What a frame of a video costs: one recipe against another, and late frames against early ones."""

import copy
import gc
import math
from collections.abc import Sequence
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType

import torch
from detectron2.config import instantiate
from torch import nn
from tqdm import tqdm

from instseg_d2.model_zoo import get_config

from .compare import Step, compare, resident_bytes
from .models import blurry_image, landscape, make_it_detect
from .thresholds import lower_thresholds

_MIB = 2**20
# What leads to all of Python, and holds no memory of a video.
_CODE = (type, FunctionType, BuiltinFunctionType, MethodType, ModuleType)
# How many detections a detector keeps of an image, by the name of the attribute.
_LIMITS = ("test_topk_per_image", "max_detections_per_image")


class MovingPicture:
    """An endless video, the same each time: a window that wanders over a large picture.

    Args:
        size: short edge of a frame, pixels.
    """

    def __init__(self, size: int) -> None:
        self.height, self.width = landscape(size)
        self._reach = size // 2
        self._picture = blurry_image(self.height + self._reach, self.width + self._reach)

    def frame(self, number: int) -> dict:
        """Input of a video model: `image` (3, H, W) uint8, `height` and `width`."""
        # Two periods that do not fit into each other.
        y, x = (round(self._reach * (1 + math.sin(number / period)) / 2) for period in (17.0, 29.0))
        image = self._picture[:, y : y + self.height, x : x + self.width].contiguous()
        return {"image": image, "height": self.height, "width": self.width}


class Player:
    """Takes the next frame of a video through a model each time it is called.

    Args:
        name: of the model.
        model: with `reset()` and `step(frame)`; it is put into evaluation mode.
        video: the frames.

    Attributes:
        number: of the next frame, from 0 on.
        detections, tracks: how many there were in all frames so far.

    Raises:
        ValueError: the model does not follow objects through a video.
    """

    def __init__(self, name: str, model: nn.Module, video: MovingPicture) -> None:
        if not hasattr(model, "step"):
            raise ValueError(f"{type(model).__name__} has no step(): compare models of single images with `models`")
        self.name = name
        self.model = model.eval()
        self.video = video
        self.restart()

    def restart(self) -> None:
        """Start the video again; the model forgets what it saw."""
        self.number = self.detections = self.tracks = 0
        self.model.reset()

    @torch.inference_mode()
    def __call__(self) -> None:
        found = self.model.step(self.video.frame(self.number))
        self.number += 1
        self.detections += len(found)
        self.tracks += int((found.pred_ids > 0).sum())

    def play(self, end: int) -> None:
        """Go on until frame `end` is the next one."""
        for _ in tqdm(range(self.number, end), desc=f"{self.name} to frame {end}", unit="frame"):
            self()

    def copied(self) -> "Player":
        """The same video at the same frame, with a model that remembers the same."""
        twin = copy.copy(self)
        twin.model = copy.deepcopy(self.model)
        return twin


def players(config_files: Sequence[str], *, size: int, objects: int, device: str) -> list[Player]:
    """Players of recipes, with random weights that detect; all look at the same video.

    What a recipe has in common with the first one has the same weights. So PCAN, whose frame level changes nothing
    before it is trained, finds the same objects as its baseline, and both have the same work to do with them.

    Args:
        config_files: of models that follow objects; the first one is made to detect.
        size: short edge of a frame, pixels.
        objects: detections of a frame, at most.
        device: of the models.
    """
    video = MovingPicture(size)
    made: list[Player] = []
    for name in config_files:
        torch.manual_seed(0)
        model = instantiate(get_config(name).model).to(device)
        limit_detections(model, objects)
        made.append(Player(name, model, video))
        if len(made) == 1:
            inputs = [video.frame(0)]
            detects = make_it_detect(model, inputs) or lower_thresholds(model, inputs)
            if not detects:
                raise ValueError(f"{name}: its detector is of no kind that can be made to detect with random weights")
        else:
            share_weights(made[0].model, model)
        made[-1].restart()
    return made


def limit_detections(model: nn.Module, count: int) -> None:
    """Let detectors of a model keep at most `count` detections of an image, in place."""
    for module in model.modules():
        for name in _LIMITS:
            if hasattr(module, name):
                setattr(module, name, min(getattr(module, name), count))


def share_weights(source: nn.Module, target: nn.Module) -> int:
    """Copy what has the same name and shape from one model to another, and score thresholds.

    Returns:
        how many tensors were copied.
    """
    known = target.state_dict()
    common = {
        name: value for name, value in source.state_dict().items() if name in known and known[name].shape == value.shape
    }
    target.load_state_dict(common, strict=False)
    thresholds = {name: module.test_score_thresh for name, module in _with_threshold(source)}
    for name, module in _with_threshold(target):
        module.test_score_thresh = thresholds.get(name, module.test_score_thresh)
    return len(common)


def _with_threshold(model: nn.Module) -> list[tuple[str, nn.Module]]:
    return [(name, module) for name, module in model.named_modules() if hasattr(module, "test_score_thresh")]


def tensor_bytes(root: object) -> int:
    """Bytes of all tensors that an object leads to, such as weights and memory of a model, each storage once."""
    seen, storages, ahead = {id(root)}, {}, [root]
    while ahead:
        item = ahead.pop()
        # isinstance would also ask proxies for their class, which may import what they stand for.
        if issubclass(type(item), torch.Tensor):
            storage = item.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
        for other in gc.get_referents(item):
            if id(other) not in seen and not issubclass(type(other), _CODE):
                seen.add(id(other))
                ahead.append(other)
    return sum(storages.values())


def side_by_side(
    made: Sequence[Player], *, device: str, clock: str, rounds: int, repeats: int, warmup: int
) -> list[dict[str, object]]:
    """Let players take turns, frame by frame, and print how much each of them found.

    Args:
        made: two or more; the first one is B of every ratio.
        device: where they run.
        clock: see `Step`.
        rounds: see `alternate`.
        repeats: see `alternate`.
        warmup: frames of each that do not count; more than a model remembers, whose first frames are cheaper.

    Returns:
        Rows, see `compare`.
    """
    steps = [Step(one.name, one, device, clock) for one in made]
    pairs = [(index, 0) for index in range(1, len(steps))]
    rows = compare(steps, pairs, rounds=rounds, repeats=repeats, warmup=warmup, what=_title(made[0]))
    for one in made:
        found, tracks = one.detections / one.number, one.tracks / one.number
        print(f"{one.name}: {found:.1f} detections a frame, {tracks:.1f} of them in a track")
    return rows


def late_and_early(
    player: Player, *, early: int, late: int, device: str, clock: str, rounds: int, repeats: int
) -> list[dict[str, object]]:
    """Let a model far into a video take turns with its twin that stayed behind; print by how much memory grew.

    Args:
        player: starts again.
        early: frame from which the twin goes on.
        late: frame from which the model goes on.
        device: where they run.
        clock: see `Step`.
        rounds: see `alternate`.
        repeats: see `alternate`.

    Returns:
        One row, see `compare`: A is late, B early.

    Raises:
        ValueError: `late` is not above `early`.
    """
    if not 0 <= early < late:
        raise ValueError(f"frames {early} and {late}: the first of them must be lower")
    player.restart()
    player.play(early)
    twin = player.copied()
    on_cuda = torch.device(device).type == "cuda"
    before = _held(player.model, on_cuda)
    player.play(late)
    grown = zip(_held(player.model, on_cuda), before, strict=True)
    tensors, everything = ((after - value) / _MIB for after, value in grown)
    print(
        f"{player.name}, from frame {early} to {late}: tensors of the model {tensors:+.3f} MiB, "
        f"{'the allocator of CUDA' if on_cuda else 'the process'} {everything:+.1f} MiB"
    )
    pair = [Step(f"{player.name} from frame {n}", run, device, clock) for n, run in ((late, player), (early, twin))]
    what = f"{_title(player)}, late and early"
    return compare(pair, [(0, 1)], rounds=rounds, repeats=repeats, warmup=0, what=what)


def _title(player: Player) -> str:
    return f"video, a frame of {player.video.width}x{player.video.height}"


def _held(model: nn.Module, on_cuda: bool) -> tuple[float, float]:
    """Bytes of a model's tensors; and of the process, NaN where it is not Linux, or what CUDA's allocator gave out."""
    if on_cuda:
        return tensor_bytes(model), torch.cuda.memory_allocated()
    try:
        return tensor_bytes(model), resident_bytes("VmRSS")
    except OSError:
        return tensor_bytes(model), math.nan
