"""What SECURITY.md says, checked: in the sources by their syntax trees, and with input made to do harm."""

import ast
import io
import json
import re
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch
from diffusers.utils import dynamic_modules_utils
from PIL import Image
from planned_pipeline import PIPE, PLAN

from alter_lib import load_backbone, load_pipeline, plots, save_pipeline
from alter_lib.common.faults import BadInput
from alter_lib.data.sources import open_source
from alter_lib.data.tars import ALLOW_PIPES
from alter_lib.data.transforms import Selection, decode
from alter_lib.params import ROOT, Data, ParamsError, load_params
from alter_lib.plan import ExpertPlan
from alter_lib.plan.costs import CostTable
from alter_lib.report import build, cells
from alter_lib.widgets.html import drawing
from alter_lib.widgets.words import description

EVIL = "<img src=x onerror=alert(1)><script>alert(2)</script>"


def sources() -> Iterator[tuple[str, ast.AST]]:
    for path in (ROOT / "run_all.py", *sorted((ROOT / "alter_lib").rglob("*.py"))):
        yield path.relative_to(ROOT).as_posix(), ast.parse(path.read_text(encoding="utf-8"))
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        cells = [cell.source for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]
        yield path.name, ast.parse("\n".join(line for cell in cells for line in cell.splitlines() if line[:1] != "%"))


def calls() -> Iterator[tuple[str, str, ast.Call]]:
    """(where, dotted name, call)."""
    for name, tree in sources():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                yield f"{name}:{node.lineno}", ast.unparse(node.func), node


def keyword(call: ast.Call, name: str) -> object:
    return next((ast.unparse(each.value) for each in call.keywords if each.arg == name), None)


def test_nothing_is_unpickled_but_weights_and_no_code_is_fetched_or_made():
    bad = []
    for where, name, call in calls():
        if name == "torch.load" and keyword(call, "weights_only") != "True":
            bad.append(f"{where}: torch.load without weights_only")
        if name in {"eval", "exec", "compile", "__import__", "os.system", "os.popen"}:
            bad.append(f"{where}: {name}")
        if re.search(r"\.extract(all)?$|unpack_archive$", name):  # a bare extract is of features
            bad.append(f"{where}: {name} writes where an archive says")
        for option, value in (("trust_remote_code", None), ("allow_pickle", None), ("shell", None)):
            if keyword(call, option) not in (value, "False"):
                bad.append(f"{where}: {option}")
        if name == "yaml.load" and ast.unparse(call.args[-1]) != "Loader":  # a SafeLoader, see below
            bad.append(f"{where}: yaml.load")
        if name in {"yaml.unsafe_load", "yaml.full_load"}:
            bad.append(f"{where}: {name}")
    assert bad == []


def test_the_search_sees_what_it_looks_for():
    names = {name for _, name, _ in calls()}
    assert {"torch.load", "yaml.load", "np.load", "subprocess.run"} <= names and len(list(sources())) > 100


def test_no_module_that_unpickles_is_imported():
    modules = {"pickle", "dill", "joblib", "marshal", "shelve", "cloudpickle"}
    found = [
        f"{where}: {name}"
        for where, tree in sources()
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in [getattr(node, "module", None), *(alias.name for alias in node.names)]
        if name and name.split(".")[0] in modules
    ]
    assert found == []


def test_params_are_read_by_a_safe_loader():
    import yaml

    from alter_lib.params.reading import Loader

    assert issubclass(Loader, yaml.SafeLoader)
    with pytest.raises(yaml.YAMLError):
        yaml.load("!!python/object/apply:os.getcwd []", Loader)


def test_an_archive_can_not_write_outside_nor_anywhere(tmp_path: Path):
    shards, picture = tmp_path / "a" / "shards", io.BytesIO()
    shards.mkdir(parents=True)
    Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(picture, "png")
    with tarfile.open(shards / "00000.tar", "w") as tar:
        for stem in ("../../up", f"{tmp_path}/absolute", "plain"):
            for suffix, content in ((".png", picture.getvalue()), (".txt", EVIL.encode())):
                (member := tarfile.TarInfo(stem + suffix)).size = len(content)
                tar.addfile(member, io.BytesIO(content))
        link = tarfile.TarInfo("link.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    before = sorted(tmp_path.rglob("*"))
    data = Data(source="webdataset", path=str(shards), cache_folder=str(tmp_path / "cache"))
    selection = Selection(data, 32, None)
    records = [record for record in open_source(data, False).read(0)]
    squares = [selection.prepare(record) for record in records]
    assert sorted(tmp_path.rglob("*")) == before
    assert [square.shape for square in squares] == [(32, 32, 3)] * 3  # the link is no file
    assert {record.captions for record in records} == {(EVIL,)} and decode(records[0].image).size == (32, 32)


@pytest.mark.parametrize("path", ["pipe:touch x", "PIPE:touch x", " pipe:touch x", "a.tar::pipe:touch x",
                                  "{pipe:touch x,http://b}", "http://b/{0..1}::pipe:touch x"])  # fmt: skip
def test_no_spelling_of_data_path_reaches_a_shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pipe:touch x").touch()  # a file of that name makes it no file name
    monkeypatch.delenv(ALLOW_PIPES, raising=False)
    with pytest.raises(ParamsError, match=r"^data.path: "):
        open_source(Data(source="webdataset", path=path, cache_folder="c"), False)
    assert [each.name for each in tmp_path.iterdir()] == ["pipe:touch x"]


CODE = "open({!r}, 'w').write('it ran')\nfrom diffusers import StableDiffusionPipeline, UNet2DConditionModel\n"


class Harm:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple:
        return open, (str(self.marker), "w")


def as_pipeline(folder: Path, index: dict, marker: Path) -> None:
    (folder / "harm.py").write_text(CODE.format(str(marker)))
    index["_class_name"] = ["harm", "StableDiffusionPipeline"]


def as_part(folder: Path, index: dict, marker: Path) -> None:
    (folder / "unet" / "harm.py").write_text(CODE.format(str(marker)))
    index["unet"] = ["harm", "UNet2DConditionModel"]


def as_pickle(folder: Path, index: dict, marker: Path) -> None:
    (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    torch.save({"conv_in.weight": Harm(marker)}, folder / "unet" / "diffusion_pytorch_model.bin")


@pytest.mark.parametrize("load", [load_pipeline, load_backbone])
@pytest.mark.parametrize("bring", [as_pipeline, as_part, as_pickle])
def test_code_that_an_artefact_brings_is_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bring: Callable, load: Callable
):
    monkeypatch.setattr(dynamic_modules_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    folder, marker = tmp_path / "alter", tmp_path / "marker"
    save_pipeline(PIPE, PLAN, folder)
    index = json.loads((folder / "model_index.json").read_text())
    bring(folder, index, marker)
    (folder / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(BadInput):
        load(str(folder))
    assert not marker.exists()


def is_harmless(html: str) -> bool:
    return "<script>alert" not in html and "<img src=x" not in html


def test_html_in_outputs_and_captions_stays_text_in_a_report():
    outputs = [
        nbformat.v4.new_output("stream", text=EVIL),
        nbformat.v4.new_output("display_data", data={"text/plain": EVIL}),
        nbformat.v4.new_output("display_data", data={"text/html": f"<table><tr><td>{EVIL}</td></tr></table>"}),
        nbformat.v4.new_output("display_data", data={"text/markdown": EVIL}),
        nbformat.v4.new_output("error", ename="E", evalue=EVIL, traceback=[EVIL]),
        nbformat.v4.new_output("display_data", data={"image/png": "iVBORw0=", "text/plain": f'"{EVIL}'}),
    ]
    cell = nbformat.v4.new_code_cell(f"print({EVIL!r})", outputs=outputs)
    assert is_harmless(cells.cell(cell)) and "onerror=alert(1)&gt;" in cells.cell(cell)
    assert is_harmless(cells.cell(nbformat.v4.new_markdown_cell(f"# {EVIL}\n\n[a](javascript:alert(1))")))
    assert "javascript:" not in cells.cell(nbformat.v4.new_markdown_cell("[a](javascript:alert(1))"))


def test_html_in_file_names_params_and_figures_stays_text_in_a_report(
    tmp_path: Path, write_notebook: Callable[..., Path]
):
    params = load_params("params/smoke.yaml", {"run.out": str(tmp_path), "data.limit": 3})
    name = EVIL.replace("/", "")
    path = write_notebook(params.run_folder / "notebooks" / f"01_{name}.ipynb", title=EVIL)
    assert path.is_file()
    facts = {"command": EVIL, "hardware": {"cpu": EVIL, "gpus": [], "cores": 2, "os": EVIL}, "warnings": [EVIL]}
    (params.run_folder / "provenance.json").write_text(json.dumps(facts))
    page = build.build_report(params).read_text()
    assert is_harmless(page) and "&lt;img src=x" in page


def test_html_in_a_plan_stays_text_in_the_widgets():
    plan = ExpertPlan(
        masks=torch.tensor([[True, False]]),
        routing=torch.zeros(9, dtype=torch.int64),
        layer_names=(f"down_blocks.{EVIL}.resnets.0", f"mid_block.{EVIL}"),
        cost=CostTable((1, 2), 3, EVIL, (8, 8)),
        backbone_class="UNet2DConditionModel",
        architecture_hash="0",
    )
    assert is_harmless(drawing(plan)) and is_harmless(description(plan, 0, 0))
    assert "&lt;img src=x" in description(plan, 0, 0)


@pytest.mark.parametrize("caption", ["$\\frac{$ and $", "a $x$ b", EVIL, "\\", ""])
def test_a_caption_below_a_picture_is_text_not_a_formula(caption: str):
    images = np.zeros((2, 8, 8, 3), np.uint8)
    for figure in (plots.image_grid(images, [caption] * 2), plots.image_rows({"a": images}, [caption] * 2)):
        assert plots.style.png(figure)[:4] == b"\x89PNG"


SETTINGS = ("token=''", 'token=""', "IdentityProvider.token", "disable_check_xsrf", "allow_origin", "ip=0.0.0.0")


def test_jupyterlab_keeps_its_token_and_its_address():
    places = [ROOT / "Makefile", ROOT / "README.md", *(ROOT / ".ci").iterdir(), *(ROOT / "docs").glob("*.md")]
    text = "\n".join(path.read_text(encoding="utf-8") for path in places)
    assert "jupyter lab" in text and not [setting for setting in SETTINGS if setting in text]


WEAK = {"id": "PYSEC-1", "fix_versions": ["2.1"], "aliases": [], "description": ""}
AUDITS = {  # what pip-audit reports (None: it fails): exit code, and what is said
    "a weakness": ([{"name": "a", "version": "2.0", "vulns": [WEAK]}], 1, "a 2.0: PYSEC-1, fixed in 2.1"),
    "none": ([{"name": "a", "version": "2.0", "vulns": []}], 0, "1 packages, 0 unknown to the registry, 0 weaknesses"),
    "unknown": ([{"name": "a", "skip_reason": "not found"}], 0, "1 packages, 1 unknown to the registry, 0 weaknesses"),
    "no network": (None, 0, "not done, ConnectionError: refused"),
}


@pytest.mark.parametrize("name", AUDITS)
def test_a_known_weakness_of_a_pinned_version_fails_the_audit(tmp_path: Path, name: str):
    packages, code, said = AUDITS[name]
    report = "print('ConnectionError: refused', file=sys.stderr); sys.exit(1)"
    if packages is not None:
        content = json.dumps({"dependencies": packages, "fixes": []})
        report = f"open(sys.argv[sys.argv.index('-o') + 1], 'w').write({content!r}); sys.exit({code})"
    program = tmp_path / "pip-audit"
    program.write_text(f"#!{sys.executable}\nimport sys\n{report}\n")
    program.chmod(0o700)
    done = subprocess.run([sys.executable, ".ci/audit.py", str(program)], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (code, "") and f"dependency audit: {said}" in done.stdout


def test_ci_audits_the_dependencies():
    assert ".ci/audit.py .venv/audit/bin/pip-audit" in (ROOT / ".ci" / "run").read_text()
