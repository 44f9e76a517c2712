"""Ray on this machine: what it listens to, what it leaves behind, and which GPU and how many threads a job gets."""

from __future__ import annotations

import os
import tempfile
from ipaddress import ip_address
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import recbole.quick_start  # noqa: F401  # imports Ray before we could set a variable
from threadpoolctl import threadpool_info

from recbole_sid.cluster import limit_threads, local_ray
from recbole_sid.comparison import runner
from recbole_sid.comparison.job import Job
from recbole_sid.errors import InputError
from recbole_sid.util.files import check_only_mine


def _is_loopback(host: str) -> bool:
    address = ip_address(host)
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback


def test_ray_listens_on_loopback_only_and_sweeps_its_private_folder() -> None:
    psutil = pytest.importorskip("psutil")
    import ray

    with local_ray(1):
        ray.get(ray.remote(lambda: None).remote())  # a worker listens too
        folder = Path(ray._private.worker._global_node.get_temp_dir_path()).parent
        assert folder.stat().st_mode & 0o777 == 0o700
        here = psutil.Process()
        listening = [
            connection.laddr.ip
            for process in (here, *here.children(recursive=True))
            for connection in process.net_connections("inet")
            if connection.status == psutil.CONN_LISTEN
        ]
    assert len(listening) >= 4
    assert all(map(_is_loopback, listening)), listening
    assert not folder.exists()
    assert folder.parent == Path(tempfile.gettempdir()) or folder.parent == Path("/tmp")


@pytest.mark.parametrize(("gpus", "expected"), [(1.0, "3"), (0.0, "0")])
def test_job_of_a_comparison_trains_on_the_gpu_that_ray_assigned(
    gpus: float, expected: str, monkeypatch: pytest.MonkeyPatch, data_path: Path
) -> None:
    import ray
    from recbole.config import Config

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    resources = SimpleNamespace(get_assigned_resources=lambda: {"CPU": 1.0, "GPU": gpus})
    monkeypatch.setattr(ray, "get_runtime_context", lambda: resources)
    seen: dict[str, Any] = {}

    def run(job: Job) -> dict[str, Any]:
        given = Config("BPR", "tiny", config_dict={"data_path": str(data_path), **job.settings})
        seen.update(gpu_id=given["gpu_id"], visible=os.environ["CUDA_VISIBLE_DEVICES"])
        return {}

    monkeypatch.setattr(runner, "run_job_quietly", run)
    runner._run_after(Job._make([{} for _ in Job._fields])._replace(processes=1))
    assert str(seen["gpu_id"]) == seen["visible"] == expected


@pytest.mark.parametrize(("cpus", "expected"), [(2.0, 2), (0.5, 1)])
def test_job_of_a_comparison_has_as_many_threads_as_cpus(
    cpus: float, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of torch, and of every library for products that is loaded or will be."""
    import ray
    import torch

    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    resources = SimpleNamespace(get_assigned_resources=lambda: {"CPU": cpus})
    monkeypatch.setattr(ray, "get_runtime_context", lambda: resources)
    seen: dict[str, Any] = {}

    def run(job: Job) -> dict[str, Any]:
        pools = [pool["num_threads"] for pool in threadpool_info()]
        seen.update(torch=torch.get_num_threads(), later=os.environ["OMP_NUM_THREADS"], pools=set(pools))
        return {}

    monkeypatch.setattr(runner, "run_job_quietly", run)
    limit_threads(3)
    try:
        runner._run_after(Job._make([{} for _ in Job._fields])._replace(processes=1))
    finally:
        limit_threads(1)
    assert seen == {"torch": expected, "later": str(expected), "pools": {expected}}


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
def test_folder_that_others_can_write_is_not_unpickled_from(tmp_path: Path) -> None:
    folder = tmp_path / "search"
    folder.mkdir(mode=0o700)
    (folder / "tuner.pkl").write_bytes(b"")
    (folder / "tuner.pkl").chmod(0o644)
    check_only_mine(folder)
    (folder / "tuner.pkl").chmod(0o666)
    with pytest.raises(InputError, match=r"tuner\.pkl' is of another user, or others can write it"):
        check_only_mine(folder)
    (folder / "tuner.pkl").chmod(0o644)
    folder.chmod(0o777)
    with pytest.raises(InputError, match="others can write it"):
        check_only_mine(folder)
