"""Run settings that every recipe starts from. `python tools/train_net.py --help` explains the command line."""

train = dict(
    output_dir="./output",
    # A checkpoint to start from (.pth, Caffe2/MSRA .pkl, URL); "" trains from random weights.
    init_checkpoint="",
    max_iter=90000,
    seed=0,
    # "auto" takes the GPU where there is one; the choice is printed.
    device="auto",
    # precision: "float16" (with loss scaling) or "bfloat16".
    amp=dict(enabled=False, precision="float16"),
    ddp=dict(broadcast_buffers=False, find_unused_parameters=False, fp16_compression=False),
    # Upper limit of the gradient norm over all parameters; None leaves gradients as they are.
    clip_grad_norm=None,
    # Modules whose parameters stay as they are, by name, such as "proposal_generator" or "roi_heads.box_head".
    freeze=[],
    # Moving average of the weights, evaluated and saved in place of the raw ones.
    ema=dict(enabled=False, decay=0.9998),
    checkpointer=dict(period=5000, max_to_keep=3, best_metric="segm/AP"),
    eval_period=5000,
    log_period=20,
    # What lr and batch size were chosen for; another lr/batch ratio is pointed out at the start.
    recipe=dict(total_batch_size=16, lr=0.02),
    # Further hooks, as LazyCall nodes; each may look at `self.trainer`.
    hooks=[],
    # Writes report.html with metrics, curves and pictures into the output folder after the last evaluation.
    report=True,
)
