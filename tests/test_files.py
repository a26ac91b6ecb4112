import builtins
import hashlib
import os
import tracemalloc

import pytest

from crosswarp.files import file_digest, replacing


def test_a_file_appears_whole_or_stays_as_it_was(tmp_path):
    path = tmp_path / "new" / "file.json"
    with replacing(path) as partial:
        partial.write_text("first")
        assert not path.exists()
    with pytest.raises(OSError, match="disk full"), replacing(path) as partial:
        partial.write_text("sec")
        raise OSError("disk full")
    assert path.read_text() == "first"


def age(path, seconds=10):
    """Make a file look as if it had been written a while ago."""
    written = os.stat(path).st_mtime_ns - seconds * 10**9
    os.utime(path, ns=(written, written))


def test_a_digest_is_the_sha256_of_the_file_and_read_once_while_it_stays(tmp_path, monkeypatch):
    path = tmp_path / "file"
    path.write_bytes(b"abc")
    monkeypatch.setattr("crosswarp.files.SETTLED", -1)  # as if it had been written long ago
    opened, open_file = [], builtins.open
    monkeypatch.setattr(builtins, "open", lambda path, mode: opened.append(path) or open_file(path, mode))
    assert [file_digest(path) for _ in range(3)] == [hashlib.sha256(b"abc").hexdigest()] * 3
    assert opened == [path]
    path.write_bytes(b"abcd")  # another size
    assert file_digest(path) == hashlib.sha256(b"abcd").hexdigest()
    with replacing(path) as partial:
        partial.write_bytes(b"ABCD")  # the same size and name
    age(path)
    assert file_digest(path) == hashlib.sha256(b"ABCD").hexdigest()
    path.unlink()
    with pytest.raises(FileNotFoundError):
        file_digest(path)


def test_what_was_written_just_now_is_read_again(tmp_path):
    path = tmp_path / "file"
    for content in (b"one", b"two", b"six"):  # within one tick of the file system's clock, of one size
        path.write_bytes(content)
        assert file_digest(path) == hashlib.sha256(content).hexdigest()


def test_a_file_is_not_taken_into_memory_to_be_hashed(tmp_path, monkeypatch):
    path = tmp_path / "file"
    with open(path, "wb") as file:
        file.truncate(2**26)
    tracemalloc.start()
    file_digest(path)
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()
