from __future__ import annotations

import base64
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib import redaction

KEY = "abcdefghijABCDEFGHIJabcdefghijABCDEFGH12"
KEYS = {
    "an access key": "AKIAABCDEFGHIJKLMNOP",
    "a temporary one": "ASIAABCDEFGHIJKLMNOP",
    "a secret key, assigned": f'aws_secret_access_key = "{KEY}"',
    "a secret key in JSON": json.dumps({"SecretAccessKey": KEY}),
    "a secret key in JSON in JSON": json.dumps(json.dumps({"SecretAccessKey": KEY})),
    "a private key": "-----BEGIN RSA PRIVATE KEY-----\nabc\n-----END RSA PRIVATE KEY-----",
    "a private key in JSON": json.dumps("-----BEGIN PRIVATE KEY-----\nabc\n-----END PRIVATE KEY-----"),
    "a token of GitHub": "ghp_" + "a1B2" * 10,
    "a token of Hugging Face": "hf_" + "a1B2" * 9,
    "a token of Slack": "xoxb-123456789012-abcdef",
    "a JSON web token": "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N",
    "a password in a URL": "https://user:passphrase@host/path",
    "a presigned URL": "https://h/k?X-Amz-Signature=" + "0f" * 32 + "&X-Amz-Expires=60",
}


@pytest.mark.parametrize("kind", KEYS)
def test_what_has_the_form_of_a_key_is_hidden_and_what_is_around_it_stays(kind):
    text = redaction.redact(f"before {KEYS[kind]} after", [])
    assert text.startswith("before ")
    assert text.endswith(" after")
    assert redaction.HIDDEN in text
    for secret in (KEY, "AKIA", "ASIA", "abc\n", "a1B2", "123456789012-", "passphrase", "0f0f", "dozjgNry"):
        assert secret not in text


@pytest.mark.parametrize(
    "text",
    [
        "s3://reelbook/runs/20261123-091500/03_train/20261123-091500-train-158d7204/output/model.tar.gz",
        "arn:aws:sagemaker:us-east-1:123456789012:training-job/x",
        "https://example.org/a:b@c",
        "the secret of a good baseline: damping",
        '"etag": "' + "ab" * 32 + '"',
        "print(token)",
    ],
)
def test_what_is_no_key_stays(text):
    assert redaction.redact(text, []) == text


def test_pictures_stay_as_they_are():
    data = np.random.default_rng(0).bytes(2_000_000)
    text = base64.b64encode(data).decode()
    assert redaction.redact(text, []) == text


def test_secrets_of_the_environment_are_known_by_their_names():
    environment = {
        "AWS_SECRET_ACCESS_KEY": "1" * 40,
        "AWS_ACCESS_KEY_ID": "2" * 20,
        "AWS_SESSION_TOKEN": "3" * 20,
        "DB_PASSWORD": "4" * 8,
        "MY_API_KEY": "5" * 8,
        "REELBOOK_SECRET_PIN": "6" * 8,
        "SHORT_TOKEN": "1234567",
        "PATH": "/usr/bin:/bin",
        "SECRET_FILE": "/etc/secret",
        "TOKENIZERS_PARALLELISM": "falsefalse",
        "KEYBOARD": "qwertyqwerty",
        "ROLE_CREDENTIAL_ARN": "arn:aws:iam::1:role/x",
    }
    found = redaction.secrets(environment)
    assert found == {"1" * 40, "2" * 20, "3" * 20, "4" * 8, "5" * 8, "6" * 8}


@given(st.text(min_size=8), st.text(max_size=20))
def test_a_secret_is_hidden_wherever_it_is_also_in_json(secret, around):
    if secret in redaction.HIDDEN or secret in around:
        return
    shown = redaction.redact(around + secret + around, [secret])
    assert secret not in shown.replace(redaction.HIDDEN, "")
    written = redaction.redact(json.dumps({"x": secret}), [secret])
    assert json.loads(written) == {"x": redaction.HIDDEN} or secret in '{"x": "'


def test_values_are_gone_through():
    value = {"a": ["AKIAABCDEFGHIJKLMNOP", 1, None], "b": {"c": "mine-mine"}}
    assert redaction.redact_value(value, ["mine-mine"]) == {
        "a": ["[hidden]", 1, None],
        "b": {"c": "[hidden]"},
    }


def test_the_longer_of_two_secrets_is_hidden_first():
    assert redaction.redact("12345678-9", ["12345678", "12345678-9"]) == "[hidden]"
