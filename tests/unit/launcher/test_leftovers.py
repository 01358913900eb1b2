"""What nobody owns any more is removed; what somebody owns stays."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from python_backend.errors import SetupError
from python_backend.launcher.leftovers import Leftovers
from python_backend.launcher.process import Owner, start_ticks
from python_backend.launcher.run import LOGS_KEPT, Run, cache_root


def dead_owner() -> Owner:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        ticks = start_ticks(process.pid)
        assert ticks is not None
        process.kill()
    return Owner(process.pid, ticks)


REUSED = Owner(os.getpid(), Owner.me().start_ticks - 1)  # this pid, but of an earlier process


@pytest.mark.parametrize("owner", [dead_owner(), REUSED], ids=["dead", "pid reused"])
def test_directories_and_regions_of_dead_owners_go(tmp_path: Path, owner: Owner) -> None:
    shm, orphan, mine = tmp_path / "shm", Run(tmp_path, owner, 1), Run(tmp_path, Owner.me(), 1)
    shm.mkdir()
    for run in (orphan, mine):
        run.create()
        (shm / f"{run.name}30b08095").touch()
    (shm / "another_program").touch()
    left = Leftovers.find(tmp_path, shm)
    assert left.directories == (orphan.directory,)
    assert left.regions == (shm / f"{orphan.name}30b08095",)
    left.remove()
    assert mine.directory.is_dir()
    assert {path.name for path in shm.iterdir()} == {f"{mine.name}30b08095", "another_program"}
    assert not Leftovers.find(tmp_path, shm)


def test_orphaned_stubs_go_and_those_of_living_owners_stay(tmp_path: Path) -> None:
    def start(owner: Owner) -> subprocess.Popen[bytes]:
        region = f"{Run(tmp_path, owner, 1).name}30b08095"
        renamed = 'exec -a /rt/triton_python_backend_stub bash -c "read line" /m/1/model.py "$0"'
        return subprocess.Popen(["bash", "-c", renamed, region], stdin=subprocess.PIPE)

    with start(REUSED) as orphan, start(Owner.me()) as mine:
        left = Leftovers((), (), ())
        while orphan.pid not in left.processes:
            assert orphan.poll() is None
            left = Leftovers.find(tmp_path, tmp_path)
        assert mine.pid not in left.processes
        left.remove()
        assert orphan.wait() == -9
        assert mine.poll() is None
        mine.kill()


def test_says_what_it_found() -> None:
    assert str(Leftovers((1,), (Path("a"), Path("b")), ())) == "1 x process, 2 x shared memory region"
    assert str(Leftovers((), (), ())) == "nothing"


def test_old_logs_of_ended_runs_are_dropped(tmp_path: Path) -> None:
    running = Run(tmp_path, Owner.me(), LOGS_KEPT + 3)
    running.create()
    running.log_path.touch()
    os.utime(running.log_path, (0, 0))
    runs = [Run(tmp_path, Owner.me(), serial) for serial in range(LOGS_KEPT + 3)]
    for age, run in enumerate(runs):
        run.create()
        run.log_path.touch()
        os.utime(run.log_path, (age, age))
        run.remove()
    assert set((tmp_path / "logs").iterdir()) == {run.log_path for run in [running, *runs[3:]]}


def test_a_folder_that_others_may_write_to_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o770)
    with pytest.raises(SetupError, match="others may write to it"):
        Run(tmp_path, Owner.me(), 1).create()
    assert not list(tmp_path.iterdir())


def test_cache_root() -> None:
    assert cache_root({"XDG_CACHE_HOME": "/c"}) == Path("/c/slipstream")
    assert cache_root({}).name == f"slipstream-{os.getuid()}"
