"""Shares on a machine of an operator's, a virtual machine of libvirt."""

from __future__ import annotations

import pytest

from stories_on_clouds.named_server import NamedServer


@pytest.mark.e2e
class TestNamedServer(NamedServer): ...
