"""Optuna's gRPC proxy with a deadline for every call.

Tried with Optuna 5.0 and grpc 1.85; of Optuna's inside it knows ``_setup`` and the names that are set there.
"""

from __future__ import annotations

from typing import Any

import grpc
from optuna.storages import GrpcStorageProxy
from optuna.storages._grpc.auto_generated.api_pb2_grpc import StorageServiceStub
from optuna.storages._grpc.client import GrpcClientCache, create_insecure_channel

from search import time_limits


class LimitedProxy(GrpcStorageProxy):
    """A proxy whose calls end with ``DEADLINE_EXCEEDED`` when they take longer than the limit."""

    def _setup(self) -> None:
        self._channel = grpc.intercept_channel(create_insecure_channel(self._host, self._port), _Deadline())
        self._stub = StorageServiceStub(self._channel)  # type: ignore[no-untyped-call]  # generated
        self._cache = GrpcClientCache(self._stub)


class _Deadline(grpc.UnaryUnaryClientInterceptor):  # type: ignore[misc]  # grpc is not typed
    """Gives every call a deadline."""

    def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
        return continuation(details._replace(timeout=time_limits.LIMIT), request)
