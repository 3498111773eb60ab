"""moto's S3 server in a process of its own, and what a client of it needs."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

_KEYS = {"aws_access_key_id": "test", "aws_secret_access_key": "test"}
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}


@contextmanager
def s3_server() -> Iterator[str]:
    """The address of a server that answers."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={**os.environ, **CREDENTIALS},
    )  # fmt: skip
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(600):
            try:
                urllib.request.urlopen(address, timeout=5).close()
                break
            except urllib.error.HTTPError:
                break
            except OSError:
                time.sleep(0.1)
        forget_clients()
        yield address
    finally:
        process.kill()
        process.wait()


def forget_clients() -> None:
    """fsspec keeps a client for a protocol, and with it the address of a server that is gone."""
    import fsspec

    fsspec.get_filesystem_class("s3").clear_instance_cache()


def user(address: str, name: str, *actions: str) -> dict[str, str]:
    """What makes a client somebody who may do these actions alone; to be called before :func:`check_permissions`."""
    import boto3

    there = boto3.client("iam", endpoint_url=address, **{"region_name": "us-east-1", **_KEYS})
    there.create_user(UserName=name)
    key = there.create_access_key(UserName=name)["AccessKey"]
    if actions:
        statement = {"Effect": "Allow", "Action": list(actions), "Resource": "*"}
        policy = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
        there.put_user_policy(UserName=name, PolicyName="p", PolicyDocument=policy)
    return {"AWS_ACCESS_KEY_ID": key["AccessKeyId"], "AWS_SECRET_ACCESS_KEY": key["SecretAccessKey"]}


def check_permissions(address: str) -> None:
    """From now on the server looks at who asks, and whether they may."""
    request = urllib.request.Request(
        f"{address}/moto-api/reset-auth", data=b"0", method="POST", headers={"Content-Type": "text/plain"}
    )
    urllib.request.urlopen(request, timeout=10).close()


def environment(address: str) -> dict[str, str]:
    """What makes any client talk to it."""
    return {**CREDENTIALS, "AWS_ENDPOINT_URL": address, "FSSPEC_S3_ENDPOINT_URL": address}
