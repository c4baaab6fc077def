"""What a test knows of an object store: its address, a bucket, and the keys of an owner and of a reader."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True)
class Store:
    """An object store and somebody's keys for it.

    Attributes:
        name: Of the kind of store.
        endpoint: URL.
        bucket: Exists, and belongs to the owner.
        key: Access key id.
        secret: Secret access key.
        token: Session token, where the keys are temporary ones.
        reader: Keys (id, secret) of somebody who may read the bucket and not write to it.
    """

    name: str
    endpoint: str
    bucket: str
    key: str
    secret: str
    token: str | None = None
    reader: tuple[str, str] | None = None

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs that uses the store as `s3://`."""
        named = {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": self.key,
            "AWS_SECRET_ACCESS_KEY": self.secret,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
            "AWS_RESPONSE_CHECKSUM_VALIDATION": "when_required",
        }
        return named | ({"AWS_SESSION_TOKEN": self.token} if self.token else {})

    def url(self, *parts: str) -> str:
        return "/".join([f"s3://{self.bucket}", *parts])

    def as_reader(self) -> Store:
        assert self.reader is not None
        return replace(self, key=self.reader[0], secret=self.reader[1], token=None)

    def client(self, service: str = "s3") -> Any:
        """Returns a boto3 client with these keys."""
        import boto3
        from botocore.config import Config

        return boto3.client(
            service,
            endpoint_url=self.endpoint,
            aws_access_key_id=self.key,
            aws_secret_access_key=self.secret,
            aws_session_token=self.token,
            region_name="us-east-1",
            config=Config(
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
                s3={"addressing_style": "path"},
            ),
        )

    def upload(self, files: dict[str, bytes]) -> None:
        client = self.client()
        for name, data in files.items():
            client.put_object(Bucket=self.bucket, Key=name, Body=data)

    def download(self, prefix: str = "") -> dict[str, bytes]:
        """Returns all objects below a prefix, by key."""
        client = self.client()
        pages = client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=prefix)
        keys = [entry["Key"] for page in pages for entry in page.get("Contents", [])]
        return {key: client.get_object(Bucket=self.bucket, Key=key)["Body"].read() for key in keys}
