"""What most jobs need around a model: command line, set-up, writers, a predictor and a trainer built from a config."""

import argparse
import logging
import os
import sys
import weakref
from collections import OrderedDict
from typing import Any

import numpy as np
import torch
from fvcore.nn.precise_bn import get_bn_modules
from omegaconf import OmegaConf
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import detectron2.data.transforms as T
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode, LazyConfig
from detectron2.data import MetadataCatalog, build_detection_test_loader, build_detection_train_loader
from detectron2.evaluation import DatasetEvaluator, inference_on_dataset, print_csv_format, verify_results
from detectron2.modeling import build_model
from detectron2.solver import build_lr_scheduler, build_optimizer
from detectron2.utils import comm
from detectron2.utils.collect_env import collect_env_info
from detectron2.utils.env import seed_all_rng
from detectron2.utils.events import CommonMetricPrinter, EventWriter, JSONWriter, TensorboardXWriter
from detectron2.utils.file_io import PathManager
from detectron2.utils.logger import setup_logger

from . import hooks
from .train_loop import AMPTrainer, HookBase, SimpleTrainer, TrainerBase

__all__ = [
    "DefaultPredictor",
    "DefaultTrainer",
    "create_ddp_model",
    "default_argument_parser",
    "default_setup",
    "default_writers",
]

logger = logging.getLogger(__name__)


def create_ddp_model(model: nn.Module, *, fp16_compression: bool = False, **kwargs: Any) -> nn.Module:
    """Wrap `model` in DistributedDataParallel; in a job of one process, return it as it is.

    Args:
        model: already on its device.
        fp16_compression: exchange gradients in float16.
        kwargs: for DistributedDataParallel. Without `device_ids`, a model on a GPU gets this process's local rank.
    """
    if comm.get_world_size() == 1:
        return model
    # DDP refuses device_ids for a model on the CPU.
    if "device_ids" not in kwargs and all(p.device.type != "cpu" for p in model.parameters()):
        kwargs["device_ids"] = [comm.get_local_rank()]
    ddp = DistributedDataParallel(model, **kwargs)
    if fp16_compression:
        from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import fp16_compress_hook

        ddp.register_comm_hook(state=None, hook=fp16_compress_hook)
    return ddp


def default_argument_parser(epilog: str | None = None) -> argparse.ArgumentParser:
    """The command line that training scripts share; `epilog` replaces the examples at the end of the help."""
    program = sys.argv[0]
    parser = argparse.ArgumentParser(
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=epilog
        or f"""examples:
  train on the eight GPUs of this machine:
    {program} --config-file config.yaml --num-gpus 8
  other values for some keys, yacs and LazyConfig:
    {program} --config-file config.yaml SOLVER.BASE_LR 0.001 MODEL.WEIGHTS weights.pth
    {program} --config-file config.py train.init_checkpoint=weights.pth
  two machines, the same command on both but for the rank:
    {program} --num-machines 2 --machine-rank 0 --dist-url tcp://<address of machine 0>:<port> ...
    {program} --num-machines 2 --machine-rank 1 --dist-url tcp://<address of machine 0>:<port> ...
""",
    )
    add = parser.add_argument
    add("--config-file", default="", metavar="FILE", help="config to run, .yaml or .py")
    add("--resume", action="store_true", help="go on from the last checkpoint in the output directory, if there is one")
    add("--eval-only", action="store_true", help="evaluate the weights, do not train")
    add("--num-gpus", type=int, default=1, help="GPUs on each machine; without GPUs, processes")
    add("--num-machines", type=int, default=1, help="machines in the job")
    add("--machine-rank", type=int, default=0, help="number of this machine, from 0")
    # One fixed port per user: processes left over from a crashed job show up as "address already in use".
    user = os.getuid() if hasattr(os, "getuid") else 1
    port = 2**15 + 2**14 + hash(user) % 2**14
    add("--dist-url", default=f"tcp://127.0.0.1:{port}", help="where processes meet, see torch.distributed")
    add(
        "opts",
        nargs=argparse.REMAINDER,
        default=None,
        help="config values to change: `KEY VALUE` pairs for yacs, `key=value` for LazyConfig",
    )
    return parser


def _lookup(cfg: Any, *keys: str, default: Any = None) -> Any:
    """The value of the first of some dotted keys that a yacs or omegaconf config has."""
    for key in keys:
        if isinstance(cfg, CfgNode):
            value: Any = cfg
            for part in key.split("."):
                value = value.get(part) if isinstance(value, dict) else None
        else:
            value = OmegaConf.select(cfg, key)
        if value is not None:
            return value
    return default


def default_setup(cfg, args) -> None:
    """Prepare a job: loggers, random seeds, cuDNN and float32 settings; log the environment, the arguments and the
    config, and save the config as ``config.yaml`` in the output directory.

    Args:
        cfg: a yacs CfgNode (OUTPUT_DIR, SEED, CUDNN_BENCHMARK, FLOAT32_PRECISION) or an omegaconf DictConfig
            (train.output_dir, train.seed, train.cudnn_benchmark, train.float32_precision). Process r is seeded with
            seed + r; a negative or missing seed gives a random one.
        args: parsed command line; `config_file` and `eval_only` are used where present.
    """
    output_dir = _lookup(cfg, "OUTPUT_DIR", "output_dir", "train.output_dir")
    saves = bool(output_dir) and comm.is_main_process()
    if saves:
        PathManager.mkdirs(output_dir)

    rank = comm.get_rank()
    setup_logger(output_dir, distributed_rank=rank, name="fvcore")
    log = setup_logger(output_dir, distributed_rank=rank)
    log.info(f"Rank of current process: {rank}. World size: {comm.get_world_size()}")
    log.info("Environment info:\n" + collect_env_info())
    log.info(f"Command line arguments: {args}")
    if config_file := getattr(args, "config_file", ""):
        with PathManager.open(config_file, "r") as f:
            log.info(f"Contents of args.config_file={config_file}:\n{f.read()}")
    if saves:
        path = os.path.join(output_dir, "config.yaml")
        if isinstance(cfg, CfgNode):
            text = cfg.dump()
            log.info(f"Running with full config:\n{text}")
            with PathManager.open(path, "w") as f:
                f.write(text)
        else:
            LazyConfig.save(cfg, path)
        log.info(f"Full config saved to {path}")

    seed = _lookup(cfg, "SEED", "train.seed", default=-1)
    seed_all_rng(None if seed < 0 else seed + rank)

    # Images of an evaluation have many sizes, each of which would be benchmarked.
    if not getattr(args, "eval_only", False):
        torch.backends.cudnn.benchmark = _lookup(cfg, "CUDNN_BENCHMARK", "train.cudnn_benchmark", default=False)

    precision = _lookup(cfg, "FLOAT32_PRECISION", "train.float32_precision", default="")
    if precision:
        log.info(f"float32 matrix products and convolutions on GPUs: {precision} precision")
        if torch.cuda.is_available():
            torch.set_float32_matmul_precision(precision)
            torch.backends.cudnn.allow_tf32 = precision != "highest"


def default_writers(output_dir: str, max_iter: int | None = None) -> list[EventWriter]:
    """Writers to the log, to ``metrics.json`` and to TensorBoard files in `output_dir`, which is made.

    `max_iter` is for the remaining time in the log.
    """
    PathManager.mkdirs(output_dir)
    return [
        CommonMetricPrinter(max_iter),
        JSONWriter(os.path.join(output_dir, "metrics.json")),
        TensorboardXWriter(output_dir),
    ]


class DefaultPredictor:
    """The model of a config with its weights, for one image at a time.

    Loads ``MODEL.WEIGHTS``, resizes by ``INPUT.{MIN,MAX}_SIZE_TEST``, orders channels by ``INPUT.FORMAT``. Example::

        outputs = DefaultPredictor(cfg)(cv2.imread("input.jpg"))
        outputs["instances"].pred_masks

    Attributes:
        metadata: of the first test dataset of the config, if it names one.
    """

    def __init__(self, cfg):
        self.cfg = cfg.clone()
        self.model = build_model(self.cfg)
        self.model.eval()
        if len(cfg.DATASETS.TEST):
            self.metadata = MetadataCatalog.get(cfg.DATASETS.TEST[0])
        DetectionCheckpointer(self.model).load(cfg.MODEL.WEIGHTS)

        shortest = cfg.INPUT.MIN_SIZE_TEST
        self.aug = T.ResizeShortestEdge([shortest, shortest], cfg.INPUT.MAX_SIZE_TEST)
        self.input_format = cfg.INPUT.FORMAT
        assert self.input_format in ("RGB", "BGR"), f"INPUT.FORMAT is RGB or BGR, got {self.input_format}"

    @torch.no_grad()
    def __call__(self, original_image: np.ndarray) -> dict[str, Any]:
        """Predict for one image.

        Args:
            original_image: (H, W, 3) uint8, in BGR order whatever the model takes.

        Returns:
            The model's output for this image, in its original size, e.g. ``{"instances": Instances}``.
        """
        if self.input_format == "RGB":
            original_image = original_image[:, :, ::-1]
        height, width = original_image.shape[:2]
        resized = self.aug.get_transform(original_image).apply_image(original_image)
        image = torch.as_tensor(resized.astype("float32").transpose(2, 0, 1))
        return self.model([{"image": image, "height": height, "width": width}])[0]


class _ForwardAfterBackward(HookBase):
    """Lets the hooks of an outer trainer see the backward pass, which the inner trainer runs."""

    def __init__(self, outer: TrainerBase):
        self._outer = weakref.proxy(outer)

    def after_backward(self):
        self._outer.after_backward()


def _attribute_of_inner(name: str) -> property:
    def get(self):
        return getattr(self._trainer, name)

    def set_(self, value):
        setattr(self._trainer, name, value)

    return property(get, set_, doc=f"`{name}` of the trainer that runs the steps.")


class DefaultTrainer(TrainerBase):
    """Training as a yacs config describes it: model, optimizer, loader, schedule, checkpoints, evaluation, logs.

    Each part comes from a `build_*` method that a subclass can replace; `build_evaluator` has no default. Example::

        trainer = DefaultTrainer(cfg)
        trainer.resume_or_load(resume=args.resume)
        trainer.train()

    Attributes:
        cfg, scheduler, checkpointer: what it was built from and with.
        model, data_loader, optimizer: those of the :class:`SimpleTrainer` or :class:`AMPTrainer` that runs the steps.
    """

    model = _attribute_of_inner("model")
    data_loader = _attribute_of_inner("data_loader")
    optimizer = _attribute_of_inner("optimizer")

    def __init__(self, cfg):
        super().__init__()
        if not logging.getLogger("detectron2").isEnabledFor(logging.INFO):
            setup_logger()  # a script that did not call default_setup shall see the log all the same
        cfg = DefaultTrainer.auto_scale_workers(cfg, comm.get_world_size())

        # In this order: each draws random numbers, and a seed shall mean the same training.
        model = self.build_model(cfg)
        optimizer = self.build_optimizer(cfg, model)
        data_loader = self.build_train_loader(cfg)

        model = create_ddp_model(model, broadcast_buffers=False)
        step_class = AMPTrainer if cfg.SOLVER.AMP.ENABLED else SimpleTrainer
        self._trainer = step_class(model, data_loader, optimizer)
        self._trainer.register_hooks([_ForwardAfterBackward(self)])

        self.scheduler = self.build_lr_scheduler(cfg, optimizer)
        self.checkpointer = DetectionCheckpointer(model, cfg.OUTPUT_DIR, trainer=weakref.proxy(self))
        self.start_iter = 0
        self.max_iter = cfg.SOLVER.MAX_ITER
        self.cfg = cfg
        self.register_hooks(self.build_hooks())

    def resume_or_load(self, resume: bool = True) -> None:
        """Load weights. With `resume`, and a checkpoint in OUTPUT_DIR: continue at the iteration after it, with its
        states of optimizer and schedule. Else: start at iteration 0 with the weights of MODEL.WEIGHTS.
        """
        self.checkpointer.resume_or_load(self.cfg.MODEL.WEIGHTS, resume=resume)
        if resume and self.checkpointer.has_checkpoint():
            self.start_iter = self.iter + 1

    def build_hooks(self) -> list[HookBase | None]:
        """Timing, learning rate, precise BN, checkpoints, evaluation and writing, in this order."""
        cfg = self.cfg
        main = comm.is_main_process()

        precise_bn = None
        if cfg.TEST.PRECISE_BN.ENABLED and get_bn_modules(self.model):
            # A loader of its own, so that training sees the data it would see without precise BN; no workers, since
            # it is used rarely.
            loader_cfg = cfg.clone()
            loader_cfg.defrost()
            loader_cfg.DATALOADER.NUM_WORKERS = 0
            loader = self.build_train_loader(loader_cfg)
            precise_bn = hooks.PreciseBN(cfg.TEST.EVAL_PERIOD, self.model, loader, cfg.TEST.PRECISE_BN.NUM_ITER)

        def evaluate():
            self._last_eval_results = self.test(self.cfg, self.model)
            return self._last_eval_results

        # Precise BN changes what is saved, so it precedes the checkpoint; a failing evaluation leaves its checkpoint
        # behind; writers come last to see all that was stored.
        return [
            hooks.IterationTimer(),
            hooks.LRScheduler(),
            precise_bn,
            *([hooks.PeriodicCheckpointer(self.checkpointer, cfg.SOLVER.CHECKPOINT_PERIOD)] if main else []),
            hooks.EvalHook(cfg.TEST.EVAL_PERIOD, evaluate),
            *([hooks.PeriodicWriter(self.build_writers(), period=20)] if main else []),
        ]

    def build_writers(self) -> list[EventWriter]:
        """The writers of the main process; :func:`default_writers` unless overridden."""
        return default_writers(self.cfg.OUTPUT_DIR, self.max_iter)

    def train(self):
        """Train from `start_iter` to `max_iter`.

        Returns:
            In the main process, if TEST.EXPECTED_RESULTS is set: the last results, after checking them against it.
            Else None.
        """
        super().train(self.start_iter, self.max_iter)
        if not (len(self.cfg.TEST.EXPECTED_RESULTS) and comm.is_main_process()):
            return None
        assert hasattr(self, "_last_eval_results"), "TEST.EXPECTED_RESULTS is set, but nothing was evaluated"
        verify_results(self.cfg, self._last_eval_results)
        return self._last_eval_results

    def state_dict(self):
        """Adds ``_trainer``, the state of the trainer that runs the steps."""
        return {**super().state_dict(), "_trainer": self._trainer.state_dict()}

    def load_state_dict(self, state_dict):
        super().load_state_dict(state_dict)
        self._trainer.load_state_dict(state_dict["_trainer"])

    def run_step(self):
        inner = self._trainer
        inner.iter = self.iter  # its metrics carry the iteration of this loop
        inner.run_step()

    @classmethod
    def build_model(cls, cfg) -> nn.Module:
        """The model, logged; :func:`detectron2.modeling.build_model` unless overridden."""
        model = build_model(cfg)
        logger.info(f"Model:\n{model}")
        return model

    @classmethod
    def build_optimizer(cls, cfg, model: nn.Module) -> torch.optim.Optimizer:
        """The optimizer; :func:`detectron2.solver.build_optimizer` unless overridden."""
        return build_optimizer(cfg, model)

    @classmethod
    def build_lr_scheduler(cls, cfg, optimizer: torch.optim.Optimizer):
        """The schedule; :func:`detectron2.solver.build_lr_scheduler` unless overridden."""
        return build_lr_scheduler(cfg, optimizer)

    @classmethod
    def build_train_loader(cls, cfg):
        """The training data; :func:`detectron2.data.build_detection_train_loader` unless overridden."""
        return build_detection_train_loader(cfg)

    @classmethod
    def build_test_loader(cls, cfg, dataset_name: str):
        """The data of one test set; :func:`detectron2.data.build_detection_test_loader` unless overridden."""
        return build_detection_test_loader(cfg, dataset_name)

    @classmethod
    def build_evaluator(cls, cfg, dataset_name: str) -> DatasetEvaluator | None:
        """The evaluator of one test set; to be implemented where evaluation is wanted."""
        raise NotImplementedError(
            f"{cls.__name__} does not say how to evaluate {dataset_name}: implement build_evaluator() in a subclass, "
            "e.g. returning a COCOEvaluator, or pass evaluators to test()"
        )

    @classmethod
    def test(cls, cfg, model: nn.Module, evaluators=None) -> dict[str, Any]:
        """Evaluate `model`, with the weights it has, on the sets of DATASETS.TEST.

        Args:
            cfg: config.
            model: the model.
            evaluators: one for each test set (or a single one for one set); None uses :meth:`build_evaluator`.

        Returns:
            Results by dataset name; with one dataset, its results alone. A set for which there is no evaluator gives
            an empty dict.
        """
        names = cfg.DATASETS.TEST
        if isinstance(evaluators, DatasetEvaluator):
            evaluators = [evaluators]
        if evaluators is not None:
            assert len(evaluators) == len(names), f"{len(evaluators)} evaluators for {len(names)} test sets"

        results = OrderedDict()
        for index, name in enumerate(names):
            loader = cls.build_test_loader(cfg, name)
            try:
                evaluator = cls.build_evaluator(cfg, name) if evaluators is None else evaluators[index]
            except NotImplementedError as error:
                logger.warning(f"{name} is not evaluated. {error}")
                results[name] = {}
                continue
            results[name] = inference_on_dataset(model, loader, evaluator)
            if comm.is_main_process():
                assert isinstance(results[name], dict), f"The evaluator of {name} gave {results[name]!r}, not a dict"
                logger.info(f"Evaluation results for {name} in csv format:")
                print_csv_format(results[name])
        return next(iter(results.values())) if len(results) == 1 else results

    @staticmethod
    def auto_scale_workers(cfg, num_workers: int):
        """Adapt a config made for SOLVER.REFERENCE_WORLD_SIZE processes to `num_workers` processes.

        The batch of each process stays; the whole batch and the learning rate grow by the ratio r of processes; the
        lengths MAX_ITER, WARMUP_ITERS, STEPS, EVAL_PERIOD and CHECKPOINT_PERIOD shrink by it. With reference 8: a
        batch of 16, lr 0.1, 5000 iterations become 32, 0.2, 2500 on 16 processes.

        Returns:
            A changed copy; `cfg` itself if the reference is 0 (not set) or equals `num_workers`.
        """
        reference = cfg.SOLVER.REFERENCE_WORLD_SIZE
        if reference in (0, num_workers):
            return cfg
        assert cfg.SOLVER.IMS_PER_BATCH % reference == 0, (
            f"SOLVER.IMS_PER_BATCH={cfg.SOLVER.IMS_PER_BATCH} is no multiple of REFERENCE_WORLD_SIZE={reference}"
        )
        ratio = num_workers / reference

        def shorter(iterations: int) -> int:
            return int(round(iterations / ratio))

        scaled = cfg.clone()
        scaled.defrost()
        solver = scaled.SOLVER
        solver.IMS_PER_BATCH = int(round(solver.IMS_PER_BATCH * ratio))
        solver.BASE_LR *= ratio
        for key in ("MAX_ITER", "WARMUP_ITERS", "CHECKPOINT_PERIOD"):
            solver[key] = shorter(solver[key])
        solver.STEPS = tuple(shorter(step) for step in solver.STEPS)
        solver.REFERENCE_WORLD_SIZE = num_workers
        scaled.TEST.EVAL_PERIOD = shorter(scaled.TEST.EVAL_PERIOD)
        if cfg.is_frozen():
            scaled.freeze()
        logger.info(
            f"Config scaled from {reference} to {num_workers} processes: batch {solver.IMS_PER_BATCH}, "
            f"learning rate {solver.BASE_LR}, {solver.MAX_ITER} iterations, warm-up {solver.WARMUP_ITERS}"
        )
        return scaled
