"""Hash check of everything that is loaded from assets/: a damaged or missing file is named, never silently used.

verified("assets/tiny_sd")             # the folder's path, all of its listed files checked
python -m alter_lib.assets             # check all
python -m alter_lib.assets --write     # regenerate assets/MANIFEST.sha256 after an asset was rebuilt
"""

import hashlib
import sys
from pathlib import Path

from .common.command_line import Parser, exit_code
from .common.faults import BadInput
from .common.files import write_text
from .params import ROOT

DATA = {".json", ".npz", ".safetensors", ".txt"}  # what is loaded; scripts, logs, licences and pictures are not


class AssetError(BadInput):
    """An asset is missing, damaged or unlisted; the message names the file."""


def _manifest(root: Path) -> Path:
    return root / "assets" / "MANIFEST.sha256"


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def listed(root: Path = ROOT) -> dict[str, str]:
    """{posix path below assets/: sha256}. Raises AssetError when there is no manifest or a line of it can't be read."""
    path = _manifest(root)
    if not path.is_file():
        raise AssetError(f"{path.relative_to(root)}: missing; python -m alter_lib.assets --write makes it")
    lines = [line.split("  ", 1) for line in path.read_text(encoding="utf-8").splitlines()]
    if bad := [number for number, line in enumerate(lines, 1) if len(line) != 2 or len(line[0]) != 64]:
        raise AssetError(f"{path.relative_to(root)}: line {bad[0]} is not 'sha256  path'")
    return {name: digest for digest, name in lines}


def verified(path: str | Path, root: Path = ROOT) -> Path:
    """Absolute path of a file or folder under assets/ whose listed files are all there and whole.

    Args:
        path: absolute, or relative to the repository root ("assets/tiny_sd").

    Raises:
        AssetError: a file is missing, damaged, or the manifest lists none at `path`.
    """
    path = root / path
    below = path.relative_to(root / "assets").as_posix()
    found = {name: digest for name, digest in listed(root).items() if name == below or name.startswith(below + "/")}
    if not found:
        raise AssetError(f"assets/{below}: not listed in assets/MANIFEST.sha256")
    for name, digest in found.items():
        _check(root, name, digest)
    return path


def _check(root: Path, name: str, digest: str) -> None:
    file = root / "assets" / name
    if not file.is_file():
        raise AssetError(f"assets/{name}: missing; restore it (git checkout -- assets/{name})")
    if (value := sha256(file)) != digest:
        raise AssetError(f"assets/{name}: damaged: its sha256 is {value[:12]}..., not {digest[:12]}... as listed")


def write_manifest(root: Path = ROOT) -> int:
    """Hash every data file under assets/ into the manifest, sorted by path; returns how many."""
    assets = root / "assets"
    files = sorted(file.relative_to(assets).as_posix() for file in assets.rglob("*") if file.suffix in DATA)
    write_text(_manifest(root), "".join(f"{sha256(assets / name)}  {name}\n" for name in files))
    return len(files)


def main(arguments: list[str] | None = None) -> int:
    parser = Parser(prog="python -m alter_lib.assets", description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="regenerate assets/MANIFEST.sha256")
    options = parser.parse_args(arguments)
    return exit_code(_list if options.write else _check_all, options.debug)


def _list() -> None:
    print(write_manifest(), "files listed")


def _check_all() -> None:
    for name, digest in listed().items():
        _check(ROOT, name, digest)
    print(len(listed()), "files as listed")


if __name__ == "__main__":
    sys.exit(main())
