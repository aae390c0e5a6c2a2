"""Pictures of what a stage of video object inpainting makes of a few clips, as it is trained."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from detectron2.engine import HookBase
from detectron2.utils import comm
from torch.utils.data import Dataset

from instseg_d2.inpainting.stages.stage import AdversarialStage, Stage
from instseg_d2.visualization.inpainting_attention import draw_attention
from instseg_d2.visualization.inpainting_stages import draw_stage


class SampleGrids(HookBase):
    """Draws the same clips every so often, and at the end: `samples/<iteration>_<clip>.png`, and images of TensorBoard.

    A stage with discriminators is also drawn with its gates and attention, `<iteration>_<clip>_attention.png`.

    Args:
        dataset: items that are the same each time, such as those of the test.
        mapper: of the items.
        output_dir: the folder of the training.
        period: iterations.
        clips: how many, at equal steps through the data.

    Raises:
        ValueError: `period` or `clips` is less than 1.
    """

    def __init__(
        self,
        *,
        dataset: Dataset,
        mapper: Callable[[dict[str, Any]], dict[str, Any]],
        output_dir: str,
        period: int,
        clips: int = 2,
    ):
        if period < 1 or clips < 1:
            raise ValueError(f"period and clips must be 1 or more, got {period} and {clips}")
        self.dataset = dataset
        self.mapper = mapper
        self.folder = Path(output_dir) / "samples"
        self.period = period
        self.clips = clips
        self._items: Sequence[dict[str, Any]] = ()

    def after_step(self) -> None:
        done = self.trainer.iter + 1
        if comm.is_main_process() and (done % self.period == 0 or done == self.trainer.max_iter):
            self._draw(done)

    def _draw(self, done: int) -> None:
        if not self._items:
            count = min(self.clips, len(self.dataset))
            places = np.linspace(0, len(self.dataset) - 1, count).round().astype(int).tolist()
            self._items = [self.mapper(self.dataset[place]) for place in places]
        stage: Stage = getattr(self.trainer.model, "module", self.trainer.model)
        stage.eval()
        outputs = [stage([item])[0] for item in self._items]
        stage.train()
        self.folder.mkdir(parents=True, exist_ok=True)
        for number, (item, output) in enumerate(zip(self._items, outputs, strict=True)):
            self._show(f"{done:07d}_{number}", f"sample {number}", draw_stage(item, output))
            attention = draw_attention(stage, item) if isinstance(stage, AdversarialStage) else None
            if attention is not None:
                self._show(f"{done:07d}_{number}_attention", f"attention {number}", attention)

    def _show(self, file_name: str, title: str, picture: np.ndarray) -> None:
        # TensorBoard wants RGB with the channels first.
        self.trainer.storage.put_image(title, picture[..., ::-1].transpose(2, 0, 1).copy())
        cv2.imwrite(str(self.folder / f"{file_name}.png"), picture)
