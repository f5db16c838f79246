"""A primary and its replicas as one engine."""

from aiodbkit.replicas.engine import ReplicatedEngine
from aiodbkit.replicas.members import ReplicaState
from aiodbkit.replicas.routing import Primary

__all__ = ["Primary", "ReplicaState", "ReplicatedEngine"]
