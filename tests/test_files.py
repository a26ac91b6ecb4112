import pytest

from crosswarp.files import replacing


def test_a_file_appears_whole_or_stays_as_it_was(tmp_path):
    path = tmp_path / "new" / "file.json"
    with replacing(path) as partial:
        partial.write_text("first")
        assert not path.exists()
    with pytest.raises(OSError, match="disk full"), replacing(path) as partial:
        partial.write_text("sec")
        raise OSError("disk full")
    assert path.read_text() == "first"
