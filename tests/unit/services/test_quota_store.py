from sharewright.settings import Quotas
from sharewright.store import quotas


def test_q(store):
    with store.begin() as tx:
        quotas.release(tx, project_id="p", user_id="u", share_type_id="t", amounts={"shares": 1})
        assert quotas.read_usage(tx, "p")["shares"] == 0
        quotas.reserve(
            tx, Quotas(), project_id="p", user_id="u", share_type_id="t", amounts={"shares": 1, "gigabytes": 5}
        )
        quotas.reserve(
            tx, Quotas(), project_id="p", user_id="u", share_type_id="t", amounts={"shares": 1, "gigabytes": 7}
        )
        assert quotas.read_usage(tx, "p")["gigabytes"] == 12
        assert quotas.read_usage(tx, "p", share_type_id="t")["gigabytes"] == 12
        quotas.release(tx, project_id="p", user_id="u", share_type_id="t", amounts={"shares": 1, "gigabytes": 5})
        assert quotas.read_usage(tx, "p", user_id="u")["gigabytes"] == 7
        quotas.release(tx, project_id="p", user_id="u", share_type_id="t", amounts={"shares": 10, "gigabytes": 50})
        assert quotas.read_usage(tx, "p", user_id="u")["gigabytes"] == 0
