import itertools

import cv2
import pytest
import torch
from detectron2.utils.events import EventStorage

from instseg_d2.engine.inpainting_samples import SampleGrids
from instseg_d2.engine.trainer import Trainer
from instseg_d2.inpainting.stages.mapper import ClipMapper


def weights(stage):
    return torch.cat([parameter.detach().flatten() for parameter in stage.parameters()])


def trained(stage, clips, hooks=(), steps=5):
    torch.manual_seed(1)
    trainer = Trainer(stage, itertools.repeat(clips), torch.optim.SGD(stage.parameters(), 1e-3))
    trainer.register_hooks(hooks)
    trainer.train(0, steps)
    return trainer


def test_pictures_are_drawn_at_the_period_and_at_the_end_alone(make_stage, hidden_clips, tmp_path, monkeypatch):
    clips = hidden_clips(3)
    hook = SampleGrids(dataset=clips, mapper=ClipMapper(), output_dir=str(tmp_path), period=2, clips=2)
    drawn, other = make_stage("shape"), make_stage("shape")
    shown = []
    monkeypatch.setattr(
        EventStorage, "put_image", lambda storage, name, image: shown.append((name, storage.iter, image))
    )
    trained(drawn, clips, [hook])
    names = sorted(path.name for path in (tmp_path / "samples").iterdir())
    assert names == [f"{step:07d}_{clip}.png" for step in (2, 4, 5) for clip in (0, 1)]
    # RGB with the channels first.
    name, step, image = shown[-1]
    picture = cv2.imread(str(tmp_path / "samples" / "0000005_1.png"))
    assert (name, step) == ("sample 1", 4)
    assert torch.equal(torch.as_tensor(image), torch.from_numpy(picture[..., ::-1].transpose(2, 0, 1).copy()))
    assert drawn.training
    trained(other, clips)
    assert torch.equal(weights(drawn), weights(other))


def test_gates_and_attention_are_drawn_of_a_stage_with_discriminators(make_stage, hidden_clips, tmp_path):
    clips = hidden_clips(2)
    hook = SampleGrids(dataset=clips, mapper=ClipMapper(), output_dir=str(tmp_path), period=9, clips=1)
    hook.trainer = Trainer(make_stage("content"), clips, None)
    hook.trainer.max_iter = hook.trainer.iter + 1
    with EventStorage() as hook.trainer.storage:
        hook.after_step()
    names = sorted(path.name for path in (tmp_path / "samples").iterdir())
    assert names == ["0000001_0.png", "0000001_0_attention.png"]


def test_bad_settings_are_named(hidden_clips, tmp_path):
    with pytest.raises(ValueError, match="period"):
        SampleGrids(dataset=hidden_clips(1), mapper=ClipMapper(), output_dir=str(tmp_path), period=0)
