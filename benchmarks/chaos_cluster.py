"""A Ray cluster of three nodes on this machine, of which one can be lost; run as a process of its own.

Prints the address, loses a node for each line that it reads, and ends with its standard input.
"""

from __future__ import annotations

import sys

from ray.cluster_utils import Cluster

NODE_BYTES = 100 * 10**6
"""Object store of each node."""


def main() -> None:
    """Serve the cluster."""
    cluster = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 0, "object_store_memory": NODE_BYTES, "include_dashboard": False},
    )
    try:
        nodes = [cluster.add_node(num_cpus=1, object_store_memory=NODE_BYTES) for _ in range(2)]
        print(cluster.address, flush=True)
        for line in sys.stdin:
            cluster.remove_node(nodes.pop(int(line) % len(nodes)), allow_graceful=False)
            cluster.add_node(num_cpus=1, object_store_memory=NODE_BYTES)  # as an autoscaler would
            print("lost", flush=True)
    finally:
        cluster.shutdown()


if __name__ == "__main__":
    main()
