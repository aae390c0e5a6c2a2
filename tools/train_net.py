#!/usr/bin/env python
"""Train and evaluate any recipe of the collection; `--help` explains the command line."""

import logging
import sys
from argparse import Namespace

from detectron2.engine import default_setup
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger
from omegaconf import DictConfig, OmegaConf
from torch.multiprocessing import ProcessExitedException

from instseg_d2.engine.arguments import training_parser
from instseg_d2.engine.launch import launch
from instseg_d2.engine.mistakes import USER_MISTAKES, describe
from instseg_d2.engine.overrides import apply_overrides
from instseg_d2.engine.run import evaluate_checkpoint, train
from instseg_d2.model_zoo import config_path, get_config


def load_config(args: Namespace) -> DictConfig:
    """The recipe that the command line names, with its overrides."""
    return apply_overrides(get_config(args.config_file), args.opts)


def run(args: Namespace) -> None:
    """Work of one process; a mistake of the user ends it with one message and exit code 1."""
    cfg = load_config(args)
    # On a full disk every line of log.txt would otherwise bring a traceback of its own.
    logging.raiseExceptions = False
    try:
        default_setup(cfg, args)
        setup_logger(cfg.train.output_dir, distributed_rank=comm.get_rank(), name="instseg_d2")
        if args.eval_only:
            evaluate_checkpoint(cfg)
        else:
            train(cfg, resume=args.resume)
    except USER_MISTAKES as error:
        sys.exit(f"error: {describe(error, cfg.train.output_dir)}")


def main() -> int:
    """Parse the command line; a mistake in it, or in the config that it names, is one message, not a traceback."""
    parser = training_parser()
    args = parser.parse_intermixed_args()  # overrides may stand before and after flags
    try:
        cfg = load_config(args)
        args.config_file = str(config_path(args.config_file))
    except USER_MISTAKES as error:
        parser.exit(2, f"{parser.prog}: error: {describe(error)}\n")
    if args.print_config:
        print(OmegaConf.to_yaml(cfg))
        return 0
    try:
        launch(run, args)
    except ProcessExitedException as error:  # of `--num-gpus`: the process itself has said why
        if error.signal_name:
            raise
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
