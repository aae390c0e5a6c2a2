import functools

import pytest
from detectron2.config import LazyCall as L
from omegaconf import OmegaConf

from instseg_d2.model_zoo import get_config
from instseg_d2.reproduction import Recipe, Row, SharedDetector, Study, StudyError, Table
from instseg_d2.reproduction.plan import Planner, fingerprint

NARROW = "Baselines/mask_rcnn_narrow_fpn_occshapes_quick"


def key(**changes):
    cfg = get_config(NARROW)
    for path, value in changes.items():
        OmegaConf.update(cfg, path.replace("__", "."), value)
    return fingerprint(cfg)


def test_fingerprint_is_of_what_may_change_a_result():
    assert key() == key()
    changes = {"train__max_iter": 499, "optimizer__lr": 1.1e-3, "model__roi_heads__mask_head__conv_dims": [64]}
    changes |= {"train__init_checkpoint": "w.pth", "dataloader__test__dataset__names": "x"}
    assert len({key(), *(key(**{path: value}) for path, value in changes.items())}) == 6


def test_fingerprint_is_not_of_where_and_how_often():
    neutral = {"train__output_dir": "x", "train__seed": 5, "train__device": "cuda", "train__report": False}
    assert key(**neutral, train__eval_period=7, train__checkpointer__period=9) == key()


def test_objects_in_a_config_have_lasting_names():
    def cfg(value):
        return OmegaConf.create({"model": value, "train": {}}, flags={"allow_objects": True})

    plain, keyword = functools.partial(max, 1), functools.partial(max, default=1)
    keys = [fingerprint(cfg(value)) for value in (max, min, plain, keyword, L(range)(a=1), 1 + 2j)]
    assert len(set(keys)) == 6
    assert keys[2] == fingerprint(cfg(functools.partial(max, 1)))
    with pytest.raises(StudyError, match="cannot be told apart"):
        fingerprint(cfg(object()))


def test_interpolation_that_leads_nowhere_is_told():
    with pytest.raises(StudyError, match="cannot be resolved"):
        fingerprint(OmegaConf.create({"model": "${nowhere}", "train": {}}))


def test_all_rows_of_a_seed_together_in_folders_of_their_own(make_tasks, tmp_path):
    tasks = make_tasks(Row("A + x", quick="a.py"), Row("Only full", full="a.py"), Row("B", quick="b.py"), seeds=(0, 3))
    assert [(task.name, task.seed) for task in tasks] == [("A + x", 0), ("B", 0), ("A + x", 3), ("B", 3)]
    assert tasks[2].folder == tmp_path / "runs" / "quick" / f"a_x-{tasks[2].fingerprint}" / "seed3"
    assert str(tasks[2]) == "A + x, quick, seed 3"


@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        ("c.py", "'A', budget quick: no config file and no recipe named 'c.py'"),
        (Recipe("a.py", ("train.max_itr=3",)), "'A', budget quick: .*nearest: train.max_iter"),
        (Recipe("a.py", ("train.max_iter",)), "not of the form key=value"),
    ],
)
def test_mistakes_are_told_with_the_row(make_tasks, recipe, words):
    with pytest.raises(StudyError, match=words):
        make_tasks(Row("A", quick=recipe))


def test_shared_detector_is_a_part_of_what_a_row_is(project, tmp_path):
    def task(**changes):
        detector = SharedDetector("D", **{"quick": "a.py", **changes})
        row = Row("B", quick="b.py", shared_detector=detector)
        return Planner(project, Study(Table("T", (row,), ("segm/AP",))), tmp_path).task(row, "quick", 0)

    plain = task()
    others = [task(seed=1), task(overrides=("train.max_iter=7",)), task(leave_out=("x",))]
    assert task().fingerprint == plain.fingerprint
    assert len({plain.fingerprint, *(other.fingerprint for other in others)}) == 4
    assert plain.start.weights.name == "detector.pth"
    with pytest.raises(StudyError, match="'D' has no config in the budget 'quick'"):
        task(quick=None, full="a.py")


def test_weights_that_are_tested_are_a_part_of_what_a_row_is(make_tasks):
    trained = [Row("A", quick="a.py"), Row("B", quick="b.py")]
    tests = [Row(f"of {row.name}", quick="a.py", weights_of=row) for row in trained]
    a, _, of_a, of_b = make_tasks(*trained, *tests)
    assert len({a.fingerprint, of_a.fingerprint, of_b.fingerprint}) == 3
    assert of_a.source.folder == a.folder
    with pytest.raises(StudyError, match="which is in no table"):
        make_tasks(tests[0])
    with pytest.raises(StudyError, match="weights_of names a row that is trained"):
        Row("test of a test", quick="a.py", weights_of=tests[0])


def test_rows_share_one_task_of_their_detector(make_tasks):
    detector = SharedDetector("D", quick="a.py")
    tasks = make_tasks(*(Row(name, quick="b.py", shared_detector=detector) for name in "xy"), seeds=(0, 1))
    assert len({task.start for task in tasks}) == 1
