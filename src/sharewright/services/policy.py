"""Who may do what. Rules carry Manila's names and its defaults with project personas (reader, member, admin).

A *reader* rule is for every role of the resource's project, a *member* rule for those that may change things there, an
*admin* rule for administrators, who may do everything in every project.
"""

from __future__ import annotations

from typing import Final

from sharewright.context import RequestContext
from sharewright.errors import Forbidden


def _names(text: str) -> list[str]:
    return text.split()


_READER: Final = _names(
    "share:get share:get_all share:get_share_metadata share:access_get share:access_get_all"
    " share_export_location:index share_export_location:show share_export_location:get_metadata"
    " share_access_rule:get share_access_rule:index"
    " share_network:show share_network:index share_network:detail"
    " share_network_subnet:show share_network_subnet:index share_network_subnet:get_metadata"
    " security_service:index security_service:show security_service:detail"
    " share_type:show share_type:index share_type:default"
    " share_group_type:show share_group_type:index share_group_type:default"
    " share_group:get share_group:get_all share_group_snapshot:get share_group_snapshot:get_all"
    " share_snapshot:get_snapshot share_snapshot:get_all_snapshots share_snapshot:get_metadata"
    " share_snapshot:access_list share_snapshot_export_location:index share_snapshot_export_location:show"
    " share_replica:show share_replica:get_all share_replica_export_location:index share_replica_export_location:show"
    " share_backup:get share_backup:get_all"
    " resource_lock:get resource_lock:get_all share_transfer:get share_transfer:get_all qos_type:show qos_type:index"
    " availability_zone:index quota_set:show quota_class_set:show message:get message:get_all"
)
_MEMBER: Final = _names(
    "share:create share:update share:delete share:update_share_metadata share:delete_share_metadata"
    " share:allow_access share:deny_access share:extend share:shrink share:soft_delete share:restore"
    " share_replica:create share_replica:delete share_replica:promote"
    " share_backup:create share_backup:update share_backup:delete share_backup:restore"
    " share_export_location:update_metadata share_export_location:delete_metadata"
    " share_transfer:create share_transfer:accept share_transfer:delete"
    " share:create_snapshot share:delete_snapshot share:snapshot_update share:revert_to_snapshot"
    " share_snapshot:update_metadata share_snapshot:delete_metadata"
    " share_snapshot:allow_access share_snapshot:deny_access"
    " share_access_rule:update share_access_metadata:update share_access_metadata:delete"
    " share_network:create share_network:update share_network:delete share_network:subnet_create_check"
    " share_network:add_security_service share_network:remove_security_service share_network:update_security_service"
    " share_network:add_security_service_check share_network:update_security_service_check"
    " security_service:create security_service:update security_service:delete"
    " share_network_subnet:create share_network_subnet:delete"
    " share_network_subnet:update_metadata share_network_subnet:delete_metadata"
    " share_group:create share_group:update share_group:delete"
    " resource_lock:create resource_lock:update resource_lock:delete resource_lock:bypass_locked_show_action"
    " share_group_snapshot:create share_group_snapshot:update share_group_snapshot:delete"
    " message:delete"
)
_ADMIN: Final = _names(
    "share:reset_status share:reset_task_state share:force_delete"
    " share:list_by_host share:list_by_share_server_id share:list_all_projects"
    " share:force_extend share:extend_beyond_max_share_size_spec"
    " share:create_public_share share:create_on_host share:set_public_share share:update_admin_only_metadata"
    " share:manage share:unmanage"
    " share_instance:index share_instance:show share_instance:reset_status share_instance:force_delete"
    " share_instance_export_location:index share_instance_export_location:show"
    " share_snapshot:manage_snapshot share_snapshot:unmanage_snapshot"
    " share_snapshot:force_delete share_snapshot:reset_status share_snapshot:list_all_projects"
    " share_snapshot_instance:index share_snapshot_instance:detail share_snapshot_instance:show"
    " share_snapshot_instance:reset_status"
    " share_snapshot_instance_export_location:index share_snapshot_instance_export_location:show"
    " security_service:get_all_security_services share_network:get_all_share_networks share_network:reset_status"
    " share_type:create share_type:update share_type:delete share_type:list_project_access"
    " share_type:add_project_access share_type:remove_project_access"
    " share_types_extra_spec:create share_types_extra_spec:show share_types_extra_spec:index"
    " share_types_extra_spec:update share_types_extra_spec:delete"
    " share_group:force_delete share_group:reset_status share_group:list_all_projects"
    " share_group_snapshot:force_delete share_group_snapshot:reset_status share_group_snapshot:list_all_projects"
    " share_group_type:create share_group_type:delete share_group_type:list_project_access"
    " share_group_type:add_project_access share_group_type:remove_project_access"
    " share_group_types_spec:create share_group_types_spec:show share_group_types_spec:index"
    " share_group_types_spec:update share_group_types_spec:delete"
    " share_server:index share_server:show share_server:details share_server:delete share_server:reset_status"
    " share_server:manage_share_server share_server:unmanage_share_server"
    " share:migration_start share:migration_complete share:migration_cancel share:migration_get_progress"
    " share_server:share_server_migration_check share_server:share_server_migration_start"
    " share_server:share_server_migration_complete share_server:share_server_reset_task_state"
    " share_server:share_server_migration_cancel share_server:share_server_migration_get_progress"
    " share_replica:resync share_replica:force_delete share_replica:reset_status share_replica:reset_replica_state"
    " share_backup:reset_status share_backup:get_all_project"
    " share_transfer:get_all_tenant qos_type:create qos_type:update qos_type:delete"
    " qos_type_specs:create qos_type_specs:show qos_type_specs:index qos_type_specs:update qos_type_specs:delete"
    " resource_lock:get_all_projects service:index service:update service:ensure_shares"
    " scheduler_stats:pools:index scheduler_stats:pools:detail"
    " quota_set:update quota_set:delete quota_class_set:update"
)

# Besides who is named: services such as Nova, which lock what they use.
_SERVICE: Final = _names(
    "resource_lock:get resource_lock:get_all resource_lock:get_all_projects resource_lock:create resource_lock:update"
    " resource_lock:delete resource_lock:bypass_locked_show_action"
)

RULES: Final[dict[str, str]] = {
    **dict.fromkeys(_READER, "reader"),
    **dict.fromkeys(_MEMBER, "member"),
    **dict.fromkeys(_ADMIN, "admin"),
}


def allows(context: RequestContext, rule: str, project_id: str | None = None) -> bool:
    """Whether the caller may do it, to a resource of ``project_id`` (None: of the caller's own)."""
    check = context.checks.get(rule)
    if check is not None:
        return check(context, {"project_id": project_id or context.project_id, "user_id": context.user_id})
    if context.is_admin or (context.is_service and rule in _SERVICE):
        return True
    if project_id is not None and project_id != context.project_id:
        return False
    needed = RULES[rule]
    if needed == "admin":  # who is one has been asked above
        return False
    return needed in context.roles or (needed == "reader" and "member" in context.roles)


def authorize(context: RequestContext, rule: str, project_id: str | None = None) -> None:
    """Raise Forbidden when the caller may not do it."""
    if not allows(context, rule, project_id):
        raise Forbidden(f"Policy doesn't allow {rule} to be performed.")


def authorize_owner(context: RequestContext, rule: str, *, project_id: str, user_id: str) -> None:
    """As ``authorize``, for what only the user who made it may touch: another user of the project may not."""
    check = context.checks.get(rule)
    if check is not None:
        allowed = check(context, {"project_id": project_id, "user_id": user_id})
    else:
        allowed = allows(context, rule, project_id)
    if not allowed:
        raise Forbidden(f"Policy doesn't allow {rule} to be performed.")
    if check is None and user_id != context.user_id and not (context.is_admin or context.is_service):
        raise Forbidden(f"Policy doesn't allow {rule} to be performed.")


def can_see(context: RequestContext, project_id: str) -> bool:
    """Whether a resource of that project exists for the caller at all; to others it answers as if it did not."""
    return context.is_admin or project_id == context.project_id
