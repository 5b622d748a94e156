"""Things that break under us on libvirt."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from deployment import SHAREWRIGHT
from stories_on_clouds.failures import Failures


@pytest.mark.e2e
class TestFailures(Failures):
    def test_broken_configuration_is_refused_by_name(self, tmp_path: Path) -> None:
        broken = tmp_path / "broken.toml"
        broken.write_text("[api]\nport = 99999\nprot = 1\n")
        done = subprocess.run(
            [SHAREWRIGHT, "--config", broken, "serve"], capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 2
        assert "api.port" in done.stderr
        assert "99999" in done.stderr
        assert "Traceback" not in done.stderr
