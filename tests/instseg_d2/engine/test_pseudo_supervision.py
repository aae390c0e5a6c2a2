import pytest
import torch
from detectron2.config import instantiate
from detectron2.utils.events import EventStorage

from instseg_d2.engine.overrides import SettingError
from instseg_d2.engine.pseudo_supervision import PseudoSupervisionProbe
from instseg_d2.testing import fake_batch, tiny_condinst, tiny_condinst_config, without_objects


@pytest.fixture
def model():
    """Tiny, of random weights: sure of little, so the cuts are low."""
    torch.manual_seed(0)
    node = tiny_condinst_config(recipe="sim")
    node.update(positives_per_image=8, warmup_iters=0, paste_threshold=0.3)
    node.labeler.thresholds.update(low=0.45, high=0.5)
    return instantiate(node)


def test_maps_are_those_that_a_training_step_makes(model):
    probe = PseudoSupervisionProbe(model)
    (sample,) = fake_batch(images=1)
    maps = probe(sample)
    seen = []
    model.labeler.register_forward_hook(lambda module, inputs, output: seen.append((inputs, output)))
    model.teacher.momentum = 1.0  # it stays as it was when the probe looked
    with EventStorage():
        model([sample])
    ((_, instance, regions, classes), pseudo) = seen[0]
    assert torch.equal(maps.instance, instance)
    assert torch.equal(maps.targets, pseudo.targets)
    assert torch.equal(maps.valid, pseudo.valid)
    assert maps.stride * maps.instance.shape[1] >= 64
    assert maps.semantic.shape == maps.instance.shape == regions.shape
    assert maps.color_edges.shape == (8, *regions.shape[1:])
    assert maps.color_edges.dtype == torch.bool
    assert len(maps.locations) == len(maps.gt_inds) == len(maps.weights) > 2
    sums = torch.zeros(len(classes[0])).index_add_(0, maps.gt_inds, maps.weights)
    assert sums.tolist() == pytest.approx([1, 1])
    boxes = sample["instances"].gt_boxes.tensor[maps.gt_inds]
    assert ((maps.locations > boxes[:, :2]) & (maps.locations < boxes[:, 2:])).all()


def test_looking_trains_nothing(model):
    before = {name: value.clone() for name, value in model.named_parameters()}
    counters = int(model.iterations), int(model.supervision.iterations)
    prototypes = model.labeler.prototypes.vectors.clone()
    PseudoSupervisionProbe(model)(fake_batch(images=1)[0])
    assert all(torch.equal(value, before[name]) for name, value in model.named_parameters())
    assert (int(model.iterations), int(model.supervision.iterations)) == counters
    assert torch.equal(model.labeler.prototypes.vectors, prototypes)
    assert len(model.copy_paste.bank) == 0


def test_pastes_come_from_the_image_before(model):
    probe = PseudoSupervisionProbe(model)
    samples = fake_batch(images=3)
    pasted = probe.paste(samples, [probe(sample) for sample in samples])
    assert len(pasted) == 3
    for index, (image, truth) in enumerate(pasted):
        mask = truth.gt_masks.tensor[truth.gt_pasted].any(dim=0)
        assert mask.any()
        assert torch.equal(image[:, mask], samples[index - 1]["image"][:, mask])
        assert torch.equal(image[:, ~mask], samples[index]["image"][:, ~mask])
    assert probe.paste([], []) == []
    model.copy_paste = None
    assert probe.paste(samples, [probe(sample) for sample in samples]) == []


def test_images_without_objects(model):
    probe = PseudoSupervisionProbe(model)
    samples = without_objects(fake_batch(images=2))
    found = [probe(sample) for sample in samples]
    assert found[0].instance.shape[0] == found[0].targets.shape[0] == len(found[0].weights) == 0
    assert [len(truth) for _, truth in probe.paste(samples, found)] == [0, 0]


def test_other_models_are_refused():
    with pytest.raises(SettingError, match="CondInst makes no pseudo masks"):
        PseudoSupervisionProbe(tiny_condinst())
