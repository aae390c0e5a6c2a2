"""What attention over time costs: the figures of PCAN's Table 5.5, and the counters themselves."""

import csv
import importlib.util
import sys
from pathlib import Path

import pytest
import torch

from instseg_d2.benchmark import temporal
from instseg_d2.benchmark.temporal import ATTENTIONS, LEVELS, PAPER, LiveStorage, level_sizes, measure
from instseg_d2.modeling.meta_arch.pcan.attention import PrototypicalFilter
from instseg_d2.modeling.meta_arch.pcan.frame_attention import FrameAttention

ROOT = Path(__file__).resolve().parents[3]
LENGTHS = (2, 4, 8)
PIXELS = [3600, 920, 240]


@pytest.fixture(scope="module")
def costs():
    return {(name, length): measure(name, length) for name in ATTENTIONS for length in LENGTHS}


def frame_attention(name, length, joined=True):
    return FrameAttention(in_features=list(LEVELS), attention=ATTENTIONS[name](), length=length, joined=joined)


def test_levels_of_an_image_without_padding():
    assert level_sizes(360, 640) == {"p3": (45, 80), "p4": (23, 40), "p5": (12, 20)}
    assert [height * width for height, width in level_sizes(360, 640).values()] == PIXELS


@pytest.mark.parametrize(("name", "within"), [("prototypical", 0.05), ("non-local", 0.05), ("transformer", 0.1)])
@pytest.mark.parametrize("length", LENGTHS)
def test_closed_forms_give_table_5_5(name, length, within):
    assert frame_attention(name, length).flops(PIXELS) / 1e9 == pytest.approx(PAPER[name][length][0], rel=within)


@pytest.mark.slow
def test_counted_multiply_adds_are_those_of_the_closed_forms(costs):
    for (name, length), cost in costs.items():
        assert cost.gflops * 1e9 == frame_attention(name, length).flops(PIXELS)


def test_closed_forms_by_hand():
    """n = 4760, C = Ck = Cv = 256, N = 128, I = 6; feed-forward 512, two layers; 1x1 output for the last frame."""
    n, c, prototypes = 4760, 256, 128
    convolutions, output = n * c * 512, n * c * c
    clustering, reading = n * prototypes * (2 * 6 * c + c), n * prototypes * 512
    assert frame_attention("prototypical", 4).flops(PIXELS) == (4 * (convolutions + clustering) + 3 * reading + output)
    assert frame_attention("non-local", 4).flops(PIXELS) == 4 * (convolutions + n * n * 512) + output
    assert frame_attention("transformer", 4).flops(PIXELS) == (
        2 * (16 * n * n * 512 + 4 * n * (4 * c * c + 2 * c * 512)) + output
    )
    # Levels apart: the same for prototypes, less for pairs of pixels.
    assert frame_attention("prototypical", 4, joined=False).flops(PIXELS) == (
        frame_attention("prototypical", 4).flops(PIXELS)
    )
    pairs = 3600**2 + 920**2 + 240**2
    assert frame_attention("non-local", 4, joined=False).flops(PIXELS) == 4 * (convolutions + pairs * 512) + output
    released = FrameAttention(in_features=["p2", "p3"], attention=PrototypicalFilter(channels=256), length=2)
    # 4.52 G for a frame of 736x1280 px.
    assert released.flops([58880, 14720]) == pytest.approx(2 * 4.52e9, rel=1e-3)


@pytest.mark.slow
def test_memory_of_table_5_5(costs):
    memory = {key: cost.memory for key, cost in costs.items()}
    assert memory["prototypical", 8] < 0.18 * memory["non-local", 8]
    assert memory["prototypical", 8] < 0.1 * memory["transformer", 8]
    for name in ("prototypical", "non-local"):
        first, second = memory[name, 4] - memory[name, 2], memory[name, 8] - memory[name, 4]
        assert second == pytest.approx(2 * first, rel=0.01)
    # Full maps: quadratic.
    assert memory["transformer", 8] == pytest.approx(4 * memory["transformer", 4], rel=0.01)


def test_a_longer_stream_costs_an_entry_and_what_is_read_from_it():
    short, long = (measure("prototypical", length, size=(180, 320), is_training=False) for length in (2, 4))
    pixels = sum(height * width for height, width in level_sizes(180, 320).values())
    entry = 128 * 512
    assert long.memory - short.memory == pytest.approx(2 * (pixels * 256 + entry) * 4 / 2**20, rel=0.05)


@pytest.mark.slow
def test_separate_levels_are_measured_too(costs):
    cost = measure("non-local", 4, joined=False)
    assert cost.gflops * 1e9 == frame_attention("non-local", 4, joined=False).flops(PIXELS)
    assert cost.memory < 0.7 * costs["non-local", 4].memory


def test_live_storage_by_hand():
    held = torch.zeros(2**18)
    with LiveStorage() as storage:
        first = torch.ones(2**18)  # 1 MiB
        view = first[:10]
        held[:5].add_(1)  # Was there before.
        second = held + first
        assert storage.live == storage.peak == 2 * 2**20
        del first
        assert storage.live == 2 * 2**20
        del view, second
        assert storage.live == 0
        torch.ones(2**17)
    assert storage.peak == 2 * 2**20


def test_what_does_not_fit_on_the_device_has_no_figure(monkeypatch):
    model = temporal._ClipModel(frame_attention("non-local", 2))
    # The CPU stands in for a GPU: what is measured is one step, after another one.
    monkeypatch.setattr(temporal, "peak_memory", lambda run, on_cuda: run() or 5.0)
    assert temporal._peak_on_cuda(model, 2, (32, 64), is_training=True) == 5.0
    assert model.frames.attentions["joined"].output.weight.grad is not None

    def fail(*_, **__):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(temporal, "peak_memory", fail)
    assert temporal._peak_on_cuda(model, 2, (32, 64), is_training=False) is None


def test_rows_set_prototypes_beside_the_others():
    costs = [
        temporal.Cost("prototypical", 8, 23.7, 277.0),
        temporal.Cost("non-local", 8, 98.0, None),
        temporal.Cost("non-local", 3, 37.0, 5.0),
    ]
    (row,) = temporal.rows(costs, "w")
    assert (row["what"], row["A"], row["B"]) == ("w: 8 frames", "prototypical", "non-local")
    assert (row["peak_MiB_A"], row["peak_MiB_B"], row["gflops_B"]) == (277.0, None, 98.0)
    lines = temporal.beside_the_paper(costs).splitlines()
    assert lines[0].endswith("277 MiB (paper: 23.7 GFLOPs, 1419 MB; +0.0% FLOPs)")
    assert "does not fit" in lines[1]
    assert lines[2].endswith("5 MiB")


@pytest.fixture
def tool(monkeypatch):
    """`tool(...)` runs `tools/benchmark.py temporal` in this process, which saves its imports."""
    spec = importlib.util.spec_from_file_location("benchmark_tool", ROOT / "tools" / "benchmark.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setattr(sys, "path", list(sys.path))

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["benchmark.py", "temporal", *map(str, arguments)])
        return module.main()

    return run


def test_tool_writes_rows(tool, tmp_path, capsys):
    options = "--lengths 2 --size 64 32 --mode inference --separate".split()
    assert tool(*options, "--output", tmp_path / "b.csv") == 0
    assert "transformer, 2 frames" in capsys.readouterr().out
    with (tmp_path / "b.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["B"] for row in rows] == ["non-local", "transformer"]
    assert rows[0]["what"] == "frame attention, inference, 64x32, separate levels: 2 frames"
    assert (rows[0]["clock"], rows[0]["seconds_A"]) == ("", "")
    assert 0 < float(rows[0]["gflops_A"]) < 0.1


def test_mistakes_are_one_sentence(tool, capsys):
    for arguments in (["--lengths", "1"], ["--size", "0", "5"]):
        with pytest.raises(SystemExit) as end:
            tool(*arguments)
        assert end.value.code == 2
        assert "at least 2 frames" in capsys.readouterr().err


def test_results_on_record_fit_the_columns():
    from instseg_d2.benchmark.compare import COLUMNS
    from instseg_d2.results import read_rows

    assert read_rows(ROOT / "results" / "benchmark.csv", COLUMNS)
