"""From a teacher's masks to targets of a student (Teacher-Student mask heads, Sec. 4.2 and 5.1).

U = regions whose own mask is hidden, maps of size (H, W).
"""

import torch

from instseg_d2.layers.mean_field import DenseCRF

METHODS = ("interaction", "threshold", "crf", "soft")


class PseudoMasks:
    """What becomes of predictions that stand in for hidden masks.

    Args:
        method: "interaction": the mean of teacher and student, cut at `threshold` (the paper's final choice);
            "threshold": the teacher alone; "crf": the teacher refined by `crf`, then cut; "soft": the teacher's
            probabilities as they are.
        threshold: probability from which a pixel is foreground.
        without_seen: what a mask of a seen category covers is background.
        inside_box: what lies outside of the true box is background.
        crf: of the method "crf".

    Raises:
        ValueError: there is no such method, or `crf` is missing or without use.
    """

    # No dataclass: a config would turn its instances into config nodes.
    def __init__(
        self,
        *,
        method: str = "interaction",
        threshold: float = 0.5,
        without_seen: bool = True,
        inside_box: bool = True,
        crf: DenseCRF | None = None,
    ):
        if method not in METHODS:
            raise ValueError(f"method={method!r}: must be one of {METHODS}")
        if (method == "crf") != (crf is not None):
            raise ValueError(f"method={method!r} with crf={crf}: 'crf' needs a DenseCRF, the others take none")
        self.method = method
        self.threshold = threshold
        self.without_seen = without_seen
        self.inside_box = inside_box
        self.crf = crf

    @property
    def needs_colors(self) -> bool:
        """Whether the colours of the image are looked at."""
        return self.crf is not None

    @torch.no_grad()
    def __call__(
        self, teacher: torch.Tensor, student: torch.Tensor, colors: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Make targets, before the rules of what is background.

        Args:
            teacher: (U, H, W) probabilities.
            student: (U, H, W) probabilities of the true class, of the same pixels.
            colors: (U, 3, H, W), 0 to 255; with `needs_colors` alone.

        Returns:
            (U, H, W) float32 in [0, 1], without gradient.
        """
        teacher = teacher.detach().float()
        if self.method == "soft":
            return teacher
        if self.method == "interaction":
            teacher = (teacher + student.float()) / 2
        elif self.method == "crf":
            teacher = self.crf(teacher, colors)
        return (teacher >= self.threshold).float()
