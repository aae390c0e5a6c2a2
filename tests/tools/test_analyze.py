from pathlib import Path

import pytest
import yaml
from detectron2.config import instantiate

from instseg_d2.checkpoint import Checkpointer
from instseg_d2.model_zoo import get_config

ROOT = Path(__file__).resolve().parents[2]


def test_all_tasks_of_a_mask_rcnn(tool, tiny_recipe):
    tasks = "parameters,flops,time,memory,structure"
    code, output, _ = tool(
        "--config-file", tiny_recipe, "--tasks", tasks, "--size", 64, "--repeats", 2, "--depth", 1, "--device", "cpu"
    )
    assert code == 0
    sections = dict(section.split("\n", 1) for section in output.split("== ")[1:])
    assert list(sections) == tasks.split(",")
    model = instantiate(get_config(tiny_recipe).model)
    count = sum(parameter.numel() for parameter in model.parameters())
    assert sections["parameters"].startswith(f"{count / 1e6:.3f} M parameters, {count / 1e6:.3f} M of them are trained")
    assert "roi_heads" in sections["parameters"]
    assert "roi_heads.mask_head" not in sections["parameters"]  # below --depth
    assert "1 image(s) of 64 x 85 px" in sections["flops"]
    assert "scaled to detect" in sections["flops"]
    for part in ("backbone", "proposal_generator", "roi_heads.box_head", "roi_heads.mask_head"):
        for task in ("flops", "time"):
            (row,) = [line for line in sections[task].splitlines() if line.split()[:1] == [part]]
            assert float(row.split()[1]) > 0
    assert "postprocess" in sections["time"]
    assert "tensors on the CPU, by torch.profiler" in sections["memory"]
    assert "(mask_head): MaskRCNNHead" in sections["structure"]


def test_config_is_resolved_and_overridden(tool, tiny_recipe):
    code, output, _ = tool("--config-file", tiny_recipe, "--tasks", "config", "model.roi_heads.num_classes=7")
    assert code == 0
    assert "${" not in output
    tags = type("Loader", (yaml.SafeLoader,), {})
    tags.add_multi_constructor("tag:yaml.org,2002:python/", lambda loader, suffix, node: suffix)
    cfg = yaml.load(output.removeprefix("== config\n"), tags)
    assert cfg["model"]["roi_heads"]["mask_head"]["num_classes"] == 7


def test_files_and_weights(tool, tiny_recipe, tmp_path):
    Checkpointer(instantiate(get_config(tiny_recipe).model), str(tmp_path)).write("weights")
    options = ["--tasks", "time", "--repeats", 1, "--warmup", 0, "--device", "cpu", "--count", 3]
    images, weights = tmp_path / "data" / "images", tmp_path / "weights.pth"
    code, output, _ = tool("--config-file", tiny_recipe, *options, "--input", images, "--weights", weights)
    assert code == 0
    assert "3 image(s) of 64 x 96 px" in output
    assert f"({weights})" in output


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--tasks", "flop"], "no task flop; known: parameters, flops, time"),
        (["--repeats", "0"], "--repeats are at least 1"),
        (["model.roi_heads.num_clases=1"], "nearest: model.roi_heads.num_classes"),
        (["--weights", "nowhere.pth", "--tasks", "structure"], "no checkpoint at 'nowhere.pth'"),
        (["--input", "nowhere/*.jpg", "--tasks", "time"], "no file, folder or pattern match"),
        (["--config-file", "Baselines/mask_rcnn_r50"], "no recipe named 'Baselines/mask_rcnn_r50'"),
    ],
)
def test_mistakes_are_one_sentence(tool, tiny_recipe, arguments, words):
    code, _, errors = tool("--config-file", tiny_recipe, *arguments)
    assert code == 2
    assert words in errors
    assert "Traceback" not in errors
