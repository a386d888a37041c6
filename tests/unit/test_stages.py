from __future__ import annotations

from pathlib import Path

import pytest
from notebook_files import RUN, cell, write_cells, write_stage

from lib.contracts import publishers, read_contract
from lib.errors import ContractError
from lib.stages import STAGES, Stage, declared, read_contracts, wire

FIXTURES = Path(__file__).parents[1] / "fixtures"
TITLE = cell("# A stage", "markdown")


def problem(path: Path) -> str:
    with pytest.raises(ContractError) as caught:
        read_contract(path)
    return str(caught.value)


def wiring_problem(stages: list[Stage], folder: Path, **values: object) -> str:
    with pytest.raises(ContractError) as caught:
        wire(stages, read_contracts(stages, folder), values)
    return str(caught.value)


def test_a_contract_is_read_from_the_source():
    contract = read_contract(FIXTURES / "doubles_the_number.ipynb")
    assert contract.stage == "doubles_the_number"
    assert contract.title == "Doubles the number"
    assert contract.kernel == "python3"
    assert list(contract.parameters) == ["run_id", "number", "factor", "options"]
    factor = contract.parameters["factor"]
    assert (factor.type, factor.default, factor.help) == ("float", 2.0, "times what")
    assert factor.where == "doubles_the_number.ipynb, cell 2, line 3"
    assert contract.parameters["options"].default == {"low": 0, "high": 9}
    assert contract.parameters["number"].default is None
    assert contract.publishes == ("doubled", "options_seen")
    assert contract.imports == ("from lib.scraps import latest, publish",)


def test_every_fixture_keeps_the_contract_and_holds_no_outputs():
    for path in FIXTURES.glob("*.ipynb"):
        assert read_contract(path).publishes
        assert '"outputs": []' in path.read_text()
        assert '"output_type"' not in path.read_text()


def test_magics_shell_lines_and_top_level_await_are_no_syntax_errors(tmp_path):
    code = "%matplotlib inline\n!ls\nif True:\n    %time 1\nawait something()\nimport json, os"
    path = write_stage(tmp_path, "stage", code=code)
    assert read_contract(path).imports == ("import json, os",)
    assert read_contract(write_stage(tmp_path, "other", code="%%bash\nfor i in *; do")).imports == ()


def test_publish_may_be_called_through_its_module(tmp_path):
    path = write_cells(
        tmp_path / "stage.ipynb",
        TITLE,
        cell(RUN, tags=("parameters",)),
        cell("scraps.publish(a=1)"),
        cell(" "),
    )
    assert read_contract(path).publishes == ("a",)


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        (
            "epochs = 3  # help",
            "stage.ipynb, cell 2, line 2: each line must read `name: type = default  # help`.",
        ),
        ("epochs: int = 3", "line 2: each line must read"),
        ("epochs: int  # help", "line 2: each line must read"),
        ("import os  # help", "line 2: each line must read"),
        ("a: dict = {\n}  # help", "line 2: each line must read"),
        ("a.b: int = 1  # help", "line 2: each line must read"),
        ("a: set = 1  # help", "`a` is set; a type is one of str, int, float, bool, list, dict."),
        ("a: int | None = 1  # help", "`a` is int | None; a type is one of"),
        ("a: int = 2 * 3  # help", "the default of `a` is not a plain value."),
        ("a: int = 'three'  # help", "the default of `a` is 'three', not a whole number (int)."),
        ("a: int = True  # help", "the default of `a` is True, not a whole number (int)."),
        ("a: str = 3  # help", "the default of `a` is 3, not text (str)."),
        ("a: list = (1,)  # help", "the default of `a` is (1,), not a list."),
        ("a: int = 1  # help\na: int = 1  # help", "line 3: `a` is a parameter twice."),
        ("a: int = = 1  # help", "stage.ipynb, cell 2, line 2: this is not Python: invalid syntax."),
    ],
)
def test_a_line_of_the_parameters_cell_that_is_wrong_is_named(tmp_path, line, sentence):
    assert sentence in problem(write_stage(tmp_path, "stage", line))


def test_every_problem_of_a_notebook_is_told_in_a_line_of_its_own(tmp_path):
    lines = problem(write_stage(tmp_path, "stage", "a = 1", "b: set = 1  # help", gives="**x")).splitlines()
    assert len(lines) == 3


def test_a_whole_number_is_a_default_for_float(tmp_path):
    assert (
        read_contract(write_stage(tmp_path, "stage", "a: float = 1  # help")).parameters["a"].default == 1.0
    )


def test_blank_lines_and_comment_lines_are_allowed_among_the_parameters(tmp_path):
    path = write_stage(tmp_path, "stage", "", "# the model", "a: int = 1  # help")
    assert list(read_contract(path).parameters) == ["run_id", "a"]


def test_the_parameters_cell_must_be_the_second_and_only_one(tmp_path):
    tagged, last = cell(RUN, tags=("parameters",)), cell("publish(a=1)")
    path = tmp_path / "stage.ipynb"
    assert problem(write_cells(path, TITLE, cell("x = 1"), tagged, last)) == (
        "stage.ipynb, cell 3: the cell with the tag `parameters` must be the second cell."
    )
    assert problem(write_cells(path, TITLE, cell(RUN), last)) == (
        "stage.ipynb, cell 2: the second cell must be a code cell with the tag `parameters`."
    )
    assert problem(write_cells(path, TITLE, tagged, tagged, last)) == (
        "stage.ipynb: cells 2, 3 have the tag `parameters`; only cell 2 may."
    )
    assert "the second cell must be" in problem(write_cells(path, TITLE))


@pytest.mark.parametrize(
    ("cells", "sentence"),
    [
        (["x = 1"], "stage.ipynb, cell 3: the last code cell must call `publish(name=value, ...)`."),
        (
            ["publish(a=1)", "x = 1"],
            "cell 3, line 1: `publish` must be called in the last code cell, cell 4.",
        ),
        (
            ["publish(a=1)", "publish(b=1)"],
            "cell 4, line 1: `publish` is called twice, first in cell 3; once",
        ),
        (["publish(a=1)\npublish(b=1)"], "cell 3, line 2: `publish` is called twice, first in cell 3; once"),
        (["publish(3)"], "cell 3, line 1: `publish` takes keyword arguments only, `publish(name=value)`."),
        (["publish(**values)"], "`publish` takes keyword arguments only"),
        (["publish()"], "`publish` takes keyword arguments only"),
        (["queue.publish(a=1)"], "the last code cell must call `publish(name=value, ...)`."),
    ],
)
def test_a_publish_call_that_is_wrong_is_named(tmp_path, cells, sentence):
    path = write_cells(
        tmp_path / "stage.ipynb", TITLE, cell(RUN, tags=("parameters",)), *[cell(source) for source in cells]
    )
    assert sentence in problem(path)


@pytest.mark.parametrize("content", ["", "not JSON", "[]", '{"worksheets": []}'])
def test_what_is_no_notebook_is_refused(tmp_path, content):
    path = tmp_path / "stage.ipynb"
    path.write_text(content)
    assert "is not a notebook" in problem(path)


def test_a_missing_notebook_is_named_with_the_one_that_was_meant(tmp_path):
    write_stage(tmp_path, "03_train")
    assert problem(tmp_path / "03_trian.ipynb").endswith("03_trian.ipynb: did you mean `03_train`?")


def test_stages_are_wired_by_name():
    stages = [Stage("publishes_a_number"), Stage("doubles_the_number"), Stage("tidies_up", trigger="always")]
    wiring = wire(stages, read_contracts(stages, FIXTURES), {})
    assert wiring.active == ["publishes_a_number", "doubles_the_number", "tidies_up"]
    assert wiring.inputs == {
        "publishes_a_number": {},
        "doubles_the_number": {"number": "publishes_a_number"},
        "tidies_up": {"doubled": "doubles_the_number"},
    }
    assert wiring.needs("tidies_up") == ["doubles_the_number"]


def test_a_condition_chooses_between_two_publishers_of_one_name():
    stages = [
        Stage("takes_one_way", when={"tune": False}),
        Stage("takes_the_other_way", when={"tune": True}),
        Stage("follows_the_way"),
    ]
    contracts = read_contracts(stages, FIXTURES)
    assert wire(stages, contracts, {}).inputs["follows_the_way"] == {"way": "takes_one_way"}
    tuned = wire(stages, contracts, {"tune": True})
    assert tuned.inputs["follows_the_way"] == {"way": "takes_the_other_way"}
    assert tuned.active == ["takes_the_other_way", "follows_the_way"]
    assert tuned.inactive == {"takes_one_way": "runs only when tune is false"}


def test_two_active_publishers_of_one_name_are_refused():
    stages = [Stage("takes_one_way"), Stage("takes_the_other_way")]
    assert wiring_problem(stages, FIXTURES) == "takes_the_other_way and takes_one_way both publish `way`."


def test_an_input_that_nobody_publishes_is_refused_with_the_reason(tmp_path):
    write_stage(tmp_path, "first", "wanted: int = None  # help", gives="wantde=1")
    write_stage(tmp_path, "second", "tune: bool = False  # help", gives="wanted=1")
    write_stage(tmp_path, "third", "own: int = None  # help", gives="own=1")
    first, second, third = Stage("first"), Stage("second"), Stage("third")
    assert wiring_problem([first], tmp_path) == (
        "first.ipynb, cell 2, line 2: first takes `wanted`, but no stage publishes it and it was not given: "
        "did you mean `wantde`?"
    )
    assert wiring_problem([first, second], tmp_path).endswith(
        "first takes `wanted`, but second publishes it after first has run."
    )
    sometimes = Stage("second", when={"tune": True})
    assert wiring_problem([sometimes, first], tmp_path).endswith(
        "first takes `wanted`, which only second publishes, and that runs only when tune is true."
    )
    assert wiring_problem([third], tmp_path).endswith("third takes `own`, which only third itself publishes.")


def test_an_input_that_the_user_gives_is_not_wired():
    stages = [Stage("publishes_a_number"), Stage("doubles_the_number")]
    wiring = wire(stages, read_contracts(stages, FIXTURES), {"number": 7})
    assert wiring.inputs["doubles_the_number"] == {}


def test_a_stage_that_runs_after_failures_needs_defaults(tmp_path):
    write_stage(tmp_path, "first", gives="value=1")
    write_stage(tmp_path, "last", "value: int = None  # help")
    sentence = wiring_problem([Stage("first"), Stage("last", trigger="always")], tmp_path)
    assert sentence.endswith("`value` needs a default, because last runs even when first has failed.")


def test_one_parameter_has_one_type_and_one_default_everywhere(tmp_path):
    write_stage(tmp_path, "first", "a: int = 1  # help", "b: int = 1  # help", "c: int = None  # help")
    write_stage(tmp_path, "second", "a: str = 'x'  # help", "b: int = 2  # help", "c: int = 3  # help")
    with pytest.raises(ContractError) as caught:
        read_contracts([Stage("first"), Stage("second")], tmp_path)
    assert str(caught.value).splitlines() == [
        "second.ipynb, cell 2, line 2: `a` is str here and int in first.ipynb, cell 2, line 2.",
        "second.ipynb, cell 2, line 3: the default of `b` is 2 here and 1 in first.ipynb, cell 2, line 3.",
    ]


def test_a_default_counts_more_than_a_requirement_elsewhere(tmp_path):
    write_stage(tmp_path, "first", "c: int = None  # help")
    write_stage(tmp_path, "second", "c: int = 3  # help")
    contracts = {name: read_contract(tmp_path / f"{name}.ipynb") for name in ("first", "second")}
    assert declared(contracts)["c"].default == 3


def test_a_condition_on_a_parameter_that_does_not_exist_is_refused(tmp_path):
    write_stage(tmp_path, "first")
    with pytest.raises(
        ContractError, match="first runs when tuen is true, but no notebook has the parameter"
    ):
        read_contracts([Stage("first", when={"tuen": True})], tmp_path)


def test_the_notebooks_that_publish_a_name_are_found():
    assert publishers("way", FIXTURES) == ["takes_one_way.ipynb", "takes_the_other_way.ipynb"]
    assert publishers("nothing", FIXTURES) == []


def test_the_workflow_tunes_or_trains_and_always_cleans_up():
    conditions = {stage.name: dict(stage.when) for stage in STAGES if stage.when}
    assert conditions == {
        "03_train": {"tune": False},
        "04_tune": {"tune": True},
        "07_deploy": {"deploy": True},
    }


def test_a_stage_says_why_it_is_not_wanted():
    stage = Stage("deploy", only_if={"accepted": True})
    assert stage.not_wanted({"accepted": True, "other": 1}) == ""
    assert stage.not_wanted({"accepted": False}) == "accepted is false"
    assert [stage.name for stage in STAGES if stage.trigger == "always"] == ["08_clean_up"]
    assert [stage.name for stage in STAGES] == sorted(stage.name for stage in STAGES)
