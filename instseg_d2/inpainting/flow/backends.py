"""Where optical flow comes from: OpenCV, a trained RAFT, or files. Nothing is downloaded."""

import hashlib
from abc import ABC, abstractmethod
from pathlib import Path

import cv2
import numpy as np
import torch
from torch.nn import functional as F
from torchvision.models import optical_flow

from instseg_d2.files import replacing

from ..clips import to_bytes
from ..errors import InpaintingError

_DIS_PRESETS = {
    "ultrafast": cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST,
    "fast": cv2.DISOPTICAL_FLOW_PRESET_FAST,
    "medium": cv2.DISOPTICAL_FLOW_PRESET_MEDIUM,
}
# DIS refuses images smaller than its pyramid of 8 px patches.
_DIS_SMALLEST = 16
# RAFT correlates maps of 1/8 on four levels, and takes multiples of 8 alone.
_RAFT_SMALLEST, _RAFT_MULTIPLE = 128, 8
_RAFT_FILES = "raft_small_C_T_V2-01064c6d.pth or raft_large_C_T_SKHT_V2-ff5fadd5.pth"


class FlowBackend(ABC):
    """A source of optical flow.

    `name` says which one with which settings: flow of another name is another flow. It goes into checkpoints, since a
    network that completes the flow of one backend does not know the mistakes of another.
    """

    name: str

    @abstractmethod
    def flows(self, frames: torch.Tensor, start: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
        """Flow between all neighbours of one clip.

        Args:
            frames: (T, 3, H, W) float RGB in [-1, 1]; T may be 1.
            start: number of the first frame in its video.

        Returns:
            Forward and backward flow, (T - 1, 2, H, W) float32 pixels each, on the device of `frames`: entry t leads
            from frame t to t + 1, and from t + 1 to t.
        """


class PairwiseFlow(FlowBackend):
    """Flow that is estimated from two images."""

    @abstractmethod
    def estimate(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        """The flow from `first` to `second`.

        Args:
            first: (3, H, W) float RGB in [-1, 1], of any size.
            second: same shape.

        Returns:
            (2, H, W) float32 pixels, on the device of `first`.
        """

    @torch.no_grad()
    def flows(self, frames: torch.Tensor, start: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
        empty = frames.new_zeros(0, 2, *frames.shape[-2:], dtype=torch.float32)
        if len(frames) < 2:
            return empty, empty
        pairs = list(zip(frames[:-1], frames[1:], strict=True))
        forward = torch.stack([self.estimate(first, second) for first, second in pairs])
        backward = torch.stack([self.estimate(second, first) for first, second in pairs])
        return forward, backward


def _grey(frame: torch.Tensor, smallest: int = 1) -> np.ndarray:
    """(H, W) uint8 for OpenCV, extended below and at the right to at least `smallest` pixels a side."""
    image = cv2.cvtColor(to_bytes(frame).permute(1, 2, 0).cpu().numpy(), cv2.COLOR_RGB2GRAY)
    below, right = (max(smallest - side, 0) for side in image.shape)
    return cv2.copyMakeBorder(image, 0, below, 0, right, cv2.BORDER_REPLICATE) if below or right else image


def _as_flow(flow: np.ndarray, frame: torch.Tensor) -> torch.Tensor:
    height, width = frame.shape[-2:]
    return torch.from_numpy(np.moveaxis(flow[:height, :width], -1, 0).copy()).to(frame.device)


class DISFlow(PairwiseFlow):
    """Dense inverse search of OpenCV (arXiv:1603.03590): no weights, about 10 ms a pair at 432 x 240.

    Args:
        preset: `medium`, `fast` or `ultrafast`.
        finest_scale: pyramid level where the search ends; 0 is full resolution, for thin objects, at 2.5 times the
            cost of medium's 1. None: that of the preset.

    Raises:
        InpaintingError: the preset is unknown.
    """

    def __init__(self, *, preset: str = "medium", finest_scale: int | None = None):
        if preset not in _DIS_PRESETS:
            raise InpaintingError(f"DIS has the presets {', '.join(_DIS_PRESETS)}; got '{preset}'")
        self.preset = preset
        self.finest_scale = finest_scale
        self.name = f"dis-{preset}" + ("" if finest_scale is None else f"-scale{finest_scale}")

    def estimate(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        # Made anew for each pair: the object keeps buffers of the images' size, and cannot be copied to a worker.
        dis = cv2.DISOpticalFlow_create(_DIS_PRESETS[self.preset])
        if self.finest_scale is not None:
            dis.setFinestScale(self.finest_scale)
        return _as_flow(dis.calc(_grey(first, _DIS_SMALLEST), _grey(second, _DIS_SMALLEST), None), first)


class FarnebackFlow(PairwiseFlow):
    """Farneback's polynomial expansion in OpenCV: no weights; slower and less exact than DIS, kept to compare with.

    Args:
        levels: of the pyramid.
        window: side of the averaging window, pixels.
    """

    def __init__(self, *, levels: int = 5, window: int = 15):
        self.levels = levels
        self.window = window
        self.name = f"farneback-levels{levels}-window{window}"

    def estimate(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        flow = cv2.calcOpticalFlowFarneback(
            _grey(first),
            _grey(second),
            None,
            pyr_scale=0.5,
            levels=self.levels,
            winsize=self.window,
            iterations=3,
            poly_n=5,
            poly_sigma=1.2,
            flags=0,
        )
        return _as_flow(flow, first)


class RAFTFlow(PairwiseFlow):
    """RAFT of torchvision (arXiv:2003.12039) with weights from a file; the file tells whether it is small or large.

    Args:
        weights: path of a state dict of torchvision's `raft_small` or `raft_large`.
        updates: refinement steps; 12 is torchvision's number, 20 that of flow-guided inpainting.
        device: where it runs.

    Raises:
        InpaintingError: the file is missing or holds something else.
    """

    def __init__(self, *, weights: str, updates: int = 12, device: str = "cpu"):
        path = Path(weights)
        if not path.is_file():
            raise InpaintingError(
                f"no RAFT weights at '{path}': fetch {_RAFT_FILES} from https://download.pytorch.org/models/ "
                "and give its path, or use the flow 'dis', which needs none"
            )
        self.network = _load_raft(path).eval().requires_grad_(False).to(device)
        self.updates = updates
        self.name = f"raft-{hashlib.sha256(path.read_bytes()).hexdigest()[:8]}-updates{updates}"

    @torch.no_grad()
    def estimate(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        height, width = first.shape[-2:]
        below, right = (max(-side % _RAFT_MULTIPLE, _RAFT_SMALLEST - side) for side in (height, width))
        device = next(self.network.parameters()).device
        pair = torch.stack([first, second]).to(device, torch.float32)
        pair = F.pad(pair, (0, right, 0, below), mode="replicate")
        # In half precision the correlations lose sub-pixel accuracy.
        with torch.autocast(device.type, enabled=False):
            flow = self.network(pair[:1], pair[1:], num_flow_updates=self.updates)[-1][0]
        return flow[:, :height, :width].to(first.device)


def _load_raft(path: Path) -> torch.nn.Module:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        # The widths of the first stage differ.
        wide = state["feature_encoder.convnormrelu.0.weight"].shape[0] == 64
        network = (optical_flow.raft_large if wide else optical_flow.raft_small)(weights=None)
        network.load_state_dict(state)
    except Exception as error:
        raise InpaintingError(f"'{path}' does not hold weights of torchvision's RAFT: {error}") from error
    return network


class PrecomputedFlow(FlowBackend):
    """Flow from files: `folder/forward/*.flo` and `folder/backward/*.flo` (Middlebury) or `*.npy`, (H, W, 2) float.

    Sorted by name, the files of `forward` start in frames 0, 1, ..., and those of `backward` in frames 1, 2, ...

    Args:
        folder: that holds both.

    Raises:
        InpaintingError: a folder is missing, empty, or has files of both kinds.
    """

    def __init__(self, *, folder: str):
        self.folder = Path(folder)
        self.files = {direction: _flow_files(self.folder / direction) for direction in ("forward", "backward")}
        self.name = f"precomputed-{self.folder.name}"

    @torch.no_grad()
    def flows(self, frames: torch.Tensor, start: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
        count = len(frames) - 1
        result = frames.new_zeros(2, count, 2, *frames.shape[-2:], dtype=torch.float32)
        for direction, flows in zip(("forward", "backward"), result, strict=True):
            files = self.files[direction][start : start + count]
            if len(files) < count:
                raise InpaintingError(
                    f"'{self.folder / direction}' has flow for {len(self.files[direction])} pairs of frames, "
                    f"but the video has frame {start + count}: give one file for every two neighbours"
                )
            for flow, path in zip(flows, files, strict=True):
                flow.copy_(torch.from_numpy(_read_sized(path, *frames.shape[-2:])).permute(2, 0, 1))
        return result[0], result[1]


def _flow_files(folder: Path) -> list[Path]:
    kinds = {suffix: sorted(folder.glob(f"*{suffix}")) for suffix in (".flo", ".npy")}
    found = [files for files in kinds.values() if files]
    if len(found) != 1:
        reason = "both .flo and .npy files" if found else "no .flo and no .npy files"
        raise InpaintingError(f"'{folder}' has {reason}; it must hold one kind, a file for every two neighbours")
    return found[0]


def _read_sized(path: Path, height: int, width: int) -> np.ndarray:
    flow = read_flow(path)
    if flow.shape[:2] != (height, width):
        raise InpaintingError(
            f"'{path}' is flow of {flow.shape[0]} x {flow.shape[1]} px, the frames are {height} x {width} px: "
            "give frames of that size, or the flow of these frames"
        )
    return flow


def read_flow(path: Path) -> np.ndarray:
    """Read a `.flo` (Middlebury) or `.npy` file.

    Returns:
        (H, W, 2) float32 pixels, x then y.

    Raises:
        InpaintingError: it cannot be read, or holds something else.
    """
    try:
        flow = np.load(path, allow_pickle=False) if path.suffix == ".npy" else cv2.readOpticalFlow(str(path))
    except (OSError, ValueError, EOFError, cv2.error) as error:
        raise InpaintingError(f"cannot read flow from '{path}': {error}") from error
    if flow is None or flow.ndim != 3 or flow.shape[2] != 2:
        shape = "nothing" if flow is None or not flow.size else f"an array {flow.shape}"
        raise InpaintingError(f"cannot read flow from '{path}': it holds {shape}, flow is (H, W, 2)")
    return np.ascontiguousarray(flow, dtype=np.float32)


def write_flow(path: Path, flow: torch.Tensor) -> None:
    """Write a flow (2, H, W), pixels, as `.flo` (Middlebury) or `.npy`, (H, W, 2) float32; whole or not at all.

    Raises:
        OSError: it cannot be written; the error names the file.
    """
    array = np.ascontiguousarray(flow.detach().float().permute(1, 2, 0).cpu().numpy())
    with replacing(path) as partial:
        if path.suffix == ".npy":
            with partial.open("wb") as file:
                np.save(file, array)
        else:
            height, width = array.shape[:2]
            header = np.float32(202021.25).tobytes() + np.int32([width, height]).tobytes()
            partial.write_bytes(header + array.tobytes())


class CachedFlow(PairwiseFlow):
    """Flow that is computed once for two images and then read from a folder.

    Files are `.npy`, named by a hash of both images (8 bits a channel) and of the backend's name, so a folder may serve
    many videos and backends.

    Args:
        backend: what computes it.
        folder: of the files; made when missing.
    """

    def __init__(self, *, backend: PairwiseFlow, folder: str):
        self.backend = backend
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.name = backend.name

    def estimate(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        path = self.folder / f"{self._key(first, second)}.npy"
        if path.is_file():
            return torch.from_numpy(_read_sized(path, *first.shape[-2:])).permute(2, 0, 1).to(first.device)
        flow = self.backend.estimate(first, second)
        write_flow(path, flow)
        return flow

    def _key(self, first: torch.Tensor, second: torch.Tensor) -> str:
        digest = hashlib.sha256(f"{self.name} {tuple(first.shape)}".encode())
        for frame in (first, second):
            digest.update(to_bytes(frame).cpu().numpy().tobytes())
        return digest.hexdigest()[:32]


def flow_backend(text: str, *, device: str = "cpu") -> FlowBackend:
    """The backend that a command line names.

    Args:
        text: `dis`, `farneback`, `raft:PATH` (a file of weights) or `precomputed:FOLDER`.
        device: where RAFT runs.

    Raises:
        InpaintingError: the text is none of these, or the file or folder is not what is needed.
    """
    kind, _, path = text.partition(":")
    if text == "dis":
        return DISFlow()
    if text == "farneback":
        return FarnebackFlow()
    if kind == "raft" and path:
        return RAFTFlow(weights=path, device=device)
    if kind == "precomputed" and path:
        return PrecomputedFlow(folder=path)
    raise InpaintingError(f"unknown flow '{text}': give dis, farneback, raft:PATH or precomputed:FOLDER")
