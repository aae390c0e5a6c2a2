"""Command line, set-up, predictor and trainer made from a config, with a model of a few numbers."""

import json
import logging
import random
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from detectron2.config import LazyConfig, get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.engine import (
    DefaultPredictor,
    DefaultTrainer,
    HookBase,
    create_ddp_model,
    default_argument_parser,
    default_setup,
    default_writers,
    hooks,
)
from detectron2.evaluation import DatasetEvaluator
from detectron2.modeling import META_ARCH_REGISTRY
from omegaconf import OmegaConf
from torch import nn


class EngineToy(nn.Module):
    """In training (w - 2)^2, in inference the mean of the image and what it was given."""

    def __init__(self, cfg):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, batch):
        if self.training:
            return {"loss_toy": (self.weight - 2).square().sum()}
        return [
            {
                "mean": x["image"].float().mean(dim=(1, 2)),
                "shape": tuple(x["image"].shape),
                "size": (x["height"], x["width"]),
            }
            for x in batch
        ]


class CountEvaluator(DatasetEvaluator):
    def reset(self):
        self.seen = 0

    def process(self, inputs, outputs):
        self.seen += len(inputs)

    def evaluate(self):
        return {"toy": {"seen": self.seen}}


class ToyTrainer(DefaultTrainer):
    @classmethod
    def build_train_loader(cls, cfg):
        return iter(lambda: [{"image": torch.zeros(3, 4, 4)}], None)

    @classmethod
    def build_test_loader(cls, cfg, dataset_name):
        return [[{"image": torch.zeros(3, 4, 4), "height": 4, "width": 4}]] * 3

    @classmethod
    def build_evaluator(cls, cfg, dataset_name):
        return CountEvaluator()


class SilentTrainer(ToyTrainer):
    build_evaluator = DefaultTrainer.build_evaluator


@pytest.fixture
def cfg(tmp_path):
    if "EngineToy" not in META_ARCH_REGISTRY:
        META_ARCH_REGISTRY.register(EngineToy)
    name = "engine_toy_set"
    DatasetCatalog.register(name, list)
    cfg = get_cfg()
    cfg.MODEL.META_ARCHITECTURE = "EngineToy"
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.WEIGHTS = ""
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = (name,)
    cfg.SOLVER.MAX_ITER = 8
    cfg.SOLVER.STEPS = ()
    cfg.SOLVER.WARMUP_ITERS = 0
    cfg.SOLVER.BASE_LR = 0.1
    cfg.SOLVER.MOMENTUM = 0.0
    cfg.SOLVER.WEIGHT_DECAY = 0.0
    cfg.SOLVER.CHECKPOINT_PERIOD = 3
    cfg.TEST.EVAL_PERIOD = 4
    cfg.OUTPUT_DIR = str(tmp_path / "out")
    yield cfg
    DatasetCatalog.remove(name)
    if name in MetadataCatalog.list():
        MetadataCatalog.remove(name)


def test_argument_parser_flags_and_rest():
    parser = default_argument_parser()
    args = parser.parse_args([])
    assert (args.config_file, args.resume, args.eval_only) == ("", False, False)
    assert (args.num_gpus, args.num_machines, args.machine_rank) == (1, 1, 0)
    assert args.opts == []
    host, port = args.dist_url.rsplit(":", 1)
    assert host == "tcp://127.0.0.1"
    assert 2**15 + 2**14 <= int(port) < 2**16
    args = parser.parse_args(["--config-file", "a.yaml", "--num-gpus", "4", "--resume", "KEY", "1", "--eval-only"])
    assert (args.config_file, args.num_gpus, args.resume) == ("a.yaml", 4, True)
    assert args.opts == ["KEY", "1", "--eval-only"]  # everything after the first free word belongs to the config
    assert default_argument_parser(epilog="look here").epilog == "look here"


def test_ddp_model_of_one_process_is_the_model():
    model = nn.Linear(1, 1)
    assert create_ddp_model(model, fp16_compression=True) is model


def test_setup_saves_and_logs_yacs(tmp_path, cfg):
    cfg.SEED = 7
    config_file = tmp_path / "mine.yaml"
    config_file.write_text("SOLVER:\n  MAX_ITER: 8\n")
    default_setup(cfg, SimpleNamespace(config_file=str(config_file), eval_only=False))
    drawn = (random.random(), np.random.rand(), torch.rand(1).item())
    default_setup(cfg, SimpleNamespace(config_file="", eval_only=True))
    assert (random.random(), np.random.rand(), torch.rand(1).item()) == drawn

    saved = get_cfg()
    saved.merge_from_file(cfg.OUTPUT_DIR + "/config.yaml")
    assert yaml.safe_load(saved.dump()) == yaml.safe_load(cfg.dump())
    log = re.sub(r"\x1b\[[0-9;]*m", "", (tmp_path / "out" / "log.txt").read_text())  # upstream colours the config
    assert "MAX_ITER: 8" in log
    assert "Environment info" in log
    assert "World size: 1" in log


def test_setup_saves_and_seeds_lazy(tmp_path):
    cfg = OmegaConf.create({"train": {"output_dir": str(tmp_path / "lazy"), "seed": 3, "cudnn_benchmark": True}})
    before = torch.backends.cudnn.benchmark
    try:
        default_setup(cfg, {})
        assert torch.backends.cudnn.benchmark is True
    finally:
        torch.backends.cudnn.benchmark = before
    drawn = torch.rand(1).item()
    default_setup(OmegaConf.create({"train": {"seed": 3}}), {})
    torch.backends.cudnn.benchmark = before
    assert torch.rand(1).item() == drawn
    assert LazyConfig.load(str(tmp_path / "lazy" / "config.yaml")) == cfg


def test_default_writers_make_their_folder(tmp_path):
    names = [type(w).__name__ for w in default_writers(str(tmp_path / "new"), 10)]
    assert names == ["CommonMetricPrinter", "JSONWriter", "TensorboardXWriter"]
    assert (tmp_path / "new").is_dir()


def test_trainer_trains_evaluates_saves_and_resumes(cfg, tmp_path):
    trainer = ToyTrainer(cfg)
    kinds = [type(h).__name__ for h in trainer._hooks]
    assert kinds == ["IterationTimer", "LRScheduler", "PeriodicCheckpointer", "EvalHook", "PeriodicWriter"]
    trainer.resume_or_load(resume=True)
    assert trainer.start_iter == 0
    assert trainer.train() is None
    # Each step of lr 0.1 on (w - 2)^2 leaves 0.8 of the distance.
    assert trainer.model.weight.item() == pytest.approx(2 - 2 * 0.8**8, abs=1e-5)
    out = tmp_path / "out"
    assert {p.name for p in out.glob("*.pth")} == {"model_0000002.pth", "model_0000005.pth", "model_final.pth"}
    lines = [json.loads(line) for line in (out / "metrics.json").read_text().splitlines()]
    assert lines[-1]["toy/seen"] == 3
    assert any(line["iteration"] == 7 and "total_loss" in line for line in lines)

    cfg.SOLVER.MAX_ITER = 10
    again = ToyTrainer(cfg)
    again.resume_or_load(resume=True)
    assert (again.iter, again.start_iter) == (7, 8)
    again.train()
    assert again.model.weight.item() == pytest.approx(2 - 2 * 0.8**10, abs=1e-5)
    assert again.storage.history("lr").values()[0][1] == 8

    fresh = ToyTrainer(cfg)
    fresh.resume_or_load(resume=False)
    assert fresh.start_iter == 0
    assert fresh.model.weight.item() == 0.0


def test_trainer_state_layout(cfg):
    trainer = ToyTrainer(cfg)
    trainer.train()
    state = trainer.state_dict()
    assert set(state) == {"iteration", "hooks", "_trainer"}
    assert set(state["hooks"]) == {"LRScheduler"}
    assert set(state["_trainer"]) == {"iteration", "optimizer"}


def test_trainer_attributes_are_those_of_the_inner_trainer(cfg):
    trainer = ToyTrainer(cfg)
    assert trainer.optimizer is trainer._trainer.optimizer
    replacement = EngineToy(None)
    trainer.model = replacement
    assert trainer._trainer.model is replacement
    trainer.data_loader = [1]
    assert trainer._trainer.data_loader == [1]


@pytest.mark.bundled_only
def test_hooks_of_the_default_trainer_see_the_backward_pass(cfg):
    gradients = []

    class Watch(HookBase):
        def after_backward(self):
            gradients.append(self.trainer.model.weight.grad.item())

    cfg.SOLVER.MAX_ITER = 2
    trainer = ToyTrainer(cfg)
    trainer.register_hooks([Watch()])
    trainer.train()
    assert gradients == pytest.approx([-4.0, -3.2])


def test_trainer_checks_expected_results(cfg):
    name = cfg.DATASETS.TEST[0]
    cfg.TEST.EXPECTED_RESULTS = [["toy", "seen", 3, 0.1]]
    assert ToyTrainer(cfg).train() == {"toy": {"seen": 3}}
    cfg.TEST.EXPECTED_RESULTS = [["toy", "seen", 5, 0.1]]
    with pytest.raises(SystemExit):
        ToyTrainer(cfg).train()
    assert name in DatasetCatalog.list()


def test_evaluation_of_several_sets_and_given_evaluators(cfg):
    model = EngineToy(None)
    assert ToyTrainer.test(cfg, model) == {"toy": {"seen": 3}}
    assert ToyTrainer.test(cfg, model, CountEvaluator()) == {"toy": {"seen": 3}}
    with pytest.raises(AssertionError):
        ToyTrainer.test(cfg, model, [CountEvaluator()] * 2)
    cfg.DATASETS.TEST = ("one", "two")
    assert ToyTrainer.test(cfg, model) == {"one": {"toy": {"seen": 3}}, "two": {"toy": {"seen": 3}}}


def test_missing_evaluator_is_said_and_skipped(cfg, caplog):
    with caplog.at_level(logging.WARNING, logger="detectron2.engine.defaults"):
        assert SilentTrainer.test(cfg, EngineToy(None)) == {}
    assert "build_evaluator" in caplog.text
    with pytest.raises(NotImplementedError, match="build_evaluator"):
        SilentTrainer.build_evaluator(cfg, "x")


def test_scaling_to_another_number_of_processes(cfg):
    assert DefaultTrainer.auto_scale_workers(cfg, 4) is cfg
    cfg.SOLVER.REFERENCE_WORLD_SIZE = 8
    assert DefaultTrainer.auto_scale_workers(cfg, 8) is cfg
    cfg.SOLVER.IMS_PER_BATCH = 16
    cfg.SOLVER.MAX_ITER, cfg.SOLVER.STEPS, cfg.SOLVER.WARMUP_ITERS = 5000, (4000, 4501), 101
    cfg.SOLVER.CHECKPOINT_PERIOD, cfg.TEST.EVAL_PERIOD = 1000, 300
    cfg.freeze()
    new = DefaultTrainer.auto_scale_workers(cfg, 16)
    assert new.is_frozen()
    solver = new.SOLVER
    assert (solver.IMS_PER_BATCH, solver.BASE_LR, solver.MAX_ITER) == (32, 0.2, 2500)
    # Python rounds halves to even: 50.5 to 50, 2250.5 to 2250.
    assert (solver.STEPS, solver.WARMUP_ITERS, solver.CHECKPOINT_PERIOD) == ((2000, 2250), 50, 500)
    assert (new.TEST.EVAL_PERIOD, solver.REFERENCE_WORLD_SIZE) == (150, 16)
    assert cfg.SOLVER.MAX_ITER == 5000

    odd = cfg.clone()
    odd.defrost()
    odd.SOLVER.IMS_PER_BATCH = 12
    with pytest.raises(AssertionError):
        DefaultTrainer.auto_scale_workers(odd, 16)


@pytest.mark.parametrize("order", ["BGR", "RGB"])
def test_predictor_resizes_and_orders_channels(cfg, order):
    cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST, cfg.INPUT.FORMAT = 20, 100, order
    predictor = DefaultPredictor(cfg)
    assert predictor.metadata.name == cfg.DATASETS.TEST[0]
    image = np.empty((10, 30, 3), np.uint8)
    image[:] = (1, 2, 3)  # blue, green, red
    output = predictor(image)
    assert output["shape"] == (3, 20, 60)
    assert output["size"] == (10, 30)
    assert output["mean"].tolist() == ([1, 2, 3] if order == "BGR" else [3, 2, 1])


@pytest.mark.bundled_only
def test_trainer_with_amp_on_cpu(cfg):
    cfg.SOLVER.AMP.ENABLED = True
    trainer = ToyTrainer(cfg)
    trainer.train()
    assert trainer.model.weight.item() == pytest.approx(2 - 2 * 0.8**8, abs=1e-3)
    assert "grad_scaler" in trainer.state_dict()["_trainer"]


def test_precise_bn_hook_is_made_on_request(cfg):
    class WithBN(ToyTrainer):
        @classmethod
        def build_model(cls, cfg):
            model = EngineToy(cfg)
            model.bn = nn.BatchNorm2d(3)
            return model

    cfg.TEST.PRECISE_BN.ENABLED = True
    made = [h for h in WithBN(cfg)._hooks if isinstance(h, hooks.PreciseBN)]
    assert len(made) == 1
    assert not any(isinstance(h, hooks.PreciseBN) for h in ToyTrainer(cfg)._hooks)
