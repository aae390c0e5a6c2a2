"""What a tracker remembers of its objects."""

import numpy as np
import torch


class TrackTable:
    """One row for each object: its id, the frame that it was last seen in, and tensors of any kind.

    Rows are in the order of ids. Ids and frames lie on the CPU, where the decisions are made; the tensors stay on the
    device of the detections.

    Attributes:
        ids: (T,) int64.
        last_seen: (T,) int64, numbers of frames.
        values: tensors (T, ...) by name; no names before the first object.
    """

    def __init__(self):
        self.ids = np.zeros(0, dtype=np.int64)
        self.last_seen = np.zeros(0, dtype=np.int64)
        self.values: dict[str, torch.Tensor] = {}

    def __len__(self) -> int:
        return len(self.ids)

    def append(self, ids: np.ndarray, frame: int, **values: torch.Tensor) -> None:
        """Add objects, seen in `frame`, with their tensors (K, ...)."""
        self.ids = np.concatenate([self.ids, ids])
        self.last_seen = np.concatenate([self.last_seen, np.full(len(ids), frame)])
        self.values = {
            name: torch.cat([self.values[name], new]) if name in self.values else new for name, new in values.items()
        }

    def update(self, rows: np.ndarray, frame: int, **values: torch.Tensor) -> None:
        """Overwrite tensors of objects that were seen in `frame`; `rows` (K,) are their places in the table."""
        if len(rows) == 0:
            return
        self.last_seen[rows] = frame
        for name, new in values.items():
            self.values[name][torch.from_numpy(rows)] = new

    def forget(self, gone: np.ndarray) -> None:
        """Remove the objects where `gone` (T,) is true."""
        if gone.any():
            kept = ~gone
            self.ids, self.last_seen = self.ids[kept], self.last_seen[kept]
            self.values = {name: tensor[torch.from_numpy(kept)] for name, tensor in self.values.items()}
