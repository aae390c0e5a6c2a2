import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]


def test_help_explains_overrides_and_resuming(run_tool):
    done = run_tool("train_net.py", "--help")
    assert done.returncode == 0
    for word in ("--resume", "--eval-only", "torchrun", "key=value", "--num-gpus"):
        assert word in done.stdout


def test_print_config_shows_the_override_and_trains_nothing(run_tool, tiny_recipe, tmp_path):
    done = run_tool("train_net.py", "--config-file", tiny_recipe, "--print-config", "train.max_iter=77")
    assert done.returncode == 0
    assert "max_iter: 77" in done.stdout
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--config-file", "Baselines/mask_rcnn_r50"], ["no config file", "Baselines/mask_rcnn_r50_fpn_coco_1x"]),
        (["train.max_itr=5"], ["no key 'train.max_itr'", "train.max_iter"]),
        (["--eval-only"], ["train.init_checkpoint="]),
        (["train.init_checkpoint=nowhere.pth"], ["no checkpoint at 'nowhere.pth'"]),
        (["train.device=cuda:7"], ["CUDA device"]),
        (["train.amp.enabled=True", "train.amp.precision=float8"], ["float16", "bfloat16"]),
    ],
)
def test_mistakes_are_named(run_tool, tiny_recipe, arguments, words):
    if "--config-file" not in arguments:
        arguments = ["--config-file", tiny_recipe, *arguments]
    if "cuda:7" in str(arguments) and torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    done = run_tool("train_net.py", *arguments)
    assert done.returncode != 0
    assert all(word in done.stderr for word in words), done.stderr


@pytest.mark.slow
def test_train_resume_evaluate(run_tool, tiny_recipe, tmp_path):
    out = tmp_path / "out"
    first = run_tool("train_net.py", "--config-file", tiny_recipe)
    assert first.returncode == 0, first.stderr
    written = {path.name for path in out.iterdir()}
    assert {"model_0000002.pth", "model_final.pth", "model_best.pth", "last_checkpoint", "config.yaml"} <= written
    assert {"metrics.json", "results.json", "report.html", "overlays", "coco_instances_results.json"} <= written
    assert "eta:" in first.stdout + first.stderr
    results = json.loads((out / "results.json").read_text())
    assert {"bbox", "segm"} == set(results)
    lines = [json.loads(line) for line in (out / "metrics.json").read_text().splitlines()]
    assert {line["iteration"] for line in lines} >= set(range(6))

    longer = run_tool("train_net.py", "--config-file", tiny_recipe, "--resume", "train.max_iter=8")
    assert longer.returncode == 0, longer.stderr
    iterations = [json.loads(line)["iteration"] for line in (out / "metrics.json").read_text().splitlines()]
    assert {6, 7} <= set(iterations)
    assert iterations.count(3) == 1

    weights = f"train.init_checkpoint={out / 'model_final.pth'}"
    evaluated = run_tool(
        "train_net.py", "--config-file", tiny_recipe, "--eval-only", weights, f"train.output_dir={tmp_path / 'eval'}"
    )
    assert evaluated.returncode == 0, evaluated.stderr
    again = json.loads((tmp_path / "eval" / "results.json").read_text())
    assert again["segm"]["AP"] == pytest.approx(
        json.loads((out / "results.json").read_text())["segm"]["AP"], nan_ok=True
    )

    other = run_tool(
        "train_net.py", "--config-file", tiny_recipe, "--eval-only", weights, "model.roi_heads.num_classes=9"
    )
    assert other.returncode != 0
    assert "belongs to another model" in other.stderr


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_saves_and_resume_goes_on(run_tool, tiny_recipe, tmp_path, number):
    process = run_tool(
        "train_net.py",
        "--config-file",
        tiny_recipe,
        "train.max_iter=100000",
        "train.checkpointer.period=100000",
        wait=False,
    )
    lines = []
    for line in process.stdout:
        lines.append(line)
        if "iter: 3 " in line:
            os.kill(process.pid, number)
            break
    text = "".join(lines) + process.communicate(timeout=120)[0]
    assert process.returncode == 128 + number, text
    last = (tmp_path / "out" / "last_checkpoint").read_text()
    stopped_at = int(last.removeprefix("model_").removesuffix(".pth"))
    assert stopped_at >= 3
    done = run_tool("train_net.py", "--config-file", tiny_recipe, "--resume", f"train.max_iter={stopped_at + 3}")
    assert done.returncode == 0, done.stderr
    iterations = [
        json.loads(line)["iteration"] for line in (tmp_path / "out" / "metrics.json").read_text().splitlines()
    ]
    assert stopped_at + 1 in iterations
    assert stopped_at + 2 in iterations


@pytest.mark.slow
def test_two_processes_train_and_evaluate_as_one(run_tool, tiny_recipe, tmp_path):
    assert run_tool("train_net.py", "--config-file", tiny_recipe).returncode == 0
    weights = f"train.init_checkpoint={tmp_path / 'out' / 'model_final.pth'}"

    def torchrun(*arguments):
        env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
        command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
        command += [str(ROOT / "tools" / "train_net.py"), "--config-file", str(tiny_recipe), *arguments]
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=env, timeout=300)

    trained = torchrun(f"train.output_dir={tmp_path / 'two'}")
    assert trained.returncode == 0, trained.stderr
    assert (tmp_path / "two" / "model_final.pth").is_file()
    evaluated = torchrun("--eval-only", weights, f"train.output_dir={tmp_path / 'two_eval'}")
    assert evaluated.returncode == 0, evaluated.stderr
    one = json.loads((tmp_path / "out" / "coco_instances_results.json").read_text())
    two = json.loads((tmp_path / "two_eval" / "coco_instances_results.json").read_text())
    key = lambda item: (item["image_id"], -item["score"], item["category_id"], item["bbox"])  # noqa: E731
    assert sorted(one, key=key) == sorted(two, key=key)
