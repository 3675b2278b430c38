"""Signatures against the examples of Amazon's own documentation."""

from __future__ import annotations

import datetime

import pytest

from orchestrator.policy.urls import Url
from orchestrator.sources.signing import signed

NOW = datetime.datetime(2013, 5, 24, tzinfo=datetime.UTC)


@pytest.mark.parametrize(
    ("target", "headers", "signature"),
    [
        (
            "/test.txt",
            {"Range": "bytes=0-9"},
            "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41",
        ),
        ("/?lifecycle=", {}, "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543"),
        ("/?max-keys=2&prefix=J", {}, "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7"),
    ],
)
def test_known_signatures(target: str, headers: dict[str, str], signature: str) -> None:
    fields = signed(
        Url.parse(f"https://examplebucket.s3.amazonaws.com{target}", ("https",)),
        key_id="AKIAIOSFODNN7EXAMPLE",
        secret="wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
        token=None,
        region="us-east-1",
        now=NOW,
        headers=headers,
    )
    assert fields["Authorization"].endswith(f"Signature={signature}")
    assert fields["x-amz-date"] == "20130524T000000Z"


def test_a_token_is_signed_too() -> None:
    url = Url.parse("https://s3.example/b", ("https",))
    fields = signed(url, key_id="k", secret="s", token="t", region="eu-1", now=NOW)
    assert fields["x-amz-security-token"] == "t"
    assert "x-amz-security-token" in fields["Authorization"]
    assert "/eu-1/s3/aws4_request" in fields["Authorization"]
