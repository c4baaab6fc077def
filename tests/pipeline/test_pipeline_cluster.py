import pytest
import ray

from pipeline.cluster import ActorResources, actor_resources, cluster_address, faults_named, wait_for
from pipeline.config import load_config
from pipeline.errors import ConfigurationError, PipelineError
from sdmatte.errors import CheckpointError

pytestmark = pytest.mark.usefixtures("ray_session")

MINIMAL = ("input.kind=folder", "input.path=photos", "model.source=m", "output.path=out")
ADVICE = "\nFailed to apply UDF transform after 1/1 attempts (total backoff 0.0s).\nTo change retry attempts, ..."


def test_an_address_comes_from_the_configuration_or_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert cluster_address(load_config(None, MINIMAL)) is None
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert cluster_address(load_config(None, MINIMAL)) == "10.0.0.1:6379"
    assert cluster_address(load_config(None, [*MINIMAL, "workers.ray_address=auto"])) == "auto"


def test_actors_on_cpus_share_the_machine() -> None:
    assert actor_resources(load_config(None, [*MINIMAL, "workers.cpus_per_actor=1.5"])) == ActorResources(1.5, 0)
    one = actor_resources(load_config(None, MINIMAL))
    many = actor_resources(load_config(None, [*MINIMAL, "workers.actors=64"]))
    assert one.gpus == many.gpus == 0
    assert one.cpus >= many.cpus == 1


def test_gpus_that_a_machine_has_not_are_refused_but_a_cluster_may_grow(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load_config(None, [*MINIMAL, "model.device=cuda", "workers.gpus_per_actor=0.5"])
    with pytest.raises(ConfigurationError, match=r"0\.5 GPU"):
        actor_resources(settings)
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    assert actor_resources(settings) == ActorResources(1, 0.5)


def test_waiting_for_room_is_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("pipeline.cluster.WAITING_SECONDS", 0.1)

    def slow() -> int:
        import time

        time.sleep(1)
        return 7

    assert wait_for(ray.remote(slow).options(num_cpus=0.5).remote(), ActorResources(0.5, 0)) == 7
    assert "waiting for 0.5 CPUs and 0 GPUs on one node" in capsys.readouterr().err


def _raised_by_a_worker(error: Exception) -> pytest.ExceptionInfo[PipelineError]:
    def fail() -> None:
        raise error

    with pytest.raises(PipelineError) as caught, faults_named():
        ray.get(ray.remote(fail).options(num_cpus=0.1).remote())
    return caught


def test_a_workers_own_fault_comes_out_as_it_was_raised() -> None:
    caught = _raised_by_a_worker(ConfigurationError(f"the disk is full{ADVICE}"))
    assert type(caught.value) is ConfigurationError
    assert str(caught.value) == "the disk is full"


def test_a_models_fault_is_one_of_the_configuration() -> None:
    caught = _raised_by_a_worker(CheckpointError("no such weights"))
    assert type(caught.value) is ConfigurationError
    assert str(caught.value) == "the model can't be used: no such weights"


def test_any_other_fault_is_named_in_one_line() -> None:
    caught = _raised_by_a_worker(KeyError("shape"))
    assert type(caught.value) is PipelineError
    assert str(caught.value) == "the run stopped: KeyError: 'shape'"
    with pytest.raises(ZeroDivisionError), faults_named():
        _ = 1 / 0
