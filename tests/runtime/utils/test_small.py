"""The small helpers: registry, logger, environment, memory, pickling, stand-ins, communication in one process."""

import copy
import logging
import os
import pickle
import random
import types

import numpy as np
import pytest
import torch
from detectron2.utils import comm, env
from detectron2.utils.develop import create_dummy_class, create_dummy_func
from detectron2.utils.file_io import PathHandler, PathManager
from detectron2.utils.logger import (
    create_small_table,
    log_every_n,
    log_every_n_seconds,
    log_first_n,
    setup_logger,
)
from detectron2.utils.memory import retry_if_cuda_oom
from detectron2.utils.registry import Registry, _convert_target_to_string, locate
from detectron2.utils.serialize import PicklableWrapper
from detectron2.utils.torch_version_utils import min_torch_version
from detectron2.utils.tracing import assert_fx_safe, is_fx_tracing


class Outer:
    class Inner:
        pass

    @classmethod
    def make(cls):
        return cls()


def test_locate():
    assert locate("torch.nn.Conv2d") is torch.nn.Conv2d
    assert locate("len") is len
    assert locate(f"{__name__}.Outer.Inner") is Outer.Inner
    assert callable(locate("detectron2.config.instantiate"))
    assert not isinstance(locate("detectron2.config.instantiate"), types.ModuleType)


@pytest.mark.bundled_only
def test_locate_modules_that_their_package_hides():
    assert locate("torch.optim.sgd.SGD") is torch.optim.SGD


@pytest.mark.parametrize(
    "name", ["no_such_package.x", "torch.no_such", "torch.nn.Conv2d.no_such", "torch.nn.Conv2d.x.y"]
)
def test_locate_what_is_not_there(name):
    with pytest.raises(ImportError, match=name):
        locate(name)


@pytest.mark.bundled_only
def test_locate_in_a_broken_module(tmp_path, monkeypatch):
    (tmp_path / "broken_module_xyz.py").write_text("import no_such_dependency")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ImportError, match="no_such_dependency"):
        locate("broken_module_xyz.x")


def test_shortest_path_to_an_object():
    assert _convert_target_to_string(torch.nn.Conv2d) == "torch.nn.Conv2d"
    assert _convert_target_to_string(Outer.Inner) == f"{__name__}.Outer.Inner"
    assert locate(_convert_target_to_string(Registry)) is Registry


def test_path_manager(tmp_path):
    class Memory(PathHandler):
        def _get_supported_prefixes(self):
            return ["mem-test://"]

        def _isfile(self, path):
            return path.endswith("x")

    PathManager.register_handler(Memory(), allow_override=True)
    assert PathManager.isfile("mem-test://x")
    assert not PathManager.isfile("mem-test://y")
    assert not PathManager.exists(str(tmp_path / "x"))


def test_seed_all_rng():
    def draw():
        return random.random(), np.random.rand(), torch.rand(1).item()

    env.seed_all_rng(7)
    first = draw()
    assert os.environ["PYTHONHASHSEED"] == "7"
    env.seed_all_rng(7)
    assert draw() == first
    random.seed(7)
    np.random.seed(7)
    torch.manual_seed(7)
    assert draw() == first
    env.seed_all_rng(None)
    assert draw() != first


def test_versions():
    assert env.TORCH_VERSION == tuple(map(int, torch.__version__.split(".")[:2]))
    assert min_torch_version("1.10")
    assert not min_torch_version("99.0")


def test_custom_environment(tmp_path):
    path = tmp_path / "setup.py"
    path.write_text("import os\ndef setup_environment():\n    os.environ['D2_TEST_SETUP'] = '1'")
    try:
        env.setup_custom_environment(str(path))
        assert os.environ["D2_TEST_SETUP"] == "1"
    finally:
        os.environ.pop("D2_TEST_SETUP", None)
    path.write_text("x = 1")
    with pytest.raises(AssertionError, match="setup_environment"):
        env.setup_custom_environment(str(path))


def test_logger_writes_file_and_stdout(tmp_path, capsys):
    logger = setup_logger(str(tmp_path / "sub"), name="pkg_a", abbrev_name="pa")
    assert setup_logger(str(tmp_path / "sub"), name="pkg_a", abbrev_name="pa") is logger
    assert len(logger.handlers) == 2
    logging.getLogger("pkg_a.mod").warning("hello")
    out = capsys.readouterr().out
    assert "hello" in out
    assert "pa.mod" in out
    assert "WARNING" in out
    text = (tmp_path / "sub" / "log.txt").read_text()
    assert "mod WARNING: hello" in text
    assert not logger.propagate
    for handler in list(logger.handlers):
        logger.removeHandler(handler)


def test_other_ranks_log_to_their_own_file(tmp_path, capsys):
    logger = setup_logger(str(tmp_path / "my.log"), 2, name="pkg_b")
    logger.info("quiet")
    assert capsys.readouterr().out == ""
    assert "pkg_b INFO: quiet" in (tmp_path / "my.log.rank2").read_text()


def test_rate_limited_logging(caplog):
    caplog.set_level(logging.INFO)
    for i in range(5):
        log_first_n(logging.INFO, f"first {i}", n=2)
        log_first_n(logging.INFO, "message", n=1, key="message")
        log_every_n(logging.INFO, f"every {i}", n=3)
        log_every_n_seconds(logging.INFO, f"seconds {i}", n=1000, name="my.logger")
    log_first_n(logging.INFO, "message", n=1, key="message")
    log_first_n(logging.INFO, "message", n=1, key=("caller", "message"))
    messages = [(r.name, r.getMessage()) for r in caplog.records]
    assert messages == [
        (__name__, "first 0"),
        (__name__, "message"),
        (__name__, "every 0"),
        ("my.logger", "seconds 0"),
        (__name__, "first 1"),
        (__name__, "every 3"),
        (__name__, "message"),
    ]


def test_small_table():
    header, _, row = create_small_table({"AP": 12.34567, "AR": 1}).splitlines()
    assert header.split() == ["|", "AP", "|", "AR", "|"]
    assert row.split() == ["|", "12.346", "|", "1", "|"]


def test_retry_if_cuda_oom():
    calls = []

    @retry_if_cuda_oom
    def grows(x, *, y):
        calls.append((x, y))
        if len(calls) < 3:
            raise RuntimeError("CUDA out of memory. Tried to allocate")
        return x + y

    assert grows(1, y=torch.tensor(2)).item() == 3
    assert len(calls) == 3

    @retry_if_cuda_oom
    def fails():
        raise RuntimeError("something else")

    with pytest.raises(RuntimeError, match="something else"):
        fails()


def test_picklable_wrapper():
    offset = 3
    wrapped = PicklableWrapper(PicklableWrapper(lambda x: x + offset))
    assert pickle.loads(pickle.dumps(wrapped))(4) == 7
    assert wrapped(1) == 4
    assert copy.deepcopy(PicklableWrapper([1, 2])) == [1, 2]


def test_stand_ins():
    missing = create_dummy_class("Missing", "some_lib", "Install it.")
    for use in (missing, lambda: missing.attribute, create_dummy_func("missing", ["lib_a", "lib_b"])):
        with pytest.raises(ImportError, match="not available"):
            use()


def test_fx_safe_assert():
    assert assert_fx_safe(True, "fine").item() == 1
    with pytest.raises(AssertionError, match="wrong"):
        assert_fx_safe(False, "wrong")
    assert not is_fx_tracing()


@pytest.mark.bundled_only
def test_fx_safe_assert_evaluates_strings_where_it_is_called():
    width = 3
    assert assert_fx_safe("width == 3", "fine").item() == 1
    with pytest.raises(AssertionError, match="wrong"):
        assert_fx_safe(f"width == {width + 1}", "wrong")


def test_communication_of_one_process():
    assert (comm.get_world_size(), comm.get_rank(), comm.get_local_rank(), comm.get_local_size()) == (1, 0, 0, 1)
    assert comm.is_main_process()
    comm.synchronize()
    assert comm.all_gather({"x": 1}) == [{"x": 1}]
    assert comm.gather("x") == ["x"]
    np.random.seed(3)
    expected = np.random.randint(2**31)
    np.random.seed(3)
    assert comm.shared_random_seed() == expected
    losses = {"b": torch.tensor(1.0), "a": torch.tensor(2.0)}
    assert comm.reduce_dict(losses) is losses
    with pytest.raises(AssertionError):
        comm.get_local_process_group()


def _worker(rank, folder):
    import torch.distributed as dist

    dist.init_process_group("gloo", init_method=f"file://{folder}/sync", rank=rank, world_size=2)
    comm.create_local_process_group(1 if (folder / "two_machines").exists() else 2)
    result = {
        "size": (comm.get_world_size(), comm.get_rank(), comm.get_local_rank(), comm.get_local_size()),
        "all": comm.all_gather(rank * 10),
        "one": comm.gather(rank * 10, dst=1),
        "seed": comm.all_gather(comm.shared_random_seed()),
        "mean": comm.reduce_dict({"b": torch.tensor(1.0 + rank), "a": torch.tensor(4.0 * rank)}),
    }
    comm.synchronize()
    torch.save(result, folder / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize("machines", [1, 2])
def test_communication_of_two_processes(tmp_path, machines):
    if machines == 2:
        (tmp_path / "two_machines").touch()
    torch.multiprocessing.start_processes(_worker, args=(tmp_path,), nprocs=2, start_method="fork")
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=False) for rank in (0, 1))
    assert first["size"] == (2, 0, 0, 2 if machines == 1 else 1)
    assert second["size"] == (2, 1, 1 if machines == 1 else 0, 2 if machines == 1 else 1)
    assert first["all"] == second["all"] == [0, 10]
    assert first["one"] == []
    assert second["one"] == [0, 10]
    assert len(set(first["seed"])) == 1
    assert {k: v.item() for k, v in first["mean"].items()} == {"a": 2.0, "b": 1.5}
