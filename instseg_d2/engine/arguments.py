"""The command line of training: detectron2's flags, and overrides that must name existing keys."""

import argparse

_EPILOG = """\
overrides:
  key=value     change a key of the config, e.g. train.max_iter=1000 optimizer.lr=0.01
  +key=value    add an argument that the config does not set, e.g. +optimizer.eps=1e-6
  ~key          delete a key
  A mistyped key is refused with the nearest known ones. --print-config shows all keys.

examples:
  python tools/train_net.py --config-file Baselines/mask_rcnn_narrow_fpn_occshapes_quick
  python tools/train_net.py --config-file CONFIG --num-gpus 8 train.output_dir=output/run1
  torchrun --nproc-per-node 8 tools/train_net.py --config-file CONFIG
  python tools/train_net.py --config-file CONFIG --resume train.output_dir=output/run1
  python tools/train_net.py --config-file CONFIG --eval-only train.init_checkpoint=output/run1/model_final.pth

SIGTERM and Ctrl-C save the state and leave with exit code 128 + signal number; --resume goes on from there.
"""


def training_parser() -> argparse.ArgumentParser:
    """Parser of `tools/train_net.py`."""
    parser = argparse.ArgumentParser(
        description="Train and evaluate a recipe of instseg_d2.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--config-file",
        required=True,
        metavar="FILE_OR_NAME",
        help="a config file, or a name from `python -m instseg_d2.model_zoo list`",
    )
    parser.add_argument("--resume", action="store_true", help="continue from last_checkpoint in train.output_dir")
    parser.add_argument("--eval-only", action="store_true", help="evaluate train.init_checkpoint, train nothing")
    parser.add_argument("--print-config", action="store_true", help="print the config with all overrides and leave")
    parser.add_argument("--num-gpus", type=int, default=1, help="processes on this machine, one per GPU (default 1)")
    parser.add_argument("--num-machines", type=int, default=1, help="machines of the job (default 1)")
    parser.add_argument("--machine-rank", type=int, default=0, help="number of this machine, from 0")
    parser.add_argument(
        "--dist-url",
        default="auto",
        help="tcp://host:port of machine 0 for several machines (default: a free port)",
    )
    parser.add_argument("opts", nargs="*", metavar="key=value", help="overrides of config keys, see below")
    return parser
