"""The simulated cloud: the contracts of clouds/contract.py on a SQLite file."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from sharewright.clouds.simulated.compute import SimulatedCompute
from sharewright.clouds.simulated.networks import SimulatedNetworks
from sharewright.clouds.simulated.state import SimulatedState
from sharewright.clouds.simulated.volumes import SimulatedVolumes
from sharewright.errors import CloudError, SharewrightError
from sharewright.settings import Simulated


class SimulatedCloud:
    """``path`` is the file. Any number of objects in any number of processes may use one file at the same time.

    Methods for tests are named as in the contract ("ensure_volume", "attach_volume", …); for the guests see
    clouds/simulated/guest.py, whose names start with ``guest.``; ``boot`` is the time a VM takes to boot, ``copy``
    the time from a snapshot's moment until it is ready.
    """

    def __init__(self, settings: Simulated, *, deployment: str, path: Path) -> None:
        self._deployment = deployment
        self.state = SimulatedState(path, settings.delay_seconds)
        self._volumes = SimulatedVolumes(self.state, deployment, settings.capacity)
        self._networks = SimulatedNetworks(self.state, deployment, any_network=settings.any_network)
        self._compute = SimulatedCompute(self.state, deployment)

    @property
    def name(self) -> str:
        return "simulated"

    @property
    def deployment(self) -> str:
        return self._deployment

    @property
    def volumes(self) -> SimulatedVolumes:
        return self._volumes

    @property
    def networks(self) -> SimulatedNetworks:
        return self._networks

    @property
    def compute(self) -> SimulatedCompute:
        return self._compute

    def check(self) -> None:
        self.state.raise_failure("check")

    def close(self) -> None:
        self.state.close()

    # ---- for tests ----

    def fail(
        self,
        method: str,
        error: type[SharewrightError] = CloudError,
        times: int = 1,
        *,
        message: str = "",
        moment: Literal["before", "after"] = "before",
    ) -> None:
        """Let the next ``times`` calls of ``method``, from any process, raise ``error`` (-1: until ``forgive``).
        ``moment="after"``: the call takes effect, but its answer is lost."""
        self.state.fail(method, error, times, message=message, moment=moment)

    def forgive(self, method: str | None = None) -> None:
        """Take back what ``fail`` asked for, of one method or of all."""
        self.state.forgive(method)

    def set_delay(self, method: str, seconds: float) -> None:
        """Let ``method`` take so long; ``"*"``: every method; ``"boot"``: a VM until its guest answers; ``"copy"``: a
        snapshot until it is ready."""
        self.state.set_delay(method, seconds)

    def calls(self) -> dict[str, int]:
        """How often each method was called, by any process."""
        return self.state.calls()

    def reset_calls(self) -> None:
        self.state.reset_calls()

    def violations(self) -> list[str]:
        """Things that a real cloud would let happen and that lose data; a test expects none."""
        return self.state.violations()
