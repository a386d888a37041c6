from __future__ import annotations

from pathlib import Path

import pytest

from lib import plan, records
from lib.errors import ParameterError, ReelbookError
from lib.plan import Request, Workflow
from lib.records import RunRecord, StageRecord
from lib.stages import Stage

FIXTURES = Path(__file__).parents[1] / "fixtures"
STAGES = [
    Stage("publishes_a_number"),
    Stage("doubles_the_number"),
    Stage("takes_one_way", when={"tune": False}),
    Stage("takes_the_other_way", when={"tune": True}),
    Stage("follows_the_way"),
    Stage("tidies_up", trigger="always"),
]


@pytest.fixture
def workflow(tmp_path) -> Workflow:
    return Workflow(STAGES, FIXTURES, tmp_path / "outputs", None)


def names(made: plan.Plan) -> list[str]:
    return [stage.name for stage in made.selected]


def leave_run(
    workflow: Workflow, run_id: str, scraps: dict, record: RunRecord | None = None, last: bool = True
) -> None:
    records.write_scraps(workflow.outputs / run_id, scraps)
    if record:
        records.write_run(workflow.outputs / run_id, record)
    if last:
        records.set_last_run(workflow.outputs, run_id)


def test_a_new_run_selects_every_stage_that_takes_part_and_writes_nothing(workflow):
    made = plan.make(workflow, Request())
    assert names(made) == [
        *("publishes_a_number", "doubles_the_number", "takes_one_way", "follows_the_way", "tidies_up")
    ]
    assert made.skipped == {"takes_the_other_way": "runs only when tune is true"}
    assert not made.continues
    assert not workflow.outputs.exists()


def test_a_parameter_chooses_the_other_way(workflow):
    made = plan.make(workflow, Request(command_line=[("tune", "true")]))
    assert "takes_the_other_way" in names(made)
    assert "takes_one_way" not in names(made)


def test_values_come_from_the_run_the_user_upstream_and_the_defaults(workflow):
    pairs = [("factor", "3"), ("options.low", "-1")]
    made = plan.make(workflow, Request(run_id="mine", command_line=pairs))
    assert made.values("doubles_the_number", {"number": 2}) == {
        "run_id": "mine",
        "number": 2,
        "factor": 3.0,
        "options": {"low": -1, "high": 9},
    }
    stage = "doubles_the_number"
    assert made.source(stage, "run_id") == "the run"
    assert made.source(stage, "number") == "publishes_a_number"
    assert made.source(stage, "factor") == "the command line"
    assert made.source("publishes_a_number", "start") == "default"


def test_an_optional_input_has_its_default_while_nothing_was_published(workflow):
    made = plan.make(workflow, Request(run_id="mine"))
    assert made.values("tidies_up", {}) == {"run_id": "mine", "doubled": 0.0}
    assert made.values("tidies_up", {"doubled": 8}) == {"run_id": "mine", "doubled": 8.0}


def test_a_published_value_of_another_type_is_refused_at_the_stage_that_takes_it(workflow):
    made = plan.make(workflow, Request())
    with pytest.raises(
        ParameterError, match="`number`, which publishes_a_number published, is 'x', not a whole"
    ):
        made.values("doubles_the_number", {"number": "x"})
    with pytest.raises(ParameterError, match="`number`, which publishes_a_number has not published"):
        made.values("doubles_the_number", {})


def test_from_continues_the_last_run_with_its_scraps(workflow):
    leave_run(workflow, "older", {"number": 1}, last=False)
    leave_run(workflow, "newer", {"number": 2, "doubled": 4, "uri": "s3://a"})
    made = plan.make(workflow, Request(start="doubles_the_number"))
    assert (made.run_id, made.continues) == ("newer", True)
    assert names(made)[0] == "doubles_the_number"
    assert made.skipped["publishes_a_number"] == "was not asked for"
    assert made.scraps == {"number": 2, "uri": "s3://a"}  # doubled will be published anew
    assert plan.make(workflow, Request(start="doubles_the_number", run_id="older")).scraps == {"number": 1}
    assert made.source("doubles_the_number", "number") == "publishes_a_number, run before"


def test_to_ends_a_new_run_early_and_leaves_out_what_always_runs_at_the_end(workflow):
    leave_run(workflow, "older", {})
    made = plan.make(workflow, Request(stop="doubles_the_number"))
    assert names(made) == ["publishes_a_number", "doubles_the_number"]
    assert made.run_id != "older"


def test_only_runs_one_stage_of_the_last_run(workflow):
    leave_run(workflow, "mine", {"number": 2})
    made = plan.make(workflow, Request(only="doubles_the_number"))
    assert (made.run_id, names(made)) == ("mine", ["doubles_the_number"])


def test_a_part_whose_inputs_are_missing_is_refused_with_where_to_start(workflow):
    leave_run(workflow, "mine", {})
    with pytest.raises(ParameterError) as caught:
        plan.make(workflow, Request(only="doubles_the_number"))
    assert str(caught.value) == (
        "doubles_the_number takes `number` from publishes_a_number, which has not published it in the run mine. "
        "Start earlier: --from publishes_a_number."
    )
    given = plan.make(workflow, Request(only="doubles_the_number", command_line=[("number", "5")]))
    assert given.values("doubles_the_number", {})["number"] == 5


def test_a_run_is_continued_with_its_own_parameters_and_new_ones_over_them(workflow, tmp_path):
    file = tmp_path / "scenario.yaml"
    file.write_text("start: 3\nfactor: 4\n")
    record = RunRecord("mine", parameters_file=str(file), command_line=[["factor", "5"], ["tune", "true"]])
    leave_run(workflow, "mine", {"number": 2}, record)
    made = plan.make(workflow, Request(start="doubles_the_number", command_line=[("factor", "6")]))
    assert {name: setting.value for name, setting in made.given.items()} == {
        "start": 3,
        "factor": 6,
        "tune": True,
    }
    other = tmp_path / "other.yaml"
    other.write_text("start: 9\n")
    made = plan.make(workflow, Request(start="doubles_the_number", parameters_file=other))
    assert {name: setting.value for name, setting in made.given.items()} == {"start": 9}


def test_what_a_stage_published_that_no_longer_takes_part_is_left_out(workflow):
    stage = StageRecord("takes_the_other_way", "", "", status="completed", scraps={"way": "other"})
    leave_run(workflow, "mine", {"number": 2, "way": "other"}, RunRecord("mine", stages=[stage]))
    with pytest.raises(ParameterError, match="follows_the_way takes `way` from takes_one_way, which has not"):
        plan.make(workflow, Request(only="follows_the_way"))
    tuned = plan.make(workflow, Request(only="follows_the_way", command_line=[("tune", "true")]))
    assert tuned.scraps["way"] == "other"


@pytest.mark.parametrize(
    ("request_", "sentence"),
    [
        (Request(start="doubles_the_numbr"), "There is no stage `doubles_the_numbr`: did you mean"),
        (Request(stop="x"), "There is no stage `x`. There are publishes_a_number, "),
        (
            Request(only="takes_the_other_way"),
            "takes_the_other_way runs only when tune is true. Set that with -p",
        ),
        (Request(only="tidies_up", start="tidies_up"), "--only goes with neither --from nor --to."),
        (
            Request(start="tidies_up", stop="takes_one_way"),
            "--from tidies_up comes after --to takes_one_way.",
        ),
        (
            Request(start="takes_the_other_way", stop="takes_the_other_way"),
            "No stage is left to run: takes_the_other_way runs only when tune is true.",
        ),
        (Request(run_id="Mine"), "The run id 'Mine' is not"),
        (Request(run_id="mine"), "The run mine exists already"),
        (Request(command_line=[("numbr", "1")]), "There is no parameter `numbr` (the command line): did you"),
        (Request(parameters_file=Path("nowhere.yaml")), "There is no parameter file nowhere.yaml"),
    ],
)
def test_a_request_that_cannot_be_carried_out_is_refused_in_a_sentence(workflow, request_, sentence):
    leave_run(workflow, "mine", {"number": 1, "way": "one"})
    with pytest.raises(ParameterError) as caught:
        plan.make(workflow, request_)
    assert sentence in str(caught.value)


def test_a_run_whose_record_is_broken_is_not_continued(workflow):
    leave_run(workflow, "mine", {"number": 1})
    (workflow.outputs / "mine" / "run.json").write_text("{")
    with pytest.raises(ReelbookError, match=r"run\.json cannot be read"):
        plan.make(workflow, Request(start="doubles_the_number"))
