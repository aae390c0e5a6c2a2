import pytest
import torch
from detectron2.utils.events import EventStorage

from instseg_d2.testing import fake_batch, tiny_cascade, tiny_fcos_mask, tiny_mask_rcnn

_FAST = {"loss_cls", "loss_box_reg", "loss_mask", "loss_rpn_cls", "loss_rpn_loc"}
_CASCADE = {f"{name}_stage{stage}" for name in ("loss_cls", "loss_box_reg") for stage in range(3)}
_FCOS = {"loss_fcos_cls", "loss_fcos_loc", "loss_fcos_ctr", "loss_mask"}


@pytest.mark.parametrize(
    ("build", "names"),
    [
        (tiny_mask_rcnn, _FAST),
        (tiny_cascade, _CASCADE | {"loss_mask", "loss_rpn_cls", "loss_rpn_loc"}),
        (tiny_fcos_mask, _FCOS),
    ],
)
def test_tiny_model_is_tiny_and_learns(build, names):
    model = build()
    assert sum(parameter.numel() for parameter in model.parameters()) < 100_000
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3)
    batch, totals = fake_batch(), []
    with EventStorage():
        for _ in range(8):
            losses = model(batch)
            total = sum(losses.values())
            optimizer.zero_grad()
            total.backward()
            assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
            optimizer.step()
            totals.append(total.item())
    assert set(losses) == names
    assert totals[-1] < totals[0]
    model.eval()
    with torch.no_grad():
        output = model(batch)[0]["instances"]
    assert output.image_size == (64, 96)
    assert output.has("pred_masks")
