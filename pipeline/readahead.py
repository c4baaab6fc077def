"""How far reading may be ahead of the model: a policy for Ray Data's scheduler.

Ray Data bounds what waits between two stages by bytes, as a share of the object store. Blocks of small images reach no
such bound: they do not even go to the store, but into the driver's memory, and each of them costs the driver some
more. So readers would be done with a corpus of small images while the model still loads. Here blocks are counted.

Policies of one's own are given to Ray Data by a setting that it does not document; pyproject.toml pins a Ray that has
it.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from ray.data import DataContext
from ray.data._internal.execution.backpressure_policy import (
    ENABLED_BACKPRESSURE_POLICIES,
    ENABLED_BACKPRESSURE_POLICIES_CONFIG_KEY,
    BackpressurePolicy,
)
from ray.data._internal.execution.operators.actor_pool_map_operator import ActorPoolMapOperator

if TYPE_CHECKING:
    from ray.data._internal.execution.interfaces import PhysicalOperator
    from ray.data._internal.execution.resource_manager import ResourceManager
    from ray.data._internal.execution.streaming_executor_state import Topology

BLOCKS_PER_ACTOR = 4
"""Blocks that may wait for each actor, besides those that it has been given already."""


def bound_reading(actors: int) -> None:
    """Let plans of this process read at most :data:`BLOCKS_PER_ACTOR` blocks ahead for each actor.

    A few more come to it: what a read task has made before it is told to wait, two blocks each.
    """
    policy = partial(ReadAhead, blocks=BLOCKS_PER_ACTOR * actors)
    DataContext.get_current().set_config(
        ENABLED_BACKPRESSURE_POLICIES_CONFIG_KEY, [*ENABLED_BACKPRESSURE_POLICIES, policy]
    )


class ReadAhead(BackpressurePolicy):  # type: ignore[misc]  # Ray has no types
    """Holds the stage before the actors while enough blocks wait for them.

    Args:
        context: Of the execution.
        topology: The plan's operators and what is in their queues.
        resources: Of the execution.
        blocks: That may wait.
    """

    def __init__(self, context: DataContext, topology: Topology, resources: ResourceManager, blocks: int) -> None:
        super().__init__(context, topology, resources)
        self._blocks = blocks

    def can_add_input(self, op: PhysicalOperator) -> bool:
        """Tell whether the operator may start another task."""
        return self._room(op) != 0

    def max_task_output_bytes_to_read(self, op: PhysicalOperator) -> int | None:
        """Return how many bytes may be taken from the operator's tasks now, about as many as there is room for blocks.

        With 0 its tasks wait. None, for no limit, would take all that they have made, and what they make meanwhile.
        """
        room = self._room(op)
        return room and max(1, round(room * (op.metrics.average_bytes_per_output or 0)))

    def _room(self, op: PhysicalOperator) -> int | None:
        """Return how many blocks more may wait for the actors that the operator reads for; None if it doesn't."""
        waiting = [
            self._topology[after].total_enqueued_input_blocks()  # the operator's output queue is one of its inputs
            for after in op.output_dependencies
            if isinstance(after, ActorPoolMapOperator)
        ]
        return max(0, self._blocks - sum(waiting)) if waiting else None
