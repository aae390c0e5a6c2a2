"""Training: loops, hooks, process launch, and the default trainer and predictor built from a config."""

from .defaults import (
    DefaultPredictor,
    DefaultTrainer,
    create_ddp_model,
    default_argument_parser,
    default_setup,
    default_writers,
)
from .hooks import (
    AutogradProfiler,
    BestCheckpointer,
    CallbackHook,
    EvalHook,
    IterationTimer,
    LRScheduler,
    PeriodicCheckpointer,
    PeriodicWriter,
    PreciseBN,
    TorchMemoryStats,
    TorchProfiler,
)
from .launch import DEFAULT_TIMEOUT, launch
from .train_loop import AMPTrainer, HookBase, SimpleTrainer, TrainerBase

# What `import *` gives; hooks and defaults are reachable by name only.
__all__ = ["DEFAULT_TIMEOUT", "launch", "AMPTrainer", "HookBase", "SimpleTrainer", "TrainerBase"]
