"""The uid of a generation: told by its inputs alone, and never that of another."""

from __future__ import annotations

import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from state.ids import instance_uid
from tests.builders import STATE_ID

OTHER_STATE = "0e6a4b7c-1111-4222-8333-444455556666"

state_ids = st.sampled_from([STATE_ID, OTHER_STATE])
kinds = st.sampled_from(["vm", "job"])
names = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,8}[a-z0-9])?", fullmatch=True)
whose = st.tuples(state_ids, kinds, names, st.integers(1, 2000))


def test_a_uid_outlives_versions_of_the_program() -> None:
    """It names directories and identifies running processes: another rule would make strangers of them."""
    assert instance_uid(STATE_ID, "vm", "web", 3) == "99754200-fc0f-57d3-a3fb-87d17a399354"


@given(whose)
def test_a_uid_is_a_lower_case_uuid(one: tuple[str, str, str, int]) -> None:
    uid = instance_uid(*one)
    assert str(uuid.UUID(uid)) == uid


@given(whose, whose)
def test_two_uids_agree_exactly_when_all_of_their_inputs_do(
    one: tuple[str, str, str, int], other: tuple[str, str, str, int]
) -> None:
    """Sabotage: join name and generation without a separator (`web1`, 1 and `web`, 11)."""
    assert (instance_uid(*one) == instance_uid(*other)) is (one == other)


def test_a_name_that_ends_in_a_digit_is_told_from_a_higher_generation() -> None:
    assert instance_uid(STATE_ID, "vm", "web1", 1) != instance_uid(STATE_ID, "vm", "web", 11)


def test_a_state_id_that_is_no_uuid_is_refused() -> None:
    with pytest.raises(ValueError, match="badly formed"):
        instance_uid("state", "vm", "web", 1)
