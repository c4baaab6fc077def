"""Moto as a process of its own, with or without a check of keys."""

from __future__ import annotations

import json
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from support.s3.processes import free_port, running, wait_for_port
from support.s3.store import Store

_SERVER = """
import sys
from moto.server import main
main(["-H", "127.0.0.1", "-p", sys.argv[1]])
"""
_ROLE = {
    "Version": "2012-10-17",
    "Statement": [{"Effect": "Allow", "Principal": {"AWS": "*"}, "Action": "sts:AssumeRole"}],
}


@contextmanager
def moto_store(folder: Path, bucket: str = "corpus") -> Iterator[Store]:
    """Starts a server that takes any keys."""
    with _server(folder) as endpoint:
        store = Store("moto", endpoint, bucket, "testing", "testing")
        store.client().create_bucket(Bucket=bucket)
        yield store


@contextmanager
def strict_moto_store(folder: Path, bucket: str = "corpus") -> Iterator[Store]:
    """Starts a server that checks keys and policies; the owner's keys are those of a role, with a session token."""
    with _server(folder) as endpoint:
        root = Store("moto with keys", endpoint, bucket, "testing", "testing")
        root.client().create_bucket(Bucket=bucket)
        iam = root.client("iam")
        iam.create_role(RoleName="owner", AssumeRolePolicyDocument=json.dumps(_ROLE))
        iam.put_role_policy(RoleName="owner", PolicyName="all", PolicyDocument=_policy("s3:*"))
        role = iam.get_role(RoleName="owner")["Role"]["Arn"]
        keys = root.client("sts").assume_role(RoleArn=role, RoleSessionName="tests")["Credentials"]
        iam.create_user(UserName="reader")
        iam.put_user_policy(
            UserName="reader", PolicyName="read", PolicyDocument=_policy(["s3:GetObject", "s3:ListBucket"])
        )
        reader = iam.create_access_key(UserName="reader")["AccessKey"]
        request = urllib.request.Request(
            f"{endpoint}/moto-api/reset-auth", b"0", {"Content-Type": "text/plain"}, method="POST"
        )
        urllib.request.urlopen(request, timeout=10).close()
        yield Store(
            "moto with keys",
            endpoint,
            bucket,
            keys["AccessKeyId"],
            keys["SecretAccessKey"],
            keys["SessionToken"],
            (reader["AccessKeyId"], reader["SecretAccessKey"]),
        )


@contextmanager
def _server(folder: Path) -> Iterator[str]:
    folder.mkdir(parents=True, exist_ok=True)
    port, log = free_port(), folder / "moto.log"
    with running([sys.executable, "-c", _SERVER, str(port)], log) as process:
        wait_for_port(port, process, log)
        yield f"http://127.0.0.1:{port}"


def _policy(action: Any) -> str:
    statement = {"Effect": "Allow", "Action": action, "Resource": "*"}
    return json.dumps({"Version": "2012-10-17", "Statement": [statement]})
