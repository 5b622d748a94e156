"""QoS types and their specs."""

from __future__ import annotations

from typing import Any

from site_for_tests import Site

PATH = "/v2/qos-types"


def ask(site: Site, status: int, method: str, path: str, body: Any = None, user: str = "root") -> Any:
    return site.expect(status, method, path, body, user=user, version="2.94")


def make(site: Site, name: str = "gold", status: int = 200, **values: Any) -> dict[str, Any]:
    return dict(ask(site, status, "POST", PATH, {"qos_type": {"name": name, **values}}).get("qos_type", {}))


def test_a_qos_type(any_site: Site) -> None:
    site = any_site
    made = make(site, description="fast", specs={"peak_iops": "500"})
    assert (made["name"], made["description"], made["specs"]) == ("gold", "fast", {"peak_iops": "500"})
    assert set(made) == {"id", "name", "description", "specs", "created_at", "updated_at"}
    one = f"{PATH}/{made['id']}"
    assert ask(site, 200, "GET", one, user="rita")["qos_type"] == made
    assert ask(site, 200, "GET", f"{PATH}?name~=ol", user="bob")["qos_types"] == [made]
    assert ask(site, 200, "GET", f"{PATH}?name=silver")["qos_types"] == []
    changed = ask(site, 200, "PUT", one, {"qos_type": {"description": "faster", "name": "ignored"}})["qos_type"]
    assert (changed["name"], changed["description"]) == ("gold", "faster")
    make(site, status=409)
    make(site, name="", status=400)
    for method, body in (("PUT", {"qos_type": {"description": "x"}}), ("DELETE", None)):
        ask(site, 403, method, one, body, user="alice")
    ask(site, 403, "POST", PATH, {"qos_type": {"name": "mine"}}, user="alice")
    ask(site, 204, "DELETE", one)
    ask(site, 404, "GET", one)
    site.expect(404, "GET", PATH, version="2.93", user="root")


def test_its_specs(site: Site) -> None:
    specs = f"{PATH}/{make(site, specs={'a': '1'})['id']}/specs"
    assert ask(site, 200, "POST", specs, {"specs": {"b": "2"}}) == {"specs": {"b": "2"}}
    assert ask(site, 200, "GET", specs) == {"specs": {"a": "1", "b": "2"}}
    assert ask(site, 200, "PUT", f"{specs}/a", {"a": "3"}) == {"a": "3"}
    assert ask(site, 200, "GET", f"{specs}/a") == {"a": "3"}
    ask(site, 400, "PUT", f"{specs}/a", {"b": "3"})
    ask(site, 400, "PUT", f"{specs}/a", {"a": "3", "b": "3"})
    for bad in ({"": "x"}, {"k" * 256: "x"}, {"k": "v" * 1024}, {"k": 1}, [], {"k/": "x"}):
        ask(site, 400, "POST", specs, {"specs": bad})
    ask(site, 204, "DELETE", f"{specs}/a")
    for method in ("GET", "DELETE"):
        ask(site, 404, method, f"{specs}/a")
    for method, body in (("GET", None), ("POST", {"specs": {"c": "1"}})):
        ask(site, 403, method, specs, body, user="alice")
