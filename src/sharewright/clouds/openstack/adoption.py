"""Taking over volumes and snapshots that exist in our project, and letting go of them. What is taken over gets our name
first and our tags last, so a call that died in between is repeated, and finds it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

from openstack.connection import Connection as Sdk

from sharewright.clouds.contract import TAG_DEPLOYMENT
from sharewright.clouds.openstack.cinder import AVAILABLE, IN_USE, Thing, metadata_of, name_of
from sharewright.clouds.openstack.condemned import Condemned
from sharewright.clouds.openstack.connection import block_storage
from sharewright.clouds.openstack.polling import Deadline
from sharewright.clouds.openstack.tags import TAG_CONDEMNED, without_ours
from sharewright.errors import CloudError, CloudObjectMissing

Kind = Literal["volume", "snapshot"]
USABLE = {"volume": (AVAILABLE, IN_USE), "snapshot": (AVAILABLE,)}


class Adoption(Condemned):
    """The half of adopting and disowning that volumes and snapshots share."""

    def _adoptable(
        self,
        kind: Kind,
        reference: str,
        name: str,
        *,
        by_id: Thing | None,
        named: Callable[[Sdk, str], Sequence[Thing]],
        deadline: Deadline,
    ) -> Thing:
        """What ``reference`` means; ours already when it is adopted under ``name``. ``by_id`` is what has it for an id,
        ``named`` lists all of one name, whose ever they are."""
        there = self._connection.call(f"looking for {kind} {name}", lambda sdk: named(sdk, name), deadline=deadline)
        ours = [each for each in there if self._is_ours(each)]
        found = by_id
        if found is None and reference:
            called = self._connection.call(
                f"looking for {kind} {reference}", lambda sdk: named(sdk, reference), deadline=deadline
            )
            # It may have our name already, and not its own any more.
            called = called or ours or there
            if len(called) > 1:
                raise CloudError(
                    f"{len(called)} {kind}s are called {reference}: {', '.join(str(each.id) for each in called)}.",
                    hint="Name it by its id.",
                )
            found = called[0] if called else None
        if found is None:
            raise CloudObjectMissing(
                f"There is no {kind} {reference} in Sharewright's project.", hint="Name it by its id or by its name."
            )
        if self._is_ours(found) and found.name == name:
            return found
        self._refuse(kind, found)
        if ours:
            raise CloudError(f"There is another {kind} {name} of ours, {ours[0].id}.", hint="Delete or disown that.")
        return found

    def _refuse(self, kind: Kind, found: Thing) -> None:
        """CloudError for what is not nobody's, or not in order."""
        tags = metadata_of(found)
        if self._is_ours(found):
            raise CloudError(
                f"The {kind} {found.id} is ours already, as {found.name}.", hint="Stop managing that one first."
            )
        if TAG_DEPLOYMENT in tags or TAG_CONDEMNED in tags:
            owner = tags.get(TAG_DEPLOYMENT) or tags[TAG_CONDEMNED]
            raise CloudError(
                f"The {kind} {found.id} belongs to deployment {owner} of Sharewright.",
                hint="Have it unmanaged there first.",
            )
        if found.project_id and found.project_id != self._connection.project_id:
            raise CloudError(
                f"The {kind} {found.id} is in project {found.project_id}, not in Sharewright's.",
                hint="Have it transferred: openstack volume transfer request create.",
            )
        if found.status not in USABLE[kind]:
            raise CloudError(
                f"The {kind} {found.id} has status {found.status}.", hint=f"It must be {' or '.join(USABLE[kind])}."
            )

    def _take_over(self, kind: Kind, found: Thing, name: str, tags: dict[str, str], deadline: Deadline) -> None:
        def action(sdk: Sdk) -> None:
            cinder = block_storage(sdk)
            if found.name != name:
                cinder.put(f"/{kind}s/{found.id}", json={kind: {"name": name}}, raise_exc=True)
            cinder.post(f"/{kind}s/{found.id}/metadata", json={"metadata": tags}, raise_exc=True)

        self._connection.call(f"adopting {kind} {found.id} as {name}", action, deadline=deadline)

    def _let_go(self, kind: Kind, found: Thing, deadline: Deadline) -> None:
        self._replace_metadata(f"disowning {kind} {name_of(found)}", found, without_ours(metadata_of(found)), deadline)
