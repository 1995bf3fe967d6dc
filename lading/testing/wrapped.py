"""Wrapped transports as factories, so that the wrappers can prove themselves in the transports' own suite."""

from pathlib import Path

from lading.ports import Settings, Transport
from transport.local import LocalTransport
from transport.retrying import Retrying
from transport.rsync import RsyncTransport
from transport.throttled import Schedule, ThrottleConfig, Throttled


def retrying_local(settings: Settings, *, state: Path) -> Transport:
    """A local transport that tries twice, at once."""
    return Retrying(LocalTransport.from_settings(settings, state=state), attempts=2, base=0.01)


def throttled_local(settings: Settings, *, state: Path) -> Transport:
    """A local transport at 200 MB/s."""
    return Throttled(LocalTransport.from_settings(settings, state=state), Schedule(ThrottleConfig(mb_per_s=200)))


def throttled_rsync(settings: Settings, *, state: Path) -> Transport:
    """An rsync at 200 MB/s."""
    return Throttled(RsyncTransport.from_settings(settings, state=state), Schedule(ThrottleConfig(mb_per_s=200)))
