import cv2
import numpy as np
import pytest
import torch
from torch.nn import functional as F
from torchvision.models.optical_flow import raft_small

from instseg_d2.data.synthetic import occvideo, video_formats
from instseg_d2.inpainting.clips import from_bytes
from instseg_d2.inpainting.errors import InpaintingError
from instseg_d2.inpainting.flow.backends import (
    CachedFlow,
    DISFlow,
    FarnebackFlow,
    PairwiseFlow,
    PrecomputedFlow,
    RAFTFlow,
    flow_backend,
    read_flow,
    write_flow,
)


def shifted(dx, dy, height=120, width=216):
    """Two frames of a texture, of which the second shows it `dx` to the right and `dy` down; quantized to 8 bits."""
    rng = np.random.default_rng(0)
    noise = sum(
        cv2.resize(
            rng.random((height // cell + 8, width // cell + 8, 3)),
            (width + 40, height + 40),
            interpolation=cv2.INTER_CUBIC,
        )
        for cell in (4, 8, 16)
    )
    texture = (255 * (noise - noise.min()) / np.ptp(noise)).astype(np.uint8)
    frames = [texture[20:-20, 20:-20], texture[20 - dy : -20 - dy, 20 - dx : -20 - dx]]
    return from_bytes(torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2))


def end_point_error(flow, dx, dy):
    """Mean over the pixels that neither frame loses."""
    return float((flow - torch.tensor([dx, dy]).reshape(1, 2, 1, 1)).norm(dim=1)[:, 20:-20, 20:-20].mean())


@pytest.mark.parametrize(
    ("backend", "shift", "limit"),
    [
        (DISFlow(), (2, 1), 0.15),
        (DISFlow(), (6, 3), 0.15),
        (DISFlow(), (15, 7), 0.3),
        (DISFlow(finest_scale=0), (6, 3), 0.15),
        (DISFlow(preset="fast"), (6, 3), 1.0),
        (FarnebackFlow(), (2, 1), 0.5),
    ],
)
def test_known_translation(backend, shift, limit):
    forward, backward = backend.flows(shifted(*shift))
    assert forward.shape == backward.shape == (1, 2, 120, 216)
    assert end_point_error(forward, *shift) < limit
    assert end_point_error(backward, -shift[0], -shift[1]) < limit


@pytest.mark.parametrize("backend", [DISFlow(), FarnebackFlow()])
def test_images_of_8_pixels(backend):
    forward, backward = backend.flows(torch.rand(3, 3, 8, 8) * 2 - 1)
    assert forward.shape == backward.shape == (2, 2, 8, 8)
    assert forward.isfinite().all()


def test_one_frame_has_no_flow():
    forward, backward = DISFlow().flows(torch.zeros(1, 3, 16, 20))
    assert forward.shape == backward.shape == (0, 2, 16, 20)


def test_unknown_preset():
    with pytest.raises(InpaintingError, match="medium, fast or ultrafast|ultrafast, fast, medium"):
        DISFlow(preset="slow")


def test_names_tell_settings_apart():
    backends = [DISFlow(), DISFlow(preset="fast"), DISFlow(finest_scale=0), FarnebackFlow(), FarnebackFlow(levels=3)]
    assert len({backend.name for backend in backends}) == 5


@pytest.fixture
def raft_file(tmp_path):
    torch.manual_seed(0)
    network = raft_small(weights=None).eval()
    torch.save(network.state_dict(), tmp_path / "raft.pth")
    return tmp_path / "raft.pth", network


def test_raft_of_a_file(raft_file):
    path, network = raft_file
    frames = torch.rand(2, 3, 50, 130) * 2 - 1
    forward, backward = RAFTFlow(weights=str(path), updates=1).flows(frames)
    with torch.no_grad():
        # Its sizes are multiples of 8, and at least 128.
        padded = F.pad(frames, (0, 6, 0, 78), mode="replicate")
        expected = network(padded[:1], padded[1:], num_flow_updates=1)[-1][..., :50, :130]
    torch.testing.assert_close(forward, expected)
    assert backward.shape == (1, 2, 50, 130)
    assert not torch.allclose(forward, backward)


def test_raft_stays_fp32_under_autocast(raft_file):
    backend = RAFTFlow(weights=str(raft_file[0]), updates=1)
    first, second = torch.rand(2, 3, 16, 16) * 2 - 1
    expected = backend.estimate(first, second)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(backend.estimate(first, second), expected)


def test_missing_and_foreign_raft_files(tmp_path):
    with pytest.raises(InpaintingError, match=r"no RAFT weights at .*fetch raft_small_C_T_V2-01064c6d.pth.*'dis'"):
        RAFTFlow(weights=str(tmp_path / "raft.pth"))
    torch.save({"weight": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(InpaintingError, match="other.pth' does not hold weights"):
        RAFTFlow(weights=str(tmp_path / "other.pth"))
    (tmp_path / "text.pth").write_text("no weights")
    with pytest.raises(InpaintingError, match="text.pth' does not hold weights"):
        RAFTFlow(weights=str(tmp_path / "text.pth"))


class Counting(PairwiseFlow):
    name = "counting"

    def __init__(self):
        self.calls = 0

    def estimate(self, first, second):
        self.calls += 1
        return torch.stack([first[0], second[1]]) * 3


def test_cache_computes_each_pair_once(tmp_path):
    frames = from_bytes(torch.randint(0, 256, (3, 3, 10, 12), dtype=torch.uint8))
    counting = Counting()
    expected = counting.flows(frames)
    counting.calls = 0
    for _ in range(2):
        found = CachedFlow(backend=counting, folder=str(tmp_path / "cache")).flows(frames)
        assert counting.calls == 4
        assert torch.equal(found[0], expected[0])
        assert torch.equal(found[1], expected[1])
    frames[1, 0, 0, 0] = -frames[1, 0, 0, 0]
    CachedFlow(backend=counting, folder=str(tmp_path / "cache")).flows(frames)
    assert counting.calls == 8


def test_cache_keeps_backends_apart(tmp_path):
    frames = shifted(2, 1, 40, 48)
    for preset in ("medium", "ultrafast"):
        CachedFlow(backend=DISFlow(preset=preset), folder=str(tmp_path)).flows(frames)
    assert len(list(tmp_path.glob("*.npy"))) == 4


@pytest.mark.parametrize("suffix", [".flo", ".npy"])
def test_files_come_back_exactly(tmp_path, suffix):
    flow = torch.randn(2, 7, 9) * 30
    write_flow(tmp_path / f"flow{suffix}", flow)
    found = read_flow(tmp_path / f"flow{suffix}")
    assert found.dtype == np.float32
    assert torch.equal(torch.from_numpy(found).permute(2, 0, 1), flow)
    assert [path.name for path in tmp_path.iterdir()] == [f"flow{suffix}"]


def test_flo_files_are_opencvs(tmp_path):
    flow = torch.randn(2, 7, 9)
    write_flow(tmp_path / "flow.flo", flow)
    np.testing.assert_array_equal(cv2.readOpticalFlow(str(tmp_path / "flow.flo")), flow.permute(1, 2, 0).numpy())


@pytest.mark.parametrize("suffix", [".flo", ".npy"])
def test_broken_files_are_named(tmp_path, suffix):
    path = tmp_path / f"flow{suffix}"
    with pytest.raises(InpaintingError, match=f"cannot read flow from .*flow{suffix}"):
        read_flow(path)
    path.write_bytes(b"no flow at all")
    with pytest.raises(InpaintingError, match=f"cannot read flow from .*flow{suffix}"):
        read_flow(path)
    if suffix == ".npy":
        np.save(path, np.zeros((4, 5)))
        with pytest.raises(InpaintingError, match=r"it holds an array \(4, 5\)"):
            read_flow(path)


def test_precomputed_flow_of_a_generated_video(tmp_path):
    video = occvideo(0, 0, frames=4, size=32)
    video_formats.write_flow(tmp_path, video)
    backend = flow_backend(f"precomputed:{tmp_path}")
    forward, backward = backend.flows(torch.zeros(4, 3, 32, 32))
    for found, expected in ((forward, video.forward_flow), (backward, video.backward_flow)):
        np.testing.assert_array_equal(found.permute(0, 2, 3, 1).numpy(), expected)
    later, back = backend.flows(torch.zeros(2, 3, 32, 32), start=2)
    assert torch.equal(later, forward[2:])
    assert torch.equal(back, backward[2:])


def test_precomputed_flow_of_arrays(tmp_path):
    flows = torch.randn(2, 2, 2, 6, 8)
    for direction, flow in zip(("forward", "backward"), flows, strict=True):
        (tmp_path / direction).mkdir()
        for number, one in enumerate(flow):
            write_flow(tmp_path / direction / f"{number:03d}.npy", one)
    backend = PrecomputedFlow(folder=str(tmp_path))
    forward, backward = backend.flows(torch.zeros(3, 3, 6, 8))
    assert torch.equal(forward, flows[0])
    assert torch.equal(backward, flows[1])
    with pytest.raises(InpaintingError, match="flow for 2 pairs of frames, but the video has frame 3"):
        backend.flows(torch.zeros(4, 3, 6, 8))
    with pytest.raises(InpaintingError, match=r"000.npy' is flow of 6 x 8 px, the frames are 6 x 10 px"):
        backend.flows(torch.zeros(2, 3, 6, 10))
    write_flow(tmp_path / "forward" / "000.flo", flows[0, 0])
    with pytest.raises(InpaintingError, match="both .flo and .npy"):
        PrecomputedFlow(folder=str(tmp_path))


def test_folder_without_flow(tmp_path):
    with pytest.raises(InpaintingError, match="forward' has no .flo and no .npy files"):
        PrecomputedFlow(folder=str(tmp_path))


def test_backends_by_their_names(raft_file):
    assert isinstance(flow_backend("dis"), DISFlow)
    assert isinstance(flow_backend("farneback"), FarnebackFlow)
    assert isinstance(flow_backend(f"raft:{raft_file[0]}"), RAFTFlow)
    for text in ("raft", "raft:", "precomputed", "pwc", "dis:fast"):
        with pytest.raises(InpaintingError, match="give dis, farneback, raft:PATH or precomputed:FOLDER"):
            flow_backend(text)
