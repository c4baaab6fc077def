"""The suite's environment and its shared fixtures.

The environment stands first: huggingface, Ray and the AWS libraries read it when they are imported or when Ray's
workers are started. Nothing here reaches the network, a cluster of the user's, or an account.
"""

import atexit
import os
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterator

import hypothesis
import pytest

# Bound from now until the server takes it over, so that no port of Ray's lands on it.
_s3_port = socket.socket()
_s3_port.bind(("127.0.0.1", 0))
_S3_URL = f"http://127.0.0.1:{_s3_port.getsockname()[1]}"

# Ray puts Unix sockets below this folder, whose paths have at most about 100 characters: macOS's own is too long.
_RAY_TMPDIR = tempfile.mkdtemp(prefix="sdm-", dir="/tmp" if sys.platform == "darwin" else None)
atexit.register(shutil.rmtree, _RAY_TMPDIR, ignore_errors=True)

os.environ.update(
    HF_HUB_OFFLINE="1",
    TRANSFORMERS_OFFLINE="1",
    RAY_AUTH_MODE="disabled",
    RAY_DATA_DISABLE_PROGRESS_BARS="1",
    RAY_ENABLE_UV_RUN_RUNTIME_ENV="0",
    RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER="0",  # listen on the loopback interface only
    RAY_TMPDIR=_RAY_TMPDIR,
    RAY_USAGE_STATS_ENABLED="0",
    AWS_ACCESS_KEY_ID="testing",
    AWS_SECRET_ACCESS_KEY="testing",
    AWS_DEFAULT_REGION="us-east-1",
    AWS_ENDPOINT_URL=_S3_URL,
    AWS_CONFIG_FILE=os.devnull,
    AWS_SHARED_CREDENTIALS_FILE=os.devnull,
    AWS_EC2_METADATA_DISABLED="true",
    AWS_REQUEST_CHECKSUM_CALCULATION="when_required",
    AWS_RESPONSE_CHECKSUM_VALIDATION="when_required",
)
for name in ("RAY_ADDRESS", "AWS_PROFILE", "AWS_SESSION_TOKEN"):
    os.environ.pop(name, None)

# An example's time says little on a shared machine; pytest-timeout bounds the test as a whole. And a change is judged
# by the same examples wherever it is tested.
hypothesis.settings.register_profile("suite", deadline=None, derandomize=True)
hypothesis.settings.load_profile("suite")


@pytest.hookimpl(trylast=True)  # after -m and -k, so that torch is imported only for tests that would run
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselects tests marked `gpu` where there is no CUDA device."""
    on_gpu = [item for item in items if item.get_closest_marker("gpu")]
    if on_gpu and not _cuda_is_available():
        config.hook.pytest_deselected(items=on_gpu)
        items[:] = [item for item in items if not item.get_closest_marker("gpu")]


def _cuda_is_available() -> bool:
    import torch

    return torch.cuda.is_available()


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """One local Ray of four logical CPUs for the whole suite; its workers inherit the environment above."""
    import ray

    ray.init(
        address="local",  # never a cluster that happens to run on this machine
        num_cpus=4,
        include_dashboard=False,
        object_store_memory=300 * 2**20,
        log_to_driver=False,
        logging_level="ERROR",
    )
    yield
    ray.shutdown()


@pytest.fixture(autouse=True)
def _around_a_ray_test(request: pytest.FixtureRequest) -> Iterator[None]:
    """Lets no setting of a test's DataContext leak into the next test, and workers run what a test module defines."""
    if "ray_session" not in request.fixturenames:
        yield
        return
    from ray import cloudpickle
    from ray.data import DataContext

    # Workers import the installed packages, as everywhere; test modules they cannot, so these travel as a whole.
    cloudpickle.register_pickle_by_value(request.module)
    with DataContext.current(DataContext.get_current().copy()):
        yield
    cloudpickle.unregister_pickle_by_value(request.module)


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """An S3 server of moto's; yields its URL.

    The environment (also the Ray workers') names its address and keys that it takes: `s3://bucket/...` just works once
    the bucket exists. Buckets live as long as the suite, so choose names that no other test uses.
    """
    from moto.server import ThreadedMotoServer

    host, port = _s3_port.getsockname()
    _s3_port.close()
    server = ThreadedMotoServer(ip_address=host, port=port, verbose=False)
    server.start()
    yield _S3_URL
    server.stop()


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Tiny layers gain nothing from threads, and on a busy machine they wait for each other."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
