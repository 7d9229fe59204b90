"""Params: what loads, what is refused, and in which words."""

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from alter_lib.params import ROOT, Params, ParamsError, add_params_arguments, load_params, parse_overrides

FILES = sorted((ROOT / "params").glob("*.yaml"))
TINY = "params/tiny_sd.yaml"


def faults(*arguments, **keywords) -> list[str]:
    with pytest.raises(ParamsError) as caught:
        load_params(*arguments, **keywords)
    return str(caught.value).splitlines()


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_params_file_loads_states_every_value_and_names_its_run_after_itself(path: Path):
    params = load_params(path)
    stated = yaml.safe_load(path.read_text())
    assert params.run.name == stated["run"]["name"] == path.stem  # papermill -f tells a notebook no file name
    assert {name: set(keys) for name, keys in stated.items()} == {k: set(v) for k, v in params.dump().items()}


def test_the_six_files_are_there():
    names = {"tiny_sd", "tiny_sd_long", "smoke", "sd21", "faithful_paper", "faithful_code"}
    assert names <= {path.stem for path in FILES}


def test_sd21_has_the_values_that_the_paper_prints():
    """Appendix C, B.3, Tables 5 and 6, §4.1."""
    params = load_params("params/sd21.yaml")
    training, net, loss = params.training, params.hypernetwork, params.loss
    assert (training.steps, training.hypernetwork_steps, training.warmup_steps) == (32000, 9375, 250)
    assert (training.batch_size, training.num_processes) == (64, 2)
    assert (training.learning_rate, training.hypernetwork_learning_rate, training.schedule) == (1e-5, 7e-5, "constant")
    assert (net.num_experts, net.input_dim, net.expert_hidden_dim, net.router_hidden_dim) == (10, 64, 256, 64)
    assert (net.mask_temperature, net.mask_offset, net.router_temperature, net.router_offset) == (0.4, 4.0, 0.4, 0.0)
    assert (loss.denoise, loss.output_kd, loss.feature_kd, loss.ratio, loss.balance) == (1e-4, 1, 1, 5, 1)
    assert loss.target_ratio == 0.65
    assert (params.sampling.scheduler, params.sampling.guidance_scale) == ("PNDMScheduler", 7.5)


@pytest.mark.parametrize("name", ["faithful_paper", "faithful_code"])
def test_a_faithful_recipe_differs_from_the_default_in_method_alone(name: str):
    recipe, default = load_params(f"params/{name}.yaml").dump(), load_params(TINY).dump()
    for section in ("backbone", "data", "sampling", "evaluation"):
        assert recipe[section] == default[section]
    for key in ("steps", "hypernetwork_steps", "batch_size", "learning_rate"):
        assert recipe["training"][key] == default["training"][key]
    assert recipe["hypernetwork"]["ratio_masks"] == "sampled" and recipe["hypernetwork"]["ratio_gradient"] == "sigmoid"


@pytest.mark.parametrize("text", ["1e-5", "1.0e-5", "0.00001", "1E-5", "'1e-5'"])
def test_every_spelling_of_a_rate_is_a_number(tmp_path: Path, text: str):
    file = tmp_path / "x.yaml"
    file.write_text((ROOT / TINY).read_text().replace("learning_rate: 8.0e-4", f"learning_rate: {text}"))
    assert load_params(file).training.learning_rate == 1e-5


@given(st.floats(min_value=1e-12, max_value=1e6))
def test_a_rate_survives_text(rate: float):
    overrides = parse_overrides([f"training.learning_rate={rate!r}"])
    assert load_params(TINY, overrides).training.learning_rate == rate


def test_a_dump_loads_to_the_same_params():
    params = load_params(TINY, {"cost.resolution": [8, 8]})
    assert load_params(params.dump()) == params
    assert load_params(yaml.safe_load(yaml.safe_dump(params.dump()))) == params


def test_all_faults_are_listed_in_one_go():
    bad = {"training.steps": "abc", "loss.target_ratio": 1.5, "run.seed": -1, "hypernetwork.noise": "normal"}
    lines = faults(TINY, bad)
    assert sorted(lines) == [
        "override: hypernetwork.noise: 'normal' is not one of gumbel | logistic",
        "override: loss.target_ratio: 1.5 is not a number > 0 and <= 1",
        "override: run.seed: -1 is not an integer >= 0 and < 4294967296",
        "override: training.steps: 'abc' is not an integer >= 1",
    ]


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("training.stpes", 1, "unknown key; did you mean steps?"),
        ("training.target_ratio", 0.5, "unknown key; did you mean loss.target_ratio?"),
        ("training.zzz", 1, "unknown key; known: steps, hypernetwork_steps"),
        ("training.steps", True, "True is not an integer >= 1"),
        ("training.steps", 1.5, "1.5 is not an integer >= 1"),
        ("training.steps", None, "None is not an integer >= 1"),
        ("training.learning_rate", float("nan"), "nan is not a number > 0"),
        ("training.max_grad_norm", 0, "0 is not a number > 0 or null"),
        ("training.hypernetwork_steps", 601, "601 is not at most steps (600)"),
        ("training.num_processes", 3, "32 is not a multiple of num_processes (3)"),
        ("data.keywords", 1, "1 is not true or false"),
        ("cost.resolution", [64], "[64] is not a list of 2, each an integer >= 1 or null"),
        ("training.order", "twostage", "'twostage' is not one of joint | two_stage"),
        ("training.plan", "random", "hypernetwork_steps: 350 is not 0: under plan random there is nothing left"),
        ("training.snapshots", [300, 700], "700 is not at most steps (600)"),
        ("evaluation.curve_images", 1, "1 is not 0, or 2 or more"),
        ("evaluation.steps", [], "[] is not a list of 1 or more, each an integer >= 1"),
        ("evaluation.steps", [20, 0], "[20, 0] is not a list of 1 or more, each an integer >= 1"),
        ("run.name", "../up", "'../up' is not a folder name of letters, digits, '.', '_' and '-' or null"),
        ("sampling.scheduler", "PNDM", "'PNDM' is not a diffusers scheduler class or null"),
    ],
)
def test_a_fault_says_what_was_found_and_what_is_allowed(key: str, value: object, message: str):
    (line,) = faults(TINY, {key: value})
    assert message in line and key.split(".")[0] in line


def test_an_unknown_section_is_met_with_the_nearest(tmp_path: Path):
    file = tmp_path / "x.yaml"
    file.write_text((ROOT / TINY).read_text().replace("\ntraining:", "\ntrainig:"))
    lines = faults(file)
    assert f"{file}: trainig: unknown section; did you mean training?" in lines
    assert any("training: missing; it takes the keys steps" in line for line in lines)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no sections; known: run, backbone"),
        ("- 1", "holds no sections"),
        ("training: 5\n", "training: 5 is not a mapping of keys to values"),
        ("run: {name: a\n", "line 2: "),
        ("run:\n  seed: 1\n  seed: 2\n", "line 2: seed is given twice"),
        ("run: !!python/object/apply:os.getcwd []\n", "line 1: could not determine a constructor"),
    ],
)
def test_a_file_that_holds_no_params_is_named(tmp_path: Path, text: str, message: str):
    file = tmp_path / "x.yaml"
    file.write_text(text)
    lines = faults(file)
    assert lines[0].startswith(str(file)) and message in lines[0]


def test_a_missing_file_a_folder_and_a_binary_are_named(tmp_path: Path):
    (tmp_path / "x.yaml").write_bytes(b"\xff\xfe\x00")
    assert faults("params/none.yaml") == ["params/none.yaml: No such file or directory"]
    assert faults("params") == ["params: Is a directory"]
    assert faults(tmp_path / "x.yaml") == [f"{tmp_path / 'x.yaml'}: not UTF-8 text"]


def test_overrides_of_a_wrong_form_are_refused():
    assert faults(TINY, {"steps": 3}) == ["override: steps: is not of the form section.key"]
    with pytest.raises(ParamsError, match="training.steps: is not of the form section.key=value"):
        parse_overrides(["training.steps"])


def test_command_line_values_are_yaml():
    items = ["training.learning_rate=1e-5", "evaluation.steps=[20, 10]", "data.limit=null", "run.name=a"]
    assert parse_overrides(items) == {
        "training.learning_rate": 1e-5, "evaluation.steps": [20, 10], "data.limit": None, "run.name": "a",
    }  # fmt: skip


def test_set_may_be_given_once_or_several_times():
    import argparse

    parser = argparse.ArgumentParser()
    add_params_arguments(parser)
    assert parser.parse_args("--set a.b=1 c.d=2 --set e.f=3".split()).set == ["a.b=1", "c.d=2", "e.f=3"]


def test_paths_start_at_the_repository_not_at_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    assert load_params(TINY).run_folder == ROOT / "runs" / "tiny_sd"
    assert load_params(TINY, {"run.out": str(tmp_path)}).run_folder == tmp_path / "tiny_sd"


def test_the_stem_names_a_run_without_a_name(tmp_path: Path):
    file = tmp_path / "mine.yaml"
    file.write_text((ROOT / TINY).read_text().replace("name: tiny_sd", "name: null"))
    assert load_params(file).run.name == "mine"


def test_a_notebook_with_nothing_injected_runs_the_default():
    nothing = dict.fromkeys(Params.model_fields)
    assert Params.notebook(**nothing, overrides={}) == load_params(TINY)
    assert Params.notebook(overrides={"training.steps": 400}, **nothing).training.steps == 400


def test_a_notebook_with_sections_gets_those_and_the_schema_s_defaults_never_another_file_s():
    smoke = load_params("params/smoke.yaml")
    assert Params.notebook(**smoke.dump()) == smoke
    some = {"run": {"name": "x"}, "training": smoke.dump()["training"], "data": None}
    assert Params.notebook(**some).sampling.guidance_scale == Params.model_fields["sampling"].default.guidance_scale


def test_a_notebook_can_not_name_a_run_by_itself():
    with pytest.raises(ParamsError, match="run.name: missing"):
        Params.notebook(training=load_params(TINY).dump()["training"])


def test_params_are_frozen():
    with pytest.raises(ValueError, match="frozen"):
        load_params(TINY).training.steps = 3


def test_a_bare_no_is_no_mixed_precision() -> None:
    """YAML reads it as false, and so does --set training.mixed_precision=no; true is still refused."""
    assert load_params("params/smoke.yaml", {"training.mixed_precision": False}).training.mixed_precision == "no"
    with pytest.raises(ParamsError, match="training.mixed_precision: True is not one of no | bf16 | fp16"):
        load_params("params/smoke.yaml", {"training.mixed_precision": True})
