"""A cloud whose calls are counted and timed (instruments.py), whatever cloud it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from sharewright.clouds.contract import Cloud, Compute, Networks, Volumes
from sharewright.instruments import cloud_call_duration, cloud_call_errors, measured


class MeasuredCloud:
    """Contract :class:`sharewright.clouds.contract.Cloud`. Only calls from outside count: what a cloud calls of itself
    is part of those. ``unmeasured`` is the cloud itself."""

    def __init__(self, cloud: Cloud) -> None:
        self.unmeasured = cloud
        self._volumes = cast(Volumes, _Part(cloud.name, "volumes", cloud.volumes))
        self._networks = cast(Networks, _Part(cloud.name, "networks", cloud.networks))
        self._compute = cast(Compute, _Part(cloud.name, "compute", cloud.compute))

    @property
    def name(self) -> str:
        return self.unmeasured.name

    @property
    def deployment(self) -> str:
        return self.unmeasured.deployment

    @property
    def volumes(self) -> Volumes:
        return self._volumes

    @property
    def networks(self) -> Networks:
        return self._networks

    @property
    def compute(self) -> Compute:
        return self._compute

    def check(self) -> None:
        with measured(cloud_call_duration, cloud_call_errors, self.name, "cloud", "check"):
            self.unmeasured.check()

    def close(self) -> None:
        self.unmeasured.close()


class _Part:
    """One part of a cloud, each of whose methods is measured from its first use on."""

    def __init__(self, cloud: str, part: str, inner: object) -> None:
        self._labels = (cloud, part)
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._inner, name)
        if name.startswith("_") or not callable(attribute):
            return attribute
        method = _measured_method(attribute, *self._labels, name)
        setattr(self, name, method)
        return method


def _measured_method(method: Callable[..., Any], *labels: str) -> Callable[..., Any]:
    def call(*arguments: Any, **options: Any) -> Any:
        with measured(cloud_call_duration, cloud_call_errors, *labels):
            return method(*arguments, **options)

    return call
