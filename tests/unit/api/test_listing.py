"""The list of interactions: newest first, page by page, by filter, and of one's own project only."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import timedelta, timezone
from typing import Any

import pytest

from orchestrator.store.records import InteractionRow
from tests.fakes.api import Api
from tests.fakes.rows import START, interaction_row, key_row

pytestmark = pytest.mark.anyio

PATH = "/v1beta/interactions"


async def made(api: Api, count: int = 1, project: str = "", **fields: Any) -> list[InteractionRow]:
    """Interactions a second apart, newest first, as a list shows them."""
    project = project or (await api.store.default_project()).id
    begin = fields.pop("created", START)
    rows = [
        interaction_row(project, created=begin + timedelta(seconds=number), **{"status": "completed", **fields})
        for number in range(count)
    ]
    for row in rows:
        await api.store.create_interaction(row, [])
    return rows[::-1]


async def page(api: Api, *pairs: tuple[str, Any], **params: Any) -> dict[str, Any]:
    answer = await api.client.get(PATH, params=[*pairs, *params.items()])
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("application/json")
    found: dict[str, Any] = answer.json()
    return found


async def listed(api: Api, *pairs: tuple[str, Any], **params: Any) -> list[str]:
    return [each["id"] for each in (await page(api, *pairs, **params))["interactions"]]


def ids(rows: Sequence[InteractionRow]) -> list[str]:
    return [row.id for row in rows]


# what is in it


async def test_nothing_is_an_empty_list(api: Api) -> None:
    assert await page(api) == {"interactions": []}


async def test_an_entry_has_what_tells_it_apart_and_no_contents(api: Api) -> None:
    parent = await api.create("secret words")
    child = await api.create(
        "more secret words",
        previous_interaction_id=parent["id"],
        labels={"team": "a"},
        service_tier="flex",
        system_instruction="secret, too",
        environment="remote",
    )
    answer = await api.client.get(PATH)
    newest, oldest = answer.json()["interactions"]
    assert (newest["id"], oldest["id"]) == (child["id"], parent["id"])
    assert newest == {
        "id": child["id"],
        "object": "interaction",
        "status": "completed",
        "agent": "general",
        "created": child["created"],
        "updated": newest["updated"],
        "previous_interaction_id": parent["id"],
        "environment_id": child["environment_id"],
        "service_tier": "flex",
        "labels": {"team": "a"},
    }
    assert "secret" not in answer.text


async def test_a_model_is_told_as_a_model(api: Api) -> None:
    await made(api, agent="scripted", is_model=True)
    (entry,) = (await page(api))["interactions"]
    assert (entry["model"], "agent" in entry) == ("scripted", False)


@pytest.mark.parametrize("version", ["v1", "v1beta", "v1alpha"])
async def test_it_is_there_under_every_version(api: Api, version: str) -> None:
    rows = await made(api, 2)
    answer = await api.client.get(f"/{version}/interactions")
    assert [each["id"] for each in answer.json()["interactions"]] == ids(rows)


# pages


@pytest.mark.parametrize("size", [1, 2, 3, 7, 8])
async def test_pages_make_the_whole_list(api: Api, size: int) -> None:
    rows = await made(api, 7)
    found: list[str] = []
    token: dict[str, str] = {}
    for _ in range(8):
        answer = await page(api, page_size=size, **token)
        assert 0 < len(answer["interactions"]) <= size
        found += [each["id"] for each in answer["interactions"]]
        if "next_page_token" not in answer:
            break
        token = {"page_token": answer["next_page_token"]}
    assert found == ids(rows)


async def test_rows_of_one_moment_are_all_listed(api: Api) -> None:
    project = (await api.store.default_project()).id
    rows = [interaction_row(project, status="completed") for _ in range(5)]
    for row in rows:
        await api.store.create_interaction(row, [])
    first = await page(api, page_size=2)
    second = await page(api, page_size=2, page_token=first["next_page_token"])
    third = await page(api, page_size=2, page_token=second["next_page_token"])
    found = [each["id"] for part in (first, second, third) for each in part["interactions"]]
    assert sorted(found) == sorted(ids(rows))


async def test_a_page_has_fifty_unless_it_is_said_and_a_thousand_at_most(api: Api) -> None:
    await made(api, 60)
    assert len(await listed(api)) == 50
    assert len(await listed(api, page_size=60)) == 60
    assert len(await listed(api, page_size=100_000)) == 60


async def test_what_comes_while_one_lists_does_not_shift_the_pages(api: Api) -> None:
    rows = await made(api, 4)
    first = await page(api, page_size=2)
    await made(api, created=START + timedelta(days=1))
    assert await listed(api, page_size=2, page_token=first["next_page_token"]) == ids(rows[2:])


async def test_who_deletes_while_listing_finds_the_next_page(api: Api) -> None:
    rows = await made(api, 4)
    first = await page(api, page_size=2)
    for entry in first["interactions"]:
        assert (await api.client.delete(f"{PATH}/{entry['id']}")).status_code == 200
    assert await listed(api, page_token=first["next_page_token"]) == ids(rows[2:])


async def test_filters_go_with_pages(api: Api) -> None:
    rows = await made(api, 6)
    failed = await made(api, 5, status="failed", created=START + timedelta(seconds=0.5))
    first = await page(api, page_size=3, status="failed")
    second = await page(api, page_size=3, status="failed", page_token=first["next_page_token"])
    assert [each["id"] for part in (first, second) for each in part["interactions"]] == ids(failed)
    assert "next_page_token" not in second
    assert len(rows) == 6


# filters


async def test_each_filter_takes_what_fits_and_nothing_else(api: Api) -> None:
    project = await api.store.default_project()
    environment = (await api.create(environment="remote"))["environment_id"]
    (created,) = await api.store.interactions(project.id)
    (parent,) = await made(api)
    (child,) = await made(api, previous_id=parent.id, status="incomplete")
    (model,) = await made(api, agent="scripted", is_model=True, status="in_progress")
    (labelled,) = await made(api, labels={"team": "a", "stage": ""}, status="cancelled")
    for filters, fitting in (
        ({"status": "incomplete"}, [child]),
        ({"status": "in_progress"}, [model]),
        ({"status": "requires_action"}, []),
        ({"agent": "scripted"}, [model]),
        ({"agent": "script"}, []),
        ({"agent": "general", "status": "cancelled"}, [labelled]),
        ({"environment_id": environment}, [created]),
        ({"environment_id": "a" * 32}, []),
        ({"previous_interaction_id": parent.id}, [child]),
        ({"previous_interaction_id": child.id}, []),
        ({"label": "team=a"}, [labelled]),
        ({"label": "team=b"}, []),
        ({"label": "stage="}, [labelled]),
        ({"label": "other="}, []),
    ):
        assert await listed(api, **filters) == ids(fitting), filters


async def test_labels_must_all_fit(api: Api) -> None:
    (both,) = await made(api, labels={"a": "1", "b": "2"})
    (one,) = await made(api, labels={"a": "1"}, created=START - timedelta(seconds=1))
    assert await listed(api, ("label", "a=1")) == ids([both, one])
    assert await listed(api, ("label", "a=1"), ("label", "b=2")) == ids([both])
    assert await listed(api, ("label", "a=1"), ("label", "a=1")) == ids([both, one])


@pytest.mark.parametrize("second", ["a=1", "a=2"])
async def test_a_label_with_two_values_fits_nothing_and_is_refused(api: Api, second: str) -> None:
    await made(api, labels={"a": "1"})
    first = "a=2" if second == "a=1" else "a=1"
    status, code, message = await api.error("GET", f"{PATH}?label={first}&label={second}")
    assert (status, code) == (400, "invalid_request")
    assert "label" in message


async def test_times_begin_with_the_first_and_end_before_the_last(api: Api) -> None:
    rows = await made(api, 5)
    begin, end = (rows[at].created.isoformat() for at in (3, 1))
    assert await listed(api, created_from=begin, created_before=end) == ids(rows[2:4])
    assert await listed(api, created_from=begin) == ids(rows[:4])
    assert await listed(api, created_before=end) == ids(rows[2:])
    elsewhere = rows[1].created.astimezone(timezone(timedelta(hours=5))).isoformat()
    assert await listed(api, created_before=elsewhere) == ids(rows[2:]), "a moment is one in every zone"
    assert await listed(api, created_from=end, created_before=begin) == []


@pytest.mark.parametrize("moment", ["0001-01-01T00:00:00+14:00", "0001-01-01T00:00:00Z"])
async def test_the_first_moment_of_all_is_one(api: Api, moment: str) -> None:
    rows = await made(api)
    assert await listed(api, created_from=moment) == ids(rows)
    assert await listed(api, created_before=moment) == []


@pytest.mark.parametrize("moment", ["9999-12-31T23:59:59Z", "9999-12-31T23:59:59-14:00"])
async def test_the_last_moment_of_all_is_one(api: Api, moment: str) -> None:
    rows = await made(api)
    assert await listed(api, created_before=moment) == ids(rows)
    assert await listed(api, created_from=moment) == []


@pytest.mark.parametrize(
    ("query", "named"),
    [
        ("status=done", "status"),
        ("status=queued", "status"),
        ("page_size=0", "page_size"),
        ("page_size=-1", "page_size"),
        ("page_size=many", "page_size"),
        ("page_token=v1_unknown", "page_token"),
        ("label=a", "label"),
        ("label==b", "label"),
        ("label=A=b", "label"),
        ("label=a.b=c", "label"),
        ('label=a"=c', "label"),
        ("created_from=yesterday", "created_from"),
        ("created_before=2026-11-20T09:00:00", "created_before"),
        ("status=failed&status=completed", "status"),
        ("statu=failed", "statu"),
        ("project_id=p", "project_id"),
    ],
)
async def test_what_makes_no_sense_is_refused_by_name(api: Api, query: str, named: str) -> None:
    await made(api)
    status, code, message = await api.error("GET", f"{PATH}?{query}")
    assert (status, code) == (400, "invalid_request")
    assert named in message


@pytest.mark.parametrize("value", ["x' OR '1'='1", "%", "$.a", '"', "\x00"])
async def test_values_are_values_and_never_more(api: Api, value: str) -> None:
    await made(api, labels={"a": "b"})
    for name in ("agent", "environment_id", "previous_interaction_id"):
        assert await listed(api, **{name: value}) == []
    assert await listed(api, label=f"a={value}") == []


# projects


async def test_each_project_sees_its_own(api: Api) -> None:
    rows, tokens = {}, {}
    for name in ("one", "other"):
        project = await api.store.ensure_project(name)
        await api.store.create_key(key_row(project.id), hashlib.sha256(name.encode()).digest())
        rows[name] = await made(api, 3, project.id, labels={"a": "b"})
    for name, own in rows.items():
        headers = {"x-goog-api-key": name}
        for query in ("", "?label=a=b", "?status=completed"):
            answer = await api.client.get(f"{PATH}{query}", headers=headers)
            assert [each["id"] for each in answer.json()["interactions"]] == ids(own)
        first = await api.client.get(f"{PATH}?page_size=1", headers=headers)
        tokens[name] = first.json()["next_page_token"]
    status, _, message = await api.error(
        "GET", f"{PATH}?page_token={tokens['one']}", headers={"x-goog-api-key": "other"}
    )
    assert status == 400
    assert "page_token" in message
    assert (await api.error("GET", PATH))[0] == 401
