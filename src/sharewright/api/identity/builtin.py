"""The mode ``builtin``: named users behind tokens, as Keystone gives them, for clients that know only Keystone.

Users, projects and roles come from the password file and from rows made through the API (identity_users, …). Tokens
are random; the database holds their digests, so every API process knows them and a copy of the database opens nothing.
"""

from __future__ import annotations

import hashlib
import secrets
import uuid
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, delete, select, update
from sqlalchemy.exc import IntegrityError

from sharewright.api.identity.contract import ROLES, Caller, Credentials, Unauthorized, with_implied
from sharewright.api.identity.users import PasswordVerifier, UserFile, hash_password
from sharewright.errors import Conflict, NotFound
from sharewright.identifiers import utcnow
from sharewright.services.deployment import Deployment, fetch, fetch_one
from sharewright.store.tables import identity_projects, identity_roles, identity_tokens, identity_users


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """A user from the file or the database."""

    id: str
    name: str
    password_hash: str
    enabled: bool
    roles: dict[str, tuple[str, ...]]  # project id → roles
    default_project_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """An issued token; ``secret`` is only known when it is issued."""

    user_id: str
    user_name: str
    project_id: str | None
    project_name: str | None
    roles: tuple[str, ...]
    issued_at: datetime
    expires_at: datetime
    secret: str = ""

    def __repr__(self) -> str:
        return f"Token(user_id={self.user_id!r}, project_id={self.project_id!r})"


class BuiltinIdentity:
    """Passwords to tokens, tokens to callers, and the few administrative operations."""

    challenge = 'Keystone uri="{base}/identity"'

    def __init__(self, deployment: Deployment, file: UserFile) -> None:
        self.deployment = deployment
        self._store = deployment.store
        self._file = file
        self._verifier = PasswordVerifier(file.users().rounds)

    # ---- the API's side ----------------------------------------------------------------------------------------------

    def authenticate(self, credentials: Credentials) -> Caller:
        token = self.find_token(credentials.token)
        if token.project_id is None:
            raise Unauthorized()
        return Caller(user_id=token.user_id, project_id=token.project_id, roles=with_implied(token.roles))

    # ---- tokens ------------------------------------------------------------------------------------------------------

    def issue(self, *, user: str, by_id: bool, password: str, project: str = "", project_by_id: bool = True) -> Token:
        """A token for a user (name or id) and project (id or name; "": the default one, or unscoped). Raises
        Unauthorized, whatever is wrong."""
        with self._store.read() as tx:
            account = self._account(tx, user, by_id=by_id)
            found = self._project(tx, project, by_id=project_by_id) if project else None
        usable = account if account is not None and account.enabled else None
        if not self._verifier.verify(password, usable.password_hash if usable else None) or usable is None:
            raise Unauthorized()
        if project and (found is None or found["id"] not in usable.roles):
            raise Unauthorized()
        if found is None and usable.default_project_id in usable.roles:
            with self._store.read() as tx:
                found = self._project(tx, usable.default_project_id or "", by_id=True)
        return self._write_token(usable, found)

    def rescope(self, secret: str, *, project: str, project_by_id: bool = True) -> Token:
        """A token for another project in exchange for a valid one. Raises Unauthorized."""
        old = self.find_token(secret)
        with self._store.read() as tx:
            account = self._account(tx, old.user_id, by_id=True)
            found = self._project(tx, project, by_id=project_by_id) if project else None
        if account is None or not account.enabled or (project and (found is None or found["id"] not in account.roles)):
            raise Unauthorized()
        return self._write_token(account, found, expires_at=old.expires_at)

    def find_token(self, secret: str) -> Token:
        """The token if it is valid now. Raises Unauthorized."""
        if not secret or len(secret) > 255:
            raise Unauthorized()
        with self._store.read() as tx:
            row = fetch_one(tx, select(identity_tokens).where(identity_tokens.c.digest == _digest(secret)))
        if row is None or row["expires_at"] <= utcnow():
            raise Unauthorized()
        del row["digest"]
        return Token(**{**row, "roles": tuple(row["roles"])})

    def revoke(self, secret: str) -> None:
        with self._store.begin() as tx:
            tx.execute(delete(identity_tokens).where(identity_tokens.c.digest == _digest(secret)))

    def _write_token(
        self, account: Account, project: dict[str, Any] | None, expires_at: datetime | None = None
    ) -> Token:
        now = utcnow()
        token = Token(
            user_id=account.id,
            user_name=account.name,
            project_id=project["id"] if project else None,
            project_name=project["name"] if project else None,
            roles=account.roles[project["id"]] if project else (),
            issued_at=now,
            expires_at=expires_at or now + timedelta(seconds=self.deployment.settings.identity.token_seconds),
            secret=secrets.token_urlsafe(32),
        )
        with self._store.begin() as tx:
            tx.execute(delete(identity_tokens).where(identity_tokens.c.expires_at <= now))
            tx.execute(
                identity_tokens.insert().values(
                    digest=_digest(token.secret),
                    user_id=token.user_id,
                    user_name=token.user_name,
                    project_id=token.project_id,
                    project_name=token.project_name,
                    roles=list(token.roles),
                    issued_at=token.issued_at,
                    expires_at=token.expires_at,
                )
            )
        return token

    # ---- accounts ----------------------------------------------------------------------------------------------------

    def _account(self, tx: Connection, user: str, *, by_id: bool) -> Account | None:
        """A user of the file (whose name is its id) or of the database, with all roles of both."""
        listed = self._file.users().get(user)
        column = identity_users.c.id if by_id else identity_users.c.name
        row = None if listed else fetch_one(tx, select(identity_users).where(column == user))
        if listed is not None:
            identifier = listed.name
        elif row is not None:
            identifier = row["id"]
        else:
            return None
        roles: dict[str, tuple[str, ...]] = dict(listed.roles) if listed else {}
        for given in fetch(tx, select(identity_roles).where(identity_roles.c.user_id == identifier)):
            roles[given["project_id"]] = (*roles.get(given["project_id"], ()), given["role"])
        if listed:
            return Account(
                id=identifier,
                name=listed.name,
                password_hash=listed.password_hash,
                enabled=listed.enabled,
                roles=roles,
                default_project_id=next(iter(roles)) if len(roles) == 1 else None,
            )
        found = row or {}
        return Account(
            id=identifier,
            name=found["name"],
            password_hash=found["password_hash"],
            enabled=found["enabled"],
            roles=roles,
            default_project_id=found["default_project_id"],
        )

    def _project(self, tx: Connection, project: str, *, by_id: bool) -> dict[str, Any] | None:
        if project in self._file.users().projects:
            return {"id": project, "name": project, "description": "", "enabled": True}
        column = identity_projects.c.id if by_id else identity_projects.c.name
        row = fetch_one(tx, select(identity_projects).where(column == project))
        return row if row is not None and row["enabled"] else None

    # ---- administration ----------------------------------------------------------------------------------------------

    def roles(self) -> list[dict[str, str]]:
        """The roles there are; a role's id is its name."""
        names = {role for user in self._file.users().users for given in user.roles.values() for role in given}
        return [{"id": name, "name": name} for name in dict.fromkeys((*ROLES, *sorted(names)))]

    def projects(self, name: str = "") -> list[dict[str, Any]]:
        statement = select(identity_projects).order_by(identity_projects.c.name)
        if name:
            statement = statement.where(identity_projects.c.name == name)
        with self._store.read() as tx:
            rows = fetch(tx, statement)
        listed = [
            {"id": project, "name": project, "description": "", "enabled": True}
            for project in self._file.users().projects
            if not name or project == name
        ]
        return [*listed, *rows]

    def project(self, identifier: str) -> dict[str, Any]:
        with self._store.read() as tx:
            found = self._project(tx, identifier, by_id=True)
        if found is None:
            raise NotFound(f"Could not find project: {identifier[:64]}.")
        return found

    def create_project(self, *, name: str, description: str = "", enabled: bool = True) -> dict[str, Any]:
        if name in self._file.users().projects:
            raise Conflict(f"Project {name} already exists.")
        row = {
            "id": uuid.uuid4().hex,
            "name": name,
            "description": description,
            "enabled": enabled,
            "created_at": utcnow(),
        }
        self._insert(identity_projects, row, f"Project {name} already exists.")
        return row

    def delete_project(self, identifier: str) -> None:
        with self._store.begin() as tx:
            found = tx.execute(delete(identity_projects).where(identity_projects.c.id == identifier)).rowcount
            if not found:
                raise NotFound(f"Could not find project: {identifier[:64]}.")
            tx.execute(delete(identity_roles).where(identity_roles.c.project_id == identifier))
            tx.execute(delete(identity_tokens).where(identity_tokens.c.project_id == identifier))

    def users(self, name: str = "") -> list[dict[str, Any]]:
        statement = select(identity_users).order_by(identity_users.c.name)
        if name:
            statement = statement.where(identity_users.c.name == name)
        with self._store.read() as tx:
            rows = fetch(tx, statement)
        listed = [
            {"id": user.name, "name": user.name, "enabled": user.enabled, "default_project_id": None}
            for user in self._file.users().users
            if not name or user.name == name
        ]
        return [*listed, *rows]

    def user(self, identifier: str) -> dict[str, Any]:
        with self._store.read() as tx:
            account = self._account(tx, identifier, by_id=True)
        if account is None:
            raise NotFound(f"Could not find user: {identifier[:64]}.")
        return {
            "id": account.id,
            "name": account.name,
            "enabled": account.enabled,
            "default_project_id": account.default_project_id,
        }

    def create_user(
        self, *, name: str, password: str, default_project_id: str | None = None, enabled: bool = True
    ) -> dict[str, Any]:
        if self._file.users().get(name):
            raise Conflict(f"User {name} already exists.")
        row = {
            "id": uuid.uuid4().hex,
            "name": name,
            "password_hash": hash_password(password, rounds=10),
            "default_project_id": default_project_id,
            "enabled": enabled,
            "created_at": utcnow(),
        }
        self._insert(identity_users, row, f"User {name} already exists.")
        return row

    def set_password(self, identifier: str, password: str) -> None:
        """A new password for a user made through the API; its tokens end."""
        hashed = hash_password(password, rounds=10)
        with self._store.begin() as tx:
            changed = tx.execute(
                update(identity_users)
                .where(identity_users.c.id == identifier)
                .values(password_hash=hashed, updated_at=utcnow())
            ).rowcount
            if not changed:
                raise NotFound(f"Could not find user: {identifier[:64]}.")
            tx.execute(delete(identity_tokens).where(identity_tokens.c.user_id == identifier))

    def delete_user(self, identifier: str) -> None:
        with self._store.begin() as tx:
            if not tx.execute(delete(identity_users).where(identity_users.c.id == identifier)).rowcount:
                raise NotFound(f"Could not find user: {identifier[:64]}.")
            tx.execute(delete(identity_roles).where(identity_roles.c.user_id == identifier))
            tx.execute(delete(identity_tokens).where(identity_tokens.c.user_id == identifier))

    def give_role(self, *, user_id: str, project_id: str, role: str) -> None:
        """Give a role in a project; giving it again changes nothing. Tokens keep the roles they were issued with."""
        if role not in {known["id"] for known in self.roles()}:
            raise NotFound(f"Could not find role: {role[:64]}.")
        with self._store.begin() as tx:
            if self._account(tx, user_id, by_id=True) is None:
                raise NotFound(f"Could not find user: {user_id[:64]}.")
            if self._project(tx, project_id, by_id=True) is None:
                raise NotFound(f"Could not find project: {project_id[:64]}.")
            row = {"user_id": user_id, "project_id": project_id, "role": role}
            if not tx.execute(select(identity_roles).filter_by(**row)).first():
                tx.execute(identity_roles.insert().values(**row))

    def take_role(self, *, user_id: str, project_id: str, role: str) -> None:
        """Take a role that was given through the API; tokens of the user in the project end."""
        with self._store.begin() as tx:
            taken = tx.execute(
                delete(identity_roles).where(
                    identity_roles.c.user_id == user_id,
                    identity_roles.c.project_id == project_id,
                    identity_roles.c.role == role,
                )
            ).rowcount
            if not taken:
                raise NotFound("Could not find role assignment.")
            tx.execute(
                delete(identity_tokens).where(
                    identity_tokens.c.user_id == user_id, identity_tokens.c.project_id == project_id
                )
            )

    def assignments(self, *, user_id: str = "", project_id: str = "") -> list[dict[str, str]]:
        statement = select(identity_roles)
        if user_id:
            statement = statement.where(identity_roles.c.user_id == user_id)
        if project_id:
            statement = statement.where(identity_roles.c.project_id == project_id)
        with self._store.read() as tx:
            rows = fetch(tx, statement)
        listed = [
            {"user_id": user.name, "project_id": project, "role": role}
            for user in self._file.users().users
            for project, given in user.roles.items()
            for role in given
            if user_id in ("", user.name) and project_id in ("", project)
        ]
        return [*listed, *({key: str(value) for key, value in row.items()} for row in rows)]

    def _insert(self, table: Any, row: dict[str, Any], taken: str) -> None:
        try:
            with self._store.begin() as tx:
                tx.execute(table.insert().values(**row))
        except IntegrityError:
            raise Conflict(taken) from None


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()
