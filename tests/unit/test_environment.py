"""pyproject.toml, requirements.txt and environment.yml say the same."""

from __future__ import annotations

import re
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
REQUIREMENTS = (ROOT / "requirements.txt").read_text()
DIRECT = [
    Requirement(text) for text in PROJECT["project"]["dependencies"] + PROJECT["dependency-groups"]["dev"]
]


def pins() -> dict[str, list[Requirement]]:
    """Return the pinned requirements by canonical name; a name may have several, by marker."""
    found: dict[str, list[Requirement]] = {}
    for line in REQUIREMENTS.splitlines():
        if re.match(r"[A-Za-z0-9]", line):
            requirement = Requirement(line.rstrip(" \\"))
            found.setdefault(canonicalize_name(requirement.name), []).append(requirement)
    return found


@pytest.mark.parametrize("direct", DIRECT, ids=str)
def test_every_direct_package_is_pinned_within_its_bounds(direct):
    pinned = pins()[canonicalize_name(direct.name)]
    for pin in pinned:
        (version,) = [spec.version for spec in pin.specifier]
        assert Version(version) in direct.specifier


def test_every_pin_has_hashes():
    blocks = re.split(r"\n(?=[A-Za-z0-9])", REQUIREMENTS)
    assert [block.splitlines()[0] for block in blocks[1:] if "--hash=sha256:" not in block] == []


@pytest.mark.parametrize("name", ["requirements.txt", "environment.yml", "pyproject.toml"])
def test_no_package_list_names_a_registry(name):
    text = (ROOT / name).read_text()
    assert not re.search(r"https?://|index-url|find-links", text)


def test_the_conda_environment_installs_the_pinned_requirements():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    python = next(item for item in environment["dependencies"] if str(item).startswith("python="))
    version = python.removeprefix("python=")
    assert Version(version) in SpecifierSet(PROJECT["project"]["requires-python"])
    assert environment["dependencies"][-1] == {"pip": ["-r requirements.txt"]}


def test_this_environment_is_the_pinned_one():
    different = {}
    for name, requirements in pins().items():
        for pin in requirements:
            if pin.marker is None or pin.marker.evaluate():
                installed = metadata.version(name)
                if Version(installed) not in pin.specifier:
                    different[name] = installed
    assert different == {}
