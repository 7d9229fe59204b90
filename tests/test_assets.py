"""Assets are checked by hash: whatever is damaged or missing is named."""

from pathlib import Path

import pytest

from alter_lib import assets
from alter_lib.assets import AssetError, listed, verified, write_manifest


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name, text in {"a/x.json": "{}", "a/deep/y.npz": "yy", "ab/z.json": "[]", "a/make.py": "pass"}.items():
        file = tmp_path / "assets" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    write_manifest(tmp_path)
    return tmp_path


def test_data_files_are_listed_and_scripts_are_not(root: Path) -> None:
    assert list(listed(root)) == ["a/deep/y.npz", "a/x.json", "ab/z.json"]
    # sha256 of the two characters "{}"
    assert listed(root)["a/x.json"] == "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"


def test_whole_files_and_folders_pass(root: Path) -> None:
    assert verified("assets/a", root) == root / "assets" / "a"
    assert verified(root / "assets" / "a" / "x.json", root) == root / "assets" / "a" / "x.json"


def test_a_damaged_file_is_named_wherever_it_lies_in_the_folder(root: Path) -> None:
    (root / "assets/a/deep/y.npz").write_text("yY")
    with pytest.raises(AssetError, match=r"assets/a/deep/y\.npz: damaged"):
        verified("assets/a", root)
    assert verified("assets/ab", root)  # a folder whose name merely begins alike is another one


def test_a_missing_file_is_named(root: Path) -> None:
    (root / "assets/a/x.json").unlink()
    with pytest.raises(AssetError, match=r"assets/a/x\.json: missing"):
        verified("assets/a/x.json", root)


def test_an_unlisted_file_is_refused(root: Path) -> None:
    (root / "assets/a/new.json").write_text("{}")
    with pytest.raises(AssetError, match=r"assets/a/new\.json: not listed"):
        verified("assets/a/new.json", root)


def test_a_broken_manifest_says_which_line(root: Path) -> None:
    with (root / "assets/MANIFEST.sha256").open("a") as file:
        file.write("nonsense\n")
    with pytest.raises(AssetError, match="line 4"):
        listed(root)


def test_no_manifest_says_how_to_make_it(tmp_path: Path) -> None:
    with pytest.raises(AssetError, match=r"MANIFEST\.sha256: missing.*--write"):
        listed(tmp_path)


def test_the_committed_assets_are_whole(capsys: pytest.CaptureFixture) -> None:
    assert assets.main([]) == 0
    assert "files as listed" in capsys.readouterr().out
