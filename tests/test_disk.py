"""Full, limited and read-only disks, said in one line."""

from __future__ import annotations

import errno
import os
import resource

import pytest
import torch

from crosswarp.disk import DiskError, disk_error, explained, in_bytes, require_space
from crosswarp.errors import message
from crosswarp.files import replacing
from crosswarp.training import save_atomically
from crosswarp.training.augmented import mapped


@pytest.fixture
def limit():
    """Files of this process may have 64 KiB."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES])
def test_what_the_disk_refuses_is_one_line_and_leaves_the_old_file(tmp_path, code):
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(DiskError, match="then give the same command again") as caught:
        with replacing(path) as partial:
            partial.write_text("half")
            raise OSError(code, os.strerror(code))
    assert caught.value.errno == code and "\n" not in str(caught.value) and str(path) in str(caught.value)
    assert [each.name for each in tmp_path.iterdir()] == ["file"] and path.read_text() == "old"
    if code == errno.ENOSPC:
        assert "the disk is full (more than 4 bytes needed, " in str(caught.value)
        assert " free on the disk of " in str(caught.value)


def test_sizes_are_checked_before(tmp_path, limit):
    with pytest.raises(DiskError, match=r"1.5 GiB for checkpoints needed.*the limit is 64 KiB"):
        require_space(tmp_path / "a", 3 * 2**29, what="checkpoints")
    require_space(tmp_path / "a", 3 * 2**29, 2**16)
    with pytest.raises(DiskError, match="the disk is full .1.074e.09 GiB needed"):
        require_space(tmp_path / "new" / "a", 2**60, 1)
    with pytest.raises(DiskError), mapped(tmp_path / "m.npy", float, (10**6,)):
        raise AssertionError("nothing is mapped")
    assert not list(tmp_path.iterdir())


def test_torch_says_it_in_the_same_words(tmp_path, limit):
    save_atomically(torch.zeros(10), tmp_path / "a.pt")
    with pytest.raises(DiskError, match="larger than this process may write"):
        save_atomically(torch.zeros(10**5), tmp_path / "a.pt")
    with (
        pytest.raises(DiskError, match="larger than this process may write"),
        replacing(tmp_path / "a.pt") as partial,
    ):
        torch.save(torch.zeros(10**5), partial)
    assert len(torch.load(tmp_path / "a.pt")) == 10


def test_other_errors_stay_what_they_are(tmp_path):
    with pytest.raises(RuntimeError, match="^of the program$"), explained(tmp_path / "a"):
        raise RuntimeError("of the program")
    assert in_bytes(10) == "10 bytes"


def test_whoever_raises_it_it_is_explained():
    said = message(OSError(errno.ENOSPC, "No space left on device", "/some/events.out"))
    assert said.startswith("Cannot write /some/events.out: the disk is full (") and "Free some" in said
    assert (
        message(disk_error(__file__ and __import__("pathlib").Path("a"), errno.EIO)).count("Cannot write")
        == 1
    )
