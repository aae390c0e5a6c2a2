"""Train and evaluate a recipe: the one loop that every project runs through."""

import difflib
import json
import logging
from collections.abc import Iterable
from functools import partial
from pathlib import Path

import torch
from detectron2.config import instantiate
from detectron2.data import MetadataCatalog
from detectron2.engine import create_ddp_model, default_writers, hooks
from detectron2.evaluation import inference_on_dataset, print_csv_format
from detectron2.utils import comm
from detectron2.utils.env import seed_all_rng
from omegaconf import DictConfig, OmegaConf
from torch import nn

from instseg_d2.checkpoint import Checkpointer, load_weights
from instseg_d2.data import DatasetError
from instseg_d2.files import write_whole
from instseg_d2.inpainting.stages.stage import AdversarialStage
from instseg_d2.visualization.report import write_report

from .hooks import BestCheckpoint, EMAHook, StopOnSignal
from .inpainting_trainer import AdversarialTrainer
from .overrides import SettingError, config_keys
from .recipe import report_recipe
from .trainer import Trainer

_log = logging.getLogger(__name__)
_PRECISIONS = {"float16": torch.float16, "bfloat16": torch.bfloat16}


def resolve_device(name: str) -> str:
    """The torch device behind `train.device`; "auto" is the GPU where there is one, else the CPU.

    Raises:
        SettingError: a CUDA device is asked for and there is none.
    """
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise SettingError(f"train.device is '{name}', but torch finds no CUDA device; use train.device=cpu or auto")
    return name


def build_model(cfg: DictConfig) -> nn.Module:
    """Instantiate `cfg.model` on the device of `cfg.train.device`; parameters of `cfg.train.freeze` will not learn.

    Raises:
        SettingError: a module that is to be frozen does not exist.
    """
    device = resolve_device(cfg.train.device)
    model = instantiate(cfg.model).to(device)
    modules = dict(model.named_modules())
    for name in cfg.train.get("freeze") or ():
        if name not in modules:
            near = difflib.get_close_matches(name, modules, n=3)
            raise SettingError(
                f"train.freeze names '{name}', which the model does not have (nearest: {', '.join(near)})"
            )
        modules[name].requires_grad_(False)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    _log.info(f"{type(model).__name__} with {parameters / 1e6:.2f} M parameters on {device}")
    return model


def evaluate(cfg: DictConfig, model: nn.Module) -> dict:
    """Run `cfg.dataloader.test` through the model and `cfg.dataloader.evaluator`, then `further_evaluations`.

    Those, if `cfg.dataloader` has them, are a list of nodes; each makes a callable that takes the model, on every
    process, and returns results of the same form, for what cannot be told from detections alone.

    Returns:
        `{task: {metric: value}}` with AP in percent on the main process, `{}` on others, and for a data set without
        ground truth (its predictions are in `coco_instances_results.json`, ready to upload).

    Raises:
        DatasetError: the data set has boxes only, and masks are to be evaluated.
    """
    results = _evaluate_detections(cfg, model)
    for node in cfg.dataloader.get("further_evaluations") or ():
        results.update(instantiate(node)(model))
    if results and comm.is_main_process():
        print_csv_format(results)
        write_whole(Path(cfg.train.output_dir) / "results.json", json.dumps(results, indent=1))
    return results


def _evaluate_detections(cfg: DictConfig, model: nn.Module) -> dict:
    loader = instantiate(cfg.dataloader.test)
    try:
        return inference_on_dataset(model, loader, instantiate(cfg.dataloader.evaluator))
    except KeyError as error:
        if error.args != ("segmentation",):  # what pycocotools misses
            raise
        raise DatasetError(
            f"the model predicts masks, but data set '{cfg.dataloader.test.dataset.names}' (dataloader.test) has "
            "annotations without: evaluate boxes alone with +dataloader.evaluator.tasks=[bbox], or on another data set"
        ) from error


def evaluate_checkpoint(cfg: DictConfig) -> dict:
    """Evaluate the weights of `cfg.train.init_checkpoint`; writes `results.json` and the report.

    Raises:
        SettingError: no checkpoint is named.
        CheckpointError: the checkpoint cannot be loaded, or does not hold every parameter of the model.
    """
    if not cfg.train.init_checkpoint:
        raise SettingError("--eval-only needs weights: train.init_checkpoint=path/to/model_final.pth")
    model = build_model(cfg)
    load_weights(model, cfg.train.init_checkpoint)
    _check_classes(cfg, "test")
    results = evaluate(cfg, model)
    _report(cfg, results)
    return results


def _check_classes(cfg: DictConfig, split: str) -> None:
    """Compare the largest `num_classes` of the model with a data set's classes, where both are known."""
    keys = [key for key in config_keys(cfg.model) if key.rpartition(".")[2] == "num_classes"]
    counts = {f"model.{key}": OmegaConf.select(cfg.model, key) for key in keys}
    counts = {key: count for key, count in counts.items() if isinstance(count, int)}
    names = OmegaConf.select(cfg, f"dataloader.{split}.dataset.names")
    for name in [names] if isinstance(names, str) else names or []:
        classes = MetadataCatalog.get(name).get("thing_classes")
        if classes and counts and max(counts.values()) != len(classes):
            key = max(counts, key=counts.get)
            raise SettingError(
                f"{key} is {counts[key]}, but data set '{name}' (dataloader.{split}) has {len(classes)} classes: set "
                f"{key}={len(classes)}, or change the data set"
            )


def _report(cfg: DictConfig, results: dict) -> None:
    if comm.is_main_process() and cfg.train.report and results:
        path = write_report(Path(cfg.train.output_dir), cfg.dataloader.test.dataset.names)
        summary = ", ".join(
            f"{task} AP {metrics['AP']:.1f} (AP50 {metrics['AP50']:.1f})"
            for task, metrics in results.items()
            if "AP50" in metrics
        )
        _log.info(f"{summary + '; ' if summary else ''}report with curves and pictures: {path}")


def _amp_dtype(cfg: DictConfig) -> torch.dtype | None:
    if not cfg.train.amp.enabled:
        return None
    if cfg.train.amp.precision not in _PRECISIONS:
        raise SettingError(f"train.amp.precision must be one of {list(_PRECISIONS)}, not '{cfg.train.amp.precision}'")
    return _PRECISIONS[cfg.train.amp.precision]


def _distributed(cfg: DictConfig, model: nn.Module) -> nn.Module:
    options = dict(cfg.train.ddp)
    if next(model.parameters()).device.type == "cpu":
        options["device_ids"] = None
    return create_ddp_model(model, **options)


def _build_trainer(cfg: DictConfig, model: nn.Module, optimizer: torch.optim.Optimizer) -> Trainer:
    """The trainer that the model needs, without data."""
    options = {"amp_dtype": _amp_dtype(cfg), "clip_grad_norm": cfg.train.clip_grad_norm}
    if isinstance(model, AdversarialStage):
        return AdversarialTrainer(model, None, optimizer, distributed=partial(_distributed, cfg), **options)
    return Trainer(_distributed(cfg, model), None, optimizer, **options)


def train(cfg: DictConfig, *, resume: bool = False) -> dict:
    """Train a recipe and evaluate it at the end.

    Writes into `cfg.train.output_dir`: `config.yaml`, `metrics.json`, TensorBoard events, `model_*.pth`,
    `model_best.pth`, `model_final.pth`, `last_checkpoint`, `results.json`, `report.html`.

    Args:
        cfg: a recipe. With `train.ema.enabled`, evaluation, `model_best.pth` and `model_ema.pth` take the averaged
            weights.
        resume: continue from `last_checkpoint` of the output folder, if there is one.

    Returns:
        Results of the last evaluation, see `evaluate`.

    Raises:
        NonFiniteLossError: see `Trainer`.
        CheckpointError, DatasetError, SampleError, SettingError: what to start from or train on cannot be used.
        OSError: something cannot be written; earlier checkpoints are untouched.
        TrainingStopped: after SIGTERM or SIGINT, when the state is saved.
    """
    settings = cfg.train
    output_dir = Path(settings.output_dir)
    report_recipe(cfg)
    for split in ("train", "test"):
        _check_classes(cfg, split)
    model = build_model(cfg)
    cfg.optimizer.params.model = model
    optimizer = instantiate(cfg.optimizer)
    ema = EMAHook(model, settings.ema.decay) if settings.ema.enabled else None
    evaluated = ema.averaged.module if ema else model
    trainer = _build_trainer(cfg, model, optimizer)
    checkpointer = Checkpointer(model, str(output_dir), trainer=trainer)
    weights_writer = Checkpointer(evaluated, str(output_dir))
    results = {}

    def run_evaluation() -> dict:
        results.clear()
        results.update(evaluate(cfg, evaluated))
        return dict(results)

    is_main = comm.is_main_process()
    stop = StopOnSignal(checkpointer.save)
    trainer.register_hooks(
        [
            hooks.IterationTimer(),
            ema,
            hooks.LRScheduler(scheduler=instantiate(cfg.lr_multiplier)),
            *(instantiate(hook) for hook in settings.hooks),
            hooks.PeriodicCheckpointer(
                checkpointer,
                settings.checkpointer.period,
                settings.max_iter,
                settings.checkpointer.max_to_keep,
            )
            if is_main
            else None,
            hooks.EvalHook(settings.eval_period, run_evaluation),
            BestCheckpoint(weights_writer, settings.checkpointer.best_metric) if is_main else None,
            hooks.PeriodicWriter(default_writers(str(output_dir), settings.max_iter), period=settings.log_period)
            if is_main
            else None,
            stop,
        ]
    )
    start = _restore(checkpointer, model, settings.init_checkpoint, resume=resume)
    if start >= settings.max_iter:
        _log.info(f"'{output_dir}' is trained to iteration {start} of {settings.max_iter}; evaluating")
        run_evaluation()
    else:
        if start:
            # Otherwise a resumed training would draw the images and crops of its first iterations again.
            seed_all_rng(settings.seed + comm.get_rank() + start)
        trainer.data_loader = _train_loader(cfg)
        with stop.listening():
            trainer.train(start, settings.max_iter)
    if is_main and ema:
        weights_writer.write("model_ema")
    _report(cfg, results)
    return results


def _train_loader(cfg: DictConfig) -> Iterable:
    try:
        return instantiate(cfg.dataloader.train)
    except DatasetError:
        raise
    except (AssertionError, ValueError) as error:  # what detectron2 raises when no image is left, and for bad settings
        raise DatasetError(
            f"dataloader.train cannot be built: {error} (data set: {cfg.dataloader.train.dataset.names}; "
            "dataloader.train.dataset.filter_empty=False keeps images without instances)"
        ) from error


def _restore(checkpointer: Checkpointer, model: nn.Module, init_checkpoint: str, *, resume: bool) -> int:
    """Load what the training starts from and return the iteration to begin with."""
    if resume and checkpointer.has_checkpoint():
        path = checkpointer.get_checkpoint_file()
        checkpointer.load(path)
        checkpointer.require_parameters(path)
        return checkpointer.checkpointables["trainer"].iter + 1
    if resume:
        _log.warning(f"--resume: no checkpoint in '{checkpointer.save_dir}'; training starts from the beginning")
    if init_checkpoint:
        load_weights(model, init_checkpoint, partial=True)
    return 0
