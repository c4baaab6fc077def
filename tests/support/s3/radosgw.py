"""Ceph's S3 gateway: a real store, of one monitor, one manager and one storage daemon that keeps all in memory."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from support.s3.processes import free_port, running, wait_for_port
from support.s3.store import Store

COMMANDS = ("ceph", "ceph-mgr", "ceph-mon", "ceph-osd", "monmaptool", "radosgw", "radosgw-admin")
INSTALL = "apt-get install --no-install-recommends radosgw ceph-mon ceph-osd ceph-mgr ceph-common"
"""What installs them on Debian and Ubuntu."""

_CONF = """
[global]
fsid = {fsid}
mon host = v1:127.0.0.1:{mon}
mon initial members = a
public addr = 127.0.0.1
cluster addr = 127.0.0.1
ms bind ipv6 = false
ms type = async+posix
auth cluster required = none
auth service required = none
auth client required = none
auth supported = none
run dir = {folder}
log file = {folder}/$name.log
admin socket = {folder}/$name.asok
pid file = {folder}/$name.pid
crash dir = {folder}/crash
setuser match path = {folder}
osd pool default size = 1
osd pool default min size = 1
osd crush chooseleaf type = 0
osd pool default pg num = 4
osd pool default pgp num = 4
osd pool default pg autoscale mode = off
mon allow pool size one = true
mon max pg per osd = 1000
mon data avail warn = 1
mon data avail crit = 1
mon warn on insecure global id reclaim = false
mon warn on insecure global id reclaim allowed = false
mgr disabled modules = volumes,progress,zabbix
[mon.a]
mon data = {folder}/mon
[mgr]
mgr data = {folder}/mgr
mgr initial modules =
[osd.0]
osd data = {folder}/osd
osd objectstore = memstore
memstore device bytes = 1073741824
osd class load list = *
osd class default list = *
osd class update on start = false
osd crush update on start = false
osd heartbeat grace = 60
[client.rgw]
rgw data = {folder}/rgw
rgw frontends = beast endpoint=127.0.0.1:{port}
rgw thread pool size = 64
rgw enable usage log = false
rgw dynamic resharding = false
"""


def missing() -> str | None:
    """Returns why there can be no gateway on this machine, for people; None if there can."""
    gone = [command for command in COMMANDS if shutil.which(command) is None]
    return f"needs Ceph's S3 gateway ({', '.join(gone)} not found): {INSTALL}" if gone else None


@contextmanager
def radosgw_store(folder: Path, bucket: str = "corpus") -> Iterator[Store]:
    """Starts the gateway (some 15 s), with an owner of the bucket and a user who may only read it."""
    for name in ("mon", "osd", "mgr", "rgw", "crash"):
        (folder / name).mkdir(parents=True)
    fsid, port = str(uuid.uuid4()), free_port()
    conf = folder / "ceph.conf"
    conf.write_text(_CONF.format(fsid=fsid, mon=(mon := free_port()), folder=folder, port=port))
    env = {"CEPH_CONF": str(conf)}

    def run(*command: str, check: bool = True) -> str:
        done = subprocess.run(
            command, env={**os.environ, **env}, capture_output=True, text=True, timeout=90, check=False
        )
        if check and done.returncode:
            raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
        return done.stdout

    with ExitStack() as daemons:

        def serve(*command: str) -> subprocess.Popen[bytes]:
            return daemons.enter_context(running(command, folder / f"{command[0]}.out", env))

        monmap = str(folder / "monmap")
        run("monmaptool", "--create", "--clobber", "--fsid", fsid, "--addv", "a", f"[v1:127.0.0.1:{mon}]", monmap)
        run("ceph-mon", "--mkfs", "-i", "a", "--monmap", monmap)
        wait_for_port(mon, serve("ceph-mon", "-f", "-i", "a"), folder / "ceph-mon.out")
        serve("ceph-mgr", "-f", "-i", "x")
        osd = str(uuid.uuid4())
        run("ceph", "--connect-timeout", "30", "osd", "new", osd, "0")
        run("ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", osd)
        run("ceph", "osd", "crush", "add", "osd.0", "1.0", "root=default", "host=localhost", check=False)
        serve("ceph-osd", "-f", "-i", "0")
        end = time.monotonic() + 60
        while "1 up" not in run("ceph", "--connect-timeout", "10", "osd", "stat", check=False):
            if time.monotonic() > end:
                raise RuntimeError("Ceph's storage daemon did not start")
            time.sleep(0.5)
        keys = {name: (uuid.uuid4().hex[:20], uuid.uuid4().hex + uuid.uuid4().hex[:8]) for name in ("owner", "reader")}
        for name, (key, secret) in keys.items():
            command = ("user", "create", f"--uid={name}", f"--display-name={name}")
            run("radosgw-admin", *command, f"--access-key={key}", f"--secret-key={secret}")
        wait_for_port(port, serve("radosgw", "-f", "-n", "client.rgw"), folder / "radosgw.out")
        store = Store("radosgw", f"http://127.0.0.1:{port}", bucket, *keys["owner"], reader=keys["reader"])
        client = store.client()
        client.create_bucket(Bucket=bucket)
        client.put_bucket_policy(Bucket=bucket, Policy=_readable(bucket))
        yield store


def _readable(bucket: str) -> str:
    statement = {
        "Effect": "Allow",
        "Principal": {"AWS": ["arn:aws:iam:::user/reader"]},
        "Action": ["s3:GetObject", "s3:ListBucket"],
        "Resource": [f"arn:aws:s3:::{bucket}", f"arn:aws:s3:::{bucket}/*"],
    }
    return json.dumps({"Version": "2012-10-17", "Statement": [statement]})
