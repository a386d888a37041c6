from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as run_with
from hypothesis import strategies as st

from lib import parameters, records
from lib.errors import ParameterError
from lib.parameters import Parameter, Setting

DECLARED = {
    name: Parameter(name, kind, default, "help", "03_train.ipynb, cell 2")
    for name, kind, default in [
        ("title", "str", "generated"),
        ("epochs", "int", 30),
        ("rate", "float", 0.001),
        ("tune", "bool", False),
        ("columns", "list", []),
        ("limits", "dict", {"low": 0, "high": 9}),
        ("account", "dict", {}),
        ("feature_dim", "int", None),
        ("num_factors", "int", 16),
        ("target", "str", "local"),
        ("algorithm", "str", "adam"),
        ("extensions", "dict", {}),
    ]
}


def write(folder: Path, text: str) -> Path:
    path = folder / "scenario.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def checked(*pairs: tuple[str, str]) -> dict[str, object]:
    settings = parameters.validate(parameters.from_command_line(pairs), DECLARED)
    return {name: setting.value for name, setting in settings.items()}


def refusal(*pairs: tuple[str, str]) -> str:
    with pytest.raises(ParameterError) as caught:
        checked(*pairs)
    return str(caught.value)


def test_a_file_gives_values_with_their_lines(tmp_path):
    settings = parameters.load(write(tmp_path, "# a scenario\nepochs: 5\n\naccount:\n  region: eu-west-1\n"))
    assert settings["epochs"].value == 5
    assert settings["epochs"].source.endswith("scenario.yaml, line 2")
    assert settings["account"] == Setting({"region": "eu-west-1"}, settings["account"].source)
    assert settings["account"].source.endswith("line 4")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("1E5", 100_000.0),
        (".5", 0.5),
        ("-2", -2),
        ("4_000_000", 4_000_000),
        ("010", 10),
        ("08", 8),
        ("0x1F", 31),
        ("true", True),
        ("no", "no"),
        ("12:30", "12:30"),
        ("2026-01-31", "2026-01-31"),
        ("1.2.3", "1.2.3"),
        ("~", None),
        ("[1, a]", [1, "a"]),
        ("{a: 1}", {"a": 1}),
        ("[unclosed", "[unclosed"),
        ("s3://bucket/key", "s3://bucket/key"),
    ],
)
def test_scalars_are_read_as_yaml_1_2_has_them(text, value):
    read = parameters.from_command_line([("title", text)])["title"].value
    assert read == value
    assert type(read) is type(value)


@run_with(deadline=None)
@given(st.floats(allow_nan=False, allow_infinity=False))
def test_every_float_that_python_writes_is_read_back(number):
    assert checked(("rate", repr(number)))["rate"] == number


def test_a_whole_number_serves_as_float_and_a_bool_serves_as_no_number():
    value = checked(("rate", "1"))["rate"]
    assert value == 1.0
    assert type(value) is float
    assert "not a number (float)" in refusal(("rate", "true"))
    assert "not a whole number (int)" in refusal(("epochs", "true"))


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("epochs", "ten", "Parameter `epochs` is 'ten' (the command line), not a whole number (int)."),
        ("epochs", "2.5", "Parameter `epochs` is 2.5 (the command line), not a whole number (int)."),
        ("epochs", "1e3", "not a whole number (int). Write 1000."),
        ("epochs", "", "Parameter `epochs` has no value (the command line)."),
        ("rate", "nan", "Parameter `rate` is 'nan' (the command line), not a number (float)."),
        ("rate", ".nan", "Parameter `rate` is nan (the command line), not a number (float)."),
        ("rate", ".inf", "Parameter `rate` is inf (the command line), not a number (float)."),
        ("tune", "yes", "Parameter `tune` is 'yes' (the command line), not true or false (bool). Write true"),
        ("columns", "a", "Parameter `columns` is 'a' (the command line), not a list."),
        ("limits", "3", "Parameter `limits` is 3 (the command line), not a mapping (dict)."),
        ("limits", "{1: 2}", "Parameter `limits` is {1: 2} (the command line), not a mapping (dict)."),
        (
            "epochs.more",
            "3",
            "Parameter `epochs` is {'more': 3} (the command line), not a whole number (int).",
        ),
        ("epocs", "3", "There is no parameter `epocs` (the command line): did you mean `epochs`?"),
        (
            "zzz",
            "3",
            "There is no parameter `zzz` (the command line). The second cell of each notebook lists",
        ),
        ("run_id", "mine", "`run_id` is not set as a parameter (the command line). Use --run-id ID."),
        (
            "account.regoin",
            "eu",
            "Parameter `account` has no key `regoin` (the command line). Did you mean `region`?",
        ),
        ("account.region", "3", "Parameter `account.region` is 3:"),
        ("target", "lokal", "Parameter `target` cannot be 'lokal' (the command line). Did you mean `local`?"),
        ("num_factors", "0", "The hyperparameter `num_factors` must be "),
        (".region", "eu", "`.region` is not the name of a parameter (the command line)."),
    ],
)
def test_what_does_not_fit_is_refused_in_a_sentence(name, text, sentence):
    assert sentence in refusal((name, text))


def test_values_that_do_not_go_together_are_refused_wherever_they_were_given():
    assert checked(("algorithm", "bayesian"), ("extensions.samples", "9"))["extensions"] == {"samples": 9}
    aws = ("target", "aws")
    assert "`algorithm: bayesian` is a local extension" in refusal(aws, ("algorithm", "bayesian"))
    assert "`extensions.seeds: 4` is a local extension" in refusal(("extensions.seeds", "4"), aws)
    assert "has no meaning with `algorithm: adam`" in refusal(("extensions.samples", "9"))


def test_a_mistake_in_a_file_is_named_with_its_line(tmp_path):
    settings = parameters.load(write(tmp_path, "tune: true\nnum_factor: 8\n"))
    with pytest.raises(ParameterError, match=r"`num_factor` \(.*, line 2\): did you mean `num_factors`\?"):
        parameters.validate(settings, DECLARED)


@pytest.mark.parametrize("text", ["2026", "no", "true", "", "1e5", "a: b", "[x"])
def test_text_needs_no_quotes_on_the_command_line(text):
    assert checked(("title", text)) == {"title": text}


def test_quotes_on_the_command_line_are_yaml_quotes():
    assert checked(("title", "'2026'")) == {"title": "2026"}


def test_text_needs_quotes_in_a_file_where_it_looks_like_a_number(tmp_path):
    settings = parameters.load(write(tmp_path, "title: 2026\n"))
    with pytest.raises(ParameterError, match=r"is 2026 \(.*\), not text \(str\)\. Put it in quotes\."):
        parameters.validate(settings, DECLARED)


def test_the_command_line_wins_over_the_file_and_later_pairs_over_earlier_ones(tmp_path):
    file = parameters.load(write(tmp_path, "epochs: 5\ntitle: file\n"))
    line = parameters.from_command_line([("epochs", "6"), ("epochs", "7")])
    combined = parameters.combine(file, line)
    assert combined["epochs"] == Setting(7, "the command line", "7")
    assert combined["title"].value == "file"


def test_mappings_are_merged_key_by_key_over_the_file_and_the_default(tmp_path):
    file = parameters.load(write(tmp_path, "account:\n  region: eu\n  tags: {a: '1'}\n"))
    line = parameters.from_command_line([("account.tags.b", "two"), ("account.profile", "me")])
    combined = parameters.validate(parameters.combine(file, line), DECLARED)
    assert combined["account"].value == {"region": "eu", "profile": "me", "tags": {"a": "1", "b": "two"}}
    limits = parameters.from_command_line([("limits.high", "5")])["limits"]
    assert parameters.value_of(DECLARED["limits"], limits) == {"low": 0, "high": 5}
    assert DECLARED["limits"].default == {"low": 0, "high": 9}


def test_a_parameter_that_was_not_given_has_its_default():
    assert parameters.value_of(DECLARED["epochs"], None) == 30
    assert parameters.value_of(DECLARED["feature_dim"], None) is None


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "is empty."),
        ("# only a comment\n", "is empty."),
        ("- a\n- b\n", "is not a mapping: its lines must read `name: value`."),
        ("just text\n", "is not a mapping"),
        ("epochs: 5\ntune: [1\ntitle: a\n", "line 3 is not YAML: "),
        ("epochs: 5\n\tx: 1\n", "line 2 is not YAML: "),
        ("a: 1\n---\nb: 2\n", "line 2 is not YAML: "),
        ("a: !!python/object:os.system {}\n", "line 1 is not YAML: "),
        ("a: \x07\n", "is not YAML: "),
        ("epochs: 5\ntune: true\nepochs: 6\n", "names `epochs` twice, in lines 1 and 3."),
        ("account:\n  region: a\n  region: b\n", "names `region` twice, in lines 2 and 3."),
        ("5: epochs\n", "5 is not the name of a parameter"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_in_a_sentence(tmp_path, text, sentence):
    with pytest.raises(ParameterError) as caught:
        parameters.load(write(tmp_path, text))
    assert sentence in str(caught.value)
    assert "scenario.yaml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_no_text_is_refused(tmp_path):
    path = tmp_path / "picture.yaml"
    path.write_bytes(b"\x89PNG\r\n\x1a\n\xff\xfe")
    with pytest.raises(ParameterError, match="is not a text file"):
        parameters.load(path)
    with pytest.raises(ParameterError, match="cannot be read"):
        parameters.load(tmp_path)


def test_a_missing_file_is_named_with_the_one_that_was_meant(tmp_path):
    (tmp_path / "movielens.yaml").touch()
    with pytest.raises(
        ParameterError, match=r"There is no parameter file .*: did you mean .*movielens\.yaml\?"
    ):
        parameters.load(tmp_path / "movielen.yaml")
    with pytest.raises(ParameterError, match=r"There is no parameter file .*zzz\. There are .*local\.yaml"):
        parameters.load(tmp_path / "zzz")


@pytest.mark.parametrize(
    "text",
    [
        "api_key: abc\n",
        "key: abc\n",
        "account: {secret: abc}\n",
        "password: abc\n",
        "session_token: abc\n",
        "awsSecretAccessKey: abc\n",
        "columns: [{token: abc}]\n",
        "title: AKIAIOSFODNN7EXAMPLE\n",
    ],
)
def test_what_looks_like_a_secret_is_refused_and_not_repeated(tmp_path, text):
    with pytest.raises(ParameterError, match="looks like a secret") as caught:
        parameters.load(write(tmp_path, text))
    assert "abc" not in str(caught.value)
    assert "AKIA" not in str(caught.value)


def test_a_secret_on_the_command_line_is_refused():
    assert "looks like a secret" in refusal(("account.password", "abc"))


def test_names_of_encryption_keys_and_empty_values_are_no_secrets(tmp_path):
    text = "account: {kms_key: 'arn:aws:kms:eu:1:key/2'}\nsecret: ''\nkeyboard: qwerty\n"
    assert set(parameters.load(write(tmp_path, text))) == {"account", "secret", "keyboard"}


@pytest.mark.parametrize(
    "path", sorted((records.ROOT / "parameters").glob("*.yaml")), ids=lambda path: path.stem
)
def test_the_shipped_files_are_flat_and_readable(path):
    settings = parameters.load(path)
    assert settings["target"].value in ("local", "aws")
