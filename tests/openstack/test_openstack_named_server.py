"""Shares on a machine of an operator's, a server of Nova's in another project."""

from __future__ import annotations

import pytest

from stories_on_clouds.named_server import NamedServer

pytestmark = pytest.mark.openstack


class TestNamedServer(NamedServer): ...
