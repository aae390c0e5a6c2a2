"""What attention over time costs: multiply-adds and memory of three kinds, by length of the clip (PCAN, Table 5.5)."""

import functools
import math
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

from instseg_d2.modeling.meta_arch.pcan.attention import PrototypicalAttention
from instseg_d2.modeling.meta_arch.pcan.frame_attention import FrameAttention
from instseg_d2.modeling.meta_arch.pcan.rivals import SpaceTimeMemory, TemporalSelfAttention

from .compare import peak_memory

LEVELS = {"p3": 8, "p4": 16, "p5": 32}
# With these widths, all levels as one set, and 640x360 px the multiply-adds are those of Table 5.5, nearly.
_CHANNELS = 256
ATTENTIONS: dict[str, Callable[[], nn.Module]] = {
    "prototypical": lambda: PrototypicalAttention(channels=_CHANNELS, num_prototypes=128, iterations=6),
    "non-local": lambda: SpaceTimeMemory(channels=_CHANNELS),
    "transformer": lambda: TemporalSelfAttention(
        channels=_CHANNELS, num_layers=2, num_heads=8, dim_feedforward=2 * _CHANNELS
    ),
}
# GFLOPs and MB by attention and frames, as printed.
PAPER = {
    "prototypical": {2: (5.8, 323), 4: (12.0, 652), 8: (23.7, 1419)},
    "non-local": {2: (24.3, 2497), 4: (49.1, 4763), 8: (99.6, 9631)},
    "transformer": {2: (103.8, 5321), 4: (387.2, 9844), 8: (1413.3, 18762)},
}


def _storages(tree: object) -> list[torch.UntypedStorage]:
    return [leaf.untyped_storage() for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]


class LiveStorage(TorchDispatchMode):
    """Counts the bytes of all storages that are made inside of it, and not yet freed; with fake tensors too.

    Attributes:
        live: bytes now.
        peak: the most so far.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._known: weakref.WeakValueDictionary = weakref.WeakValueDictionary()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        # What comes in and is not known was there before.
        for storage in _storages((args, kwargs)):
            self._known.setdefault(id(storage), storage)
        result = func(*args, **(kwargs or {}))
        for storage in _storages(result):
            if id(storage) not in self._known:
                self._add(storage)
        return result

    def _add(self, storage: torch.UntypedStorage) -> None:
        self._known[id(storage)] = storage
        size = storage.nbytes()
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._remove, size)

    def _remove(self, size: int) -> None:
        self.live -= size


@dataclass(frozen=True)
class Cost:
    """Of one clip: multiply-adds in 1e9 of the forward pass, and peak MiB (None: does not fit on the device)."""

    attention: str
    length: int
    gflops: float
    memory: float | None


def level_sizes(height: int, width: int) -> dict[str, tuple[int, int]]:
    """(height, width) of each level's map, for an image that is not padded."""
    return {name: (math.ceil(height / stride), math.ceil(width / stride)) for name, stride in LEVELS.items()}


def _clip(length: int, size: tuple[int, int], is_training: bool) -> list[dict[str, torch.Tensor]]:
    """Feature maps of one video's frames; in training the backbone wants their gradients."""
    sizes = level_sizes(*size)
    return [
        {name: torch.randn(1, _CHANNELS, *of_map, requires_grad=is_training) for name, of_map in sizes.items()}
        for _ in range(length)
    ]


class _ClipModel(nn.Module):
    """Keeps what the attention keeps of all frames but the last, and fuses it with that."""

    def __init__(self, frames: FrameAttention) -> None:
        super().__init__()
        self.frames = frames

    def forward(self, clip: Sequence[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        fused, _ = self.frames(clip[-1], [self.frames.encode(frame) for frame in clip[:-1]])
        return fused


def _run(model: Callable, clip: Sequence[dict[str, torch.Tensor]], is_training: bool) -> None:
    """Forward, and in training backward too."""
    with torch.set_grad_enabled(is_training):
        fused = model(clip)
    if is_training:
        sum(level.sum() for level in fused.values()).backward()


def measure(
    attention: str,
    length: int,
    *,
    size: tuple[int, int] = (360, 640),
    joined: bool = True,
    is_training: bool = True,
    device: str = "cpu",
) -> Cost:
    """What a clip costs: one video, float32, the attention alone.

    Counting is done with fake tensors, which hold nothing: attention that no machine could hold is counted alike.

    Args:
        attention: of `ATTENTIONS`.
        length: frames, the current one included.
        size: (height, width) of the frames in pixels.
        joined: the pixels of all levels are one set.
        is_training: memory of forward and backward pass; else of the forward pass without gradients.
        device: on CUDA memory is what the allocator hands out for a real run, above features and weights; elsewhere
            the live storage of a run with fake tensors.
    """
    frames = FrameAttention(in_features=list(LEVELS), attention=ATTENTIONS[attention](), length=length, joined=joined)
    model = _ClipModel(frames).train(is_training)
    with FakeTensorMode() as fakes:
        state = {name: fakes.from_tensor(value) for name, value in model.state_dict(keep_vars=True).items()}
        fake_model = functools.partial(_call, model, state)
        clip = _clip(length, size, is_training=False)
        with FlopCounterMode(display=False) as flops:
            _run(fake_model, clip, is_training=False)
        clip = _clip(length, size, is_training)
        with LiveStorage() as storage:
            _run(fake_model, clip, is_training)
    memory = storage.peak / 2**20
    if torch.device(device).type == "cuda":
        memory = _peak_on_cuda(model.to(device), length, size, is_training)
    # torch counts a multiply-add as two.
    return Cost(attention, length, flops.get_total_flops() / 2e9, memory)


def _call(model: nn.Module, state: dict[str, torch.Tensor], clip: Sequence[dict]) -> dict[str, torch.Tensor]:
    return functional_call(model, state, (clip,))


def _peak_on_cuda(model: nn.Module, length: int, size: tuple[int, int], is_training: bool) -> float | None:
    device = next(model.parameters()).device
    try:
        with device:
            _run(model, _clip(length, size, is_training), is_training)  # Libraries take their workspaces.
            model.zero_grad()
            clip = _clip(length, size, is_training)
        return peak_memory(functools.partial(_run, model, clip, is_training), on_cuda=True)
    except torch.OutOfMemoryError:
        return None


def measure_all(lengths: Sequence[int], **options) -> list[Cost]:
    """`measure` each attention with each length, and show progress.

    Args:
        lengths: of clips.
        options: of `measure`.

    Raises:
        ValueError: a length below 2, or an image without pixels.
    """
    if min(lengths) < 2 or min(options.get("size", (1,))) < 1:
        raise ValueError("a clip has at least 2 frames, a frame at least 1x1 pixel")
    cases = [(attention, length) for attention in ATTENTIONS for length in lengths]
    return [measure(*case, **options) for case in tqdm(cases, desc="measure", unit="clip")]


def rows(costs: Sequence[Cost], what: str) -> list[dict[str, object]]:
    """Each length's prototypical attention (A) beside each of the others (B), as rows of the benchmark table."""
    found = {(cost.attention, cost.length): cost for cost in costs}
    return [
        {
            "what": f"{what}: {b.length} frames",
            "A": a.attention,
            "B": b.attention,
            "peak_MiB_A": a.memory,
            "peak_MiB_B": b.memory,
            "gflops_A": a.gflops,
            "gflops_B": b.gflops,
        }
        for b in costs
        if b.attention != "prototypical" and (a := found.get(("prototypical", b.length)))
    ]


def beside_the_paper(costs: Sequence[Cost]) -> str:
    """A line for each cost, with what is printed in Table 5.5 where it has that length."""
    lines = []
    for cost in costs:
        memory = "does not fit" if cost.memory is None else f"{cost.memory:.0f} MiB"
        line = f"{cost.attention}, {cost.length} frames: {cost.gflops:.2f} G multiply-adds, {memory}"
        if printed := PAPER[cost.attention].get(cost.length):
            line += f" (paper: {printed[0]} GFLOPs, {printed[1]} MB; {cost.gflops / printed[0] - 1:+.1%} FLOPs)"
        lines.append(line)
    return "\n".join(lines)
