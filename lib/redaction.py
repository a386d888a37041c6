"""Keeps secrets out of executed notebooks, records and reports.

What is hidden: the values of environment variables that hold secrets by their names, credentials among them, and
whatever has the form of a key: AWS access keys, private keys, tokens of well-known services, passwords in URLs.  A
notebook's parameter is secret when its help begins with ``secret:``; its value comes from the environment alone.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from typing import Any

HIDDEN = "[hidden]"
SHORTEST = 8  # characters of a value that is hidden wherever it occurs; shorter ones are found in any text
PREFIX = "REELBOOK_SECRET_"

# What each kind of key has in it, and its form; what the group `key` finds is hidden, or all where there is none.
_FORMS = [
    (("AKIA", "ASIA"), r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b"),
    (("PRIVATE KEY",), r"-----BEGIN [A-Z ]*PRIVATE KEY-----(?:.|\n)*?-----END [A-Z ]*PRIVATE KEY-----"),
    (
        ("ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_"),
        r"\bgh[opusr]_[A-Za-z0-9]{36,}\b|\bgithub_pat_[A-Za-z0-9_]{50,}\b",
    ),
    (("hf_", "xox", "sk-"), r"\b(?:hf_[A-Za-z0-9]{30,}|xox[abprs]-[A-Za-z0-9-]{10,}|sk-[A-Za-z0-9_-]{20,})"),
    (("AIza",), r"AIza[A-Za-z0-9_-]{35}"),
    (("eyJ",), r"eyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}"),
    (("://",), r"://(?P<key>[^/\s:@\"'\\]+:[^/\s:@\"'\\]+)@"),
    (("X-Amz-S",), r"X-Amz-Signature=(?P<key>[0-9a-f]{64})"),
    (("X-Amz-S",), r"X-Amz-Security-Token=(?P<key>[^&\s\"'<\\]+)"),
    (
        ("ecret", "ECRET"),
        r"(?i:secret_?access_?key)[\"'\\]*\s*[=:]\s*[\"'\\]*(?P<key>[A-Za-z0-9/+]{40})(?![A-Za-z0-9/+=])",
    ),
]
_PATTERNS = [(needles, re.compile(form)) for needles, form in _FORMS]
_ACCESS_KEY = _PATTERNS[0][1]
_VARIABLE = re.compile(
    r"SECRET|PASSWORD|PASSWD|PASSPHRASE|CREDENTIAL|(?:^|_)TOKEN$|(?:API|ACCESS|PRIVATE)_?KEY(?:_ID)?$",
    re.IGNORECASE,
)
_NO_SECRETS = ("_FILE", "_PATH", "_DIR", "_ARN", "_URI", "_URL")  # places of secrets


def variable(name: str) -> str:
    """Return the environment variable that holds a secret parameter."""
    return PREFIX + name.upper()


def has_key(text: str) -> bool:
    """Tell whether a text holds an AWS access key."""
    return _ACCESS_KEY.search(text) is not None


def secrets(environment: Mapping[str, str] | None = None) -> set[str]:
    """Return the values of the environment that are secret.

    Parameters
    ----------
    environment : mapping, optional
        That of this process, if none is given.
    """
    environment = os.environ if environment is None else environment
    return {
        value
        for name, value in environment.items()
        if len(value) >= SHORTEST and _VARIABLE.search(name) and not name.upper().endswith(_NO_SECRETS)
    }


def redact(text: str, values: Iterable[str] | None = None) -> str:
    """Return a text with every secret in it replaced by ``[hidden]``.

    Parameters
    ----------
    text : str
        Any text; also that of a JSON file, in which values are found as JSON writes them.
    values : iterable of str, optional
        What is hidden wherever it occurs; from `secrets`, if none are given.
    """
    for value in sorted(secrets() if values is None else values, key=len, reverse=True):
        text = text.replace(value, HIDDEN)
        escaped = _as_json(value)
        if escaped != value:
            text = text.replace(escaped, HIDDEN)
    for needles, pattern in _PATTERNS:
        if any(needle in text for needle in needles):
            text = pattern.sub(_hide, text)
    return text


def redact_value(value: Any, values: Iterable[str] | None = None) -> Any:
    """Return a JSON value with the secrets in its texts hidden."""
    hidden = secrets() if values is None else set(values)
    if isinstance(value, str):
        return redact(value, hidden)
    if isinstance(value, dict):
        return {key: redact_value(inner, hidden) for key, inner in value.items()}
    if isinstance(value, list):
        return [redact_value(inner, hidden) for inner in value]
    return value


def _hide(match: re.Match[str]) -> str:
    key = match.groupdict().get("key")
    return match.group().replace(key, HIDDEN) if key else HIDDEN


def _as_json(value: str) -> str:
    import json

    return json.dumps(value)[1:-1]
