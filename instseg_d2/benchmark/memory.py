"""Peak memory of tensors, counted the same way on CPU and CUDA: what torch's allocators hand out."""

import json
import os
import tempfile
from collections.abc import Callable
from itertools import accumulate
from pathlib import Path

from torch.profiler import ProfilerActivity, profile

from .compare import peak_memory

_CPU = 0  # device type in the profiler's trace


def peak_tensor_memory(run: Callable[[], object], *, on_cuda: bool = False) -> float:
    """Peak of what the tensors of a run take, above those that are held before it, in MiB.

    On CUDA from the allocator's statistics; on the CPU from the allocations that torch's profiler records. Unlike the
    resident size of the process, that does not depend on what earlier runs have left to be used again; memory that
    other libraries ask for is not in it.

    Args:
        run: does the work once.
        on_cuda: where the tensors are.
    """
    if on_cuda:
        return peak_memory(run, on_cuda=True)
    # The profiler's library reports on standard error that there is no GPU, unless told to be silent.
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        run()
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text())["traceEvents"]
    changes = [event for event in events if event.get("name") == "[memory]" and event["args"]["Device Type"] == _CPU]
    changes.sort(key=lambda event: event["ts"])
    return max(accumulate((event["args"]["Bytes"] for event in changes), initial=0)) / 2**20
