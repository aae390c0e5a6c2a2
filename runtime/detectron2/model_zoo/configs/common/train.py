"""The options of a training loop, as upstream names them."""

train = {
    "output_dir": "./output",
    "init_checkpoint": "",
    "device": "cuda",
    "max_iter": 90000,
    # in iterations
    "eval_period": 5000,
    "log_period": 20,
    "checkpointer": {"period": 5000, "max_to_keep": 100},
    "amp": {"enabled": False},
    "ddp": {"broadcast_buffers": False, "find_unused_parameters": False, "fp16_compression": False},
}
