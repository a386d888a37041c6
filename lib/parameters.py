"""Parameters: a YAML file and ``-p NAME VALUE`` pairs become validated values for the stages.

What parameters there are, their types and defaults, the notebooks say (``lib.stages`` reads them); which
keys the grouped ones have, ``lib.settings`` says.  Here the user's values are read, with the place each came
from, and refused with one sentence when they do not fit.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import ConfigDict, JsonValue, TypeAdapter, ValidationError

from lib import redaction, settings
from lib.errors import ParameterError, did_you_mean
from lib.records import ROOT, shown

COMMAND_LINE = "the command line"
SECRET_MARK = "secret:"  # how the help of a secret parameter begins

_STRICT = ConfigDict(strict=True, allow_inf_nan=False)
_ADAPTERS: dict[str, TypeAdapter[Any]] = {
    "str": TypeAdapter(str, config=_STRICT),
    "int": TypeAdapter(int, config=_STRICT),
    "float": TypeAdapter(float, config=_STRICT),
    "bool": TypeAdapter(bool, config=_STRICT),
    "list": TypeAdapter(list[JsonValue], config=_STRICT),
    "dict": TypeAdapter(dict[str, JsonValue], config=_STRICT),
}
TYPES = tuple(_ADAPTERS)
_IN_WORDS = {
    "str": "text (str)",
    "int": "a whole number (int)",
    "float": "a number (float)",
    "bool": "true or false (bool)",
    "list": "a list",
    "dict": "a mapping (dict)",
}

_SECRET_WORDS = {
    "secret",
    "secrets",
    "password",
    "passwd",
    "passphrase",
    "token",
    "credential",
    "credentials",
}


@dataclass(frozen=True)
class Parameter:
    """A parameter as a notebook declares it: ``name: type = default  # help``.

    Attributes
    ----------
    name, type, help : str
        ``type`` is one of ``TYPES``.
    default : str, int, float, bool, list, dict or None
        None means required: a scrap of that name, or the user, must give it.
    where : str
        Notebook, cell and line, for messages.
    """

    name: str
    type: str
    default: Any
    help: str
    where: str

    @property
    def secret(self) -> bool:
        """Whether its value comes from the environment alone: its help begins with ``secret:``."""
        return self.help.lower().startswith(SECRET_MARK)


@dataclass(frozen=True)
class Setting:
    """A value the user gave.

    Attributes
    ----------
    value : object
        As YAML read it.
    source : str
        Where it was given: ``parameters/local.yaml, line 3`` or ``the command line``.
    text : str or None
        On the command line, the value as it was typed: what a parameter of type str takes.
    """

    value: Any
    source: str
    text: str | None = None


class _Loader(yaml.SafeLoader):
    """YAML with the scalars of YAML 1.2: ``1e-3`` is a number; ``no``, ``12:30`` and dates are text."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012


def _whole_number(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> int:
    text = node.value.replace("_", "")
    return int(text, 16) if "x" in text.lower() else int(text)


_TAG = "tag:yaml.org,2002:"
_Loader.add_implicit_resolver(_TAG + "null", re.compile(r"(?:~|null|Null|NULL|)$"), ["~", "n", "N", ""])
_Loader.add_implicit_resolver(
    _TAG + "bool", re.compile(r"(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)
_Loader.add_implicit_resolver(
    _TAG + "int", re.compile(r"(?:[-+]?[0-9][0-9_]*|0x[0-9a-fA-F_]+)$"), list("-+0123456789")
)
_Loader.add_implicit_resolver(
    _TAG + "float",
    re.compile(
        r"(?:[-+]?(?:\.[0-9]+|[0-9][0-9_]*(?:\.[0-9_]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf)|\.(?:nan|NaN))$"
    ),
    list("-+.0123456789"),
)
_Loader.add_implicit_resolver(_TAG + "merge", re.compile(r"(?:<<)$"), ["<"])
_Loader.add_constructor(_TAG + "int", _whole_number)


def load(path: Path | str) -> dict[str, Setting]:
    """Read a parameter file: a flat YAML mapping ``name: value``.

    Returns
    -------
    dict of str to Setting
        In the file's order.

    Raises
    ------
    ParameterError
        When the file is missing, empty, no YAML or no mapping, names a parameter twice, or holds what
        looks like a secret.
    """
    path = Path(path)
    text = _read(path)
    given: dict[str, Setting] = {}
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            raise ParameterError(f"The parameter file {shown(path)} is empty.", hint="Give it `name: value`.")
        if not isinstance(node, yaml.MappingNode):
            raise ParameterError(
                f"The parameter file {shown(path)} is not a mapping: its lines must read `name: value`."
            )
        _refuse_duplicate_keys(node, path)
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            name = loader.construct_object(key_node, deep=True)
            if not isinstance(name, str):
                raise ParameterError(f"{name!r} is not the name of a parameter ({shown(path)}, line {line}).")
            value = loader.construct_object(value_node, deep=True)
            given[name] = Setting(value, f"{shown(path)}, line {line}")
    except (yaml.YAMLError, ValueError) as error:
        raise _not_yaml(path, error) from error
    for name, setting in given.items():
        _refuse_secrets(name, setting.value, setting.source)
    return given


def from_command_line(pairs: Iterable[tuple[str, str]]) -> dict[str, Setting]:
    """Read ``-p NAME VALUE`` pairs; a value is YAML, and ``NAME.KEY`` sets one key of a mapping.

    Raises
    ------
    ParameterError
        When a name is empty or a value looks like a secret.
    """
    given: dict[str, Setting] = {}
    for dotted, text in pairs:
        name, *keys = dotted.split(".")
        if not name or not all(keys):
            raise ParameterError(f"`{dotted}` is not the name of a parameter ({COMMAND_LINE}).")
        value = _parse(text)
        for key in reversed(keys):
            value = {key: value}
        _refuse_secrets(name, value, COMMAND_LINE)
        setting = Setting(value, COMMAND_LINE, None if keys else text)
        given = combine(given, {name: setting})
    return given


def combine(under: Mapping[str, Setting], over: Mapping[str, Setting]) -> dict[str, Setting]:
    """Put the second set of values over the first; mappings are merged key by key."""
    combined = dict(under)
    for name, setting in over.items():
        below = combined.get(name)
        if below and isinstance(below.value, dict) and isinstance(setting.value, dict):
            combined[name] = Setting(
                merge(below.value, setting.value), f"{setting.source} over {below.source}"
            )
        else:
            combined[name] = setting
    return combined


def merge(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Merge two mappings key by key, deeply; the second wins."""
    merged = dict(under)
    for key, value in over.items():
        below = merged.get(key)
        merged[key] = merge(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return merged


def validate(given: Mapping[str, Setting], declared: Mapping[str, Parameter]) -> dict[str, Setting]:
    """Check the user's values against the parameters that the notebooks declare.

    Parameters
    ----------
    given : mapping of str to Setting
        From ``load``, ``from_command_line`` and ``combine``.
    declared : mapping of str to Parameter
        Every parameter of every notebook; of those that several declare, any one.

    Returns
    -------
    dict of str to Setting
        With values of the declared types.

    Raises
    ------
    ParameterError
        For the first unknown name or wrong type, with where it was given; for values that do not go together.
    """
    checked = {}
    for name, setting in given.items():
        if name == "run_id":
            raise ParameterError(
                f"`run_id` is not set as a parameter ({setting.source}).", hint="Use --run-id ID."
            )
        if name not in declared:
            guess = did_you_mean(name, list(declared))
            raise ParameterError(
                f"There is no parameter `{name}` ({setting.source}){': ' + guess if guess else '.'}",
                hint="" if guess else "The second cell of each notebook lists the parameters it has.",
            )
        parameter = declared[name]
        value = setting.value
        if parameter.secret and value not in (None, ""):
            raise ParameterError(
                f"`{name}` is marked secret, and parameters end up in notebooks and reports ({setting.source}).",
                hint=f"Set the environment variable {redaction.variable(name)} instead.",
            )
        if parameter.type == "str" and not isinstance(value, str) and setting.text is not None:
            value = setting.text  # -p prefix 2026: the type is known, so the text needs no quotes
        value = _typed(parameter, value, setting.source)
        _check_value(name, value, setting.source)
        checked[name] = Setting(value, setting.source)
    settings.check_together(
        {name: value_of(parameter, checked.get(name)) for name, parameter in declared.items()}
    )
    return checked


def value_of(parameter: Parameter, setting: Setting | None) -> Any:
    """Return what a notebook's parameter becomes: the default, or the user's value.

    A mapping is the default with the user's keys over it.
    """
    if setting is None:
        return parameter.default
    if isinstance(parameter.default, dict) and isinstance(setting.value, dict):
        return merge(parameter.default, setting.value)
    return setting.value


def coerce(value: Any, type_name: str) -> Any:
    """Return a value as one of ``TYPES``: a whole number serves as float, a bool never as a number.

    Raises
    ------
    ValueError
        When the value is not of the type; the text completes the sentence "the value is ...".
    """
    try:
        return _ADAPTERS[type_name].validate_python(value)
    except ValidationError:
        raise ValueError(f"not {_IN_WORDS[type_name]}") from None


def looks_secret(name: str) -> bool:
    """Tell whether a name is one that secrets have: token, password, access_key, but not kms_key."""
    words = re.split(r"[^a-z0-9]+", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower())
    if _SECRET_WORDS & set(words):
        return True
    return words[-1] in {"key", "keys", "apikey"} and "kms" not in words


def _read(path: Path) -> str:
    """Return the file's text; refuse what is no text file."""
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise ParameterError(f"The parameter file {shown(path)} is not a text file.") from None
    except FileNotFoundError:
        raise _no_such_file(path) from None
    except OSError as error:
        raise ParameterError(
            f"The parameter file {shown(path)} cannot be read: {error.strerror or error}."
        ) from error


def _no_such_file(path: Path) -> ParameterError:
    folders = dict.fromkeys([path.absolute().parent, ROOT / "parameters"])
    known = {file.stem: file for folder in folders for file in sorted(folder.glob("*.yaml"))}
    close = difflib.get_close_matches(path.stem, known, n=1, cutoff=0.6)
    guess = f": did you mean {shown(known[close[0]])}?" if close else "."
    there_are = ", ".join(shown(file) for file in known.values())
    return ParameterError(
        f"There is no parameter file {shown(path)}{guess}",
        hint=f"There are {there_are}." if known and not close else "",
    )


def _parse(text: str) -> Any:
    """Return the value that a YAML text means, or the text itself where it is no YAML."""
    try:
        return _Loader(text).get_single_data()
    except (yaml.YAMLError, ValueError):
        return text


def _not_yaml(path: Path, error: Exception) -> ParameterError:
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    line = f", line {mark.line + 1}" if mark is not None else ""
    problem = getattr(error, "problem", None) or str(error).splitlines()[0]
    hint = "Indent with spaces, not with tabs." if "'\\t'" in problem else ""
    return ParameterError(f"The parameter file {shown(path)}{line} is not YAML: {problem}.", hint=hint)


def _refuse_duplicate_keys(node: yaml.Node, path: Path) -> None:
    """Refuse a mapping that names a key twice: YAML would silently take the last."""
    if isinstance(node, yaml.SequenceNode):
        for item in node.value:
            _refuse_duplicate_keys(item, path)
    if not isinstance(node, yaml.MappingNode):
        return
    first_lines: dict[str, int] = {}
    for key_node, value_node in node.value:
        key, line = str(key_node.value), key_node.start_mark.line + 1
        if key in first_lines:
            raise ParameterError(
                f"{shown(path)} names `{key}` twice, in lines {first_lines[key]} and {line}."
            )
        first_lines[key] = line
        _refuse_duplicate_keys(value_node, path)


def _refuse_secrets(name: str, value: Any, source: str) -> None:
    """Refuse values that look like secrets: parameters end up in notebooks, records and the report."""
    if isinstance(value, dict):
        for key, inner in value.items():
            _refuse_secrets(str(key), inner, source)
    elif isinstance(value, list):
        for inner in value:
            _refuse_secrets(name, inner, source)
    elif (looks_secret(name) and value not in (None, "")) or (
        isinstance(value, str) and redaction.has_key(value)
    ):
        raise ParameterError(
            f"`{name}` looks like a secret, and parameters end up in notebooks and reports ({source}).",
            hint="Leave credentials to boto3: environment variables, ~/.aws or a role.",
        )


def _typed(parameter: Parameter, value: Any, source: str) -> Any:
    """Return the user's value in the declared type, or say what is wrong with it."""
    if value is None:
        raise ParameterError(
            f"Parameter `{parameter.name}` has no value ({source}).", hint="Leave it out to have the default."
        )
    try:
        return coerce(value, parameter.type)
    except ValueError as error:
        hint = ""
        if parameter.type == "str" and isinstance(value, (int, float, bool)):
            hint = "Put it in quotes."
        elif parameter.type == "int" and isinstance(value, float) and value.is_integer():
            hint = f"Write {int(value)}."
        elif parameter.type == "bool":
            hint = "Write true or false."
        raise ParameterError(
            f"Parameter `{parameter.name}` is {value!r} ({source}), {error}.", hint=hint
        ) from None


def _check_value(name: str, value: Any, source: str) -> None:
    """Check what ``lib.settings`` knows of a parameter and say where a wrong value was given."""
    try:
        settings.check(name, value)
    except ParameterError as error:
        raise ParameterError(f"{error.message.rstrip('.')} ({source}).", hint=error.hint) from None
