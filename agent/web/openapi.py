"""The description of the API that programs read (https://spec.openapis.org/oas/v3.0.3), written once, in the terms of
JSON Schema.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from agent.metrics.figures import FIGURES
from agent.web.views import LOGS

_Schema = dict[str, Any]


def _object(**properties: _Schema) -> _Schema:
    return {"type": "object", "properties": properties, "required": list(properties)}


def _list(of: _Schema) -> _Schema:
    return {"type": "array", "items": of}


def _or_null(schema: _Schema) -> _Schema:
    return {**schema, "nullable": True}


_TEXT: _Schema = {"type": "string"}
_WHOLE: _Schema = {"type": "integer", "minimum": 0}
_NUMBER: _Schema = {"type": "number"}
_MOMENT: _Schema = {"type": "string", "format": "date-time"}
_OPEN: _Schema = {"type": "object"}
_ID: _Schema = {"type": "integer", "minimum": 0, "maximum": 10**18 - 1}
_DURATION: _Schema = {"type": "string", "pattern": "^[0-9]{1,9}(ms|s|m|h|d)$"}

_PROBLEM = _object(name=_or_null(_TEXT), file=_or_null(_TEXT), line=_or_null(_WHOLE), message=_TEXT)
_CONDITION = _object(
    type={"type": "string", "enum": ["Ready", "Reconciling", "Stalled"]},
    status={"type": "boolean"},
    reason=_TEXT,
    message=_TEXT,
    since=_or_null(_MOMENT),
    commit=_or_null(_TEXT),
)
_ITEM = _object(
    kind={"type": "string", "enum": ["vm", "job"]},
    name=_TEXT,
    phase=_TEXT,
    reason=_TEXT,
    message=_TEXT,
    conditions=_list(_CONDITION),
)
_SAMPLE = _object(
    uid=_TEXT,
    at=_MOMENT,
    seconds=_NUMBER,
    **{figure.key: _or_null(_NUMBER) for figure in FIGURES},
)
_EVENT = _object(
    id=_WHOLE,
    at=_MOMENT,
    kind=_or_null(_TEXT),
    name=_or_null(_TEXT),
    uid=_or_null(_TEXT),
    reason=_TEXT,
    message=_TEXT,
)
_UNREADY = _object(name=_TEXT, reason=_TEXT, message=_TEXT)
_ERROR = _object(error=_TEXT, hint=_TEXT)
_RUN = _object(name=_TEXT, run=_TEXT, number=_WHOLE, phase=_TEXT)
_DONE = _object(changed={"type": "boolean"})


def _answer(what: str, schema: _Schema, kind: str = "application/json") -> _Schema:
    return {"description": what, "content": {kind: {"schema": schema}}}


def _asked(name: str, schema: _Schema, what: str) -> _Schema:
    return {"name": name, "in": "query", "description": what, "schema": schema}


_NAME = {
    "name": "name",
    "in": "path",
    "required": True,
    "schema": {"type": "string", "minLength": 1},
}
_BAD = _answer("A value that is none of what is described here.", _ERROR)
_LATER = _answer("The state cannot be read just now.", _ERROR)


def _get(what: str, answer: _Schema, *asked: _Schema, **others: _Schema) -> _Schema:
    responses = {"200": answer, "400": _BAD, "503": _LATER}
    responses |= {status.removeprefix("s"): one for status, one in others.items()}
    return {"get": {"summary": what, "parameters": list(asked), "responses": responses}}


def _post(what: str, answer: _Schema, *asked: _Schema) -> _Schema:
    """What changes something. What is asked for is said in the path and the query; a body is not read."""
    responses = {
        "200": answer,
        "401": _answer("It takes the token.", _ERROR),
        "403": _answer("The page of somebody else asked.", _ERROR),
        "404": _answer("There is nothing of that name.", _ERROR),
        "409": _answer("That cannot be now, or not so.", _ERROR),
    }
    return {
        "post": {
            "summary": what,
            "parameters": list(asked),
            "responses": responses,
            "security": [{"token": []}],
        }
    }


def _changes() -> dict[str, Any]:
    run = _answer("The run.", _RUN)
    return {
        "/api/v1/token": _post(
            "Whether it is the token; changes nothing.",
            _answer("It is.", _object(ok={"type": "boolean"})),
        ),
        "/api/v1/reconcile": _post(
            "Ask the repository, if there is one, and look now; as `holdfast reconcile`.",
            _answer(
                "What a look found that began after this.",
                _object(source=_TEXT, commit=_or_null(_TEXT), error=_or_null(_TEXT)),
            ),
        ),
        "/api/v1/suspend": _post(
            "Leave everything alone from now on, also the agents after this one.",
            _answer("Whether it was not so already.", _DONE),
        ),
        "/api/v1/resume": _post(
            "Keep everything as the documents say again.",
            _answer("Whether it was not so already.", _DONE),
        ),
        "/api/v1/approve": _post(
            "Let a plan, or a commit, pass that was held back.",
            _answer("What was approved.", _object(approved=_TEXT)),
            _asked("id", _TEXT, "Its id, or how that begins; without: the only one that waits."),
        ),
        "/api/v1/jobs/{name}/rerun": _post("Run a job again.", run, _NAME),
        "/api/v1/jobs/{name}/cancel": _post("End a job's run that has not ended.", run, _NAME),
        "/api/v1/prune": _post(
            "Take the images out of the store that nobody needs.",
            _answer("Those.", _object(images=_list(_OPEN))),
            _asked(
                "dry_run",
                {"type": "string", "enum": ["false", "true"], "default": "false"},
                "Only find them.",
            ),
        ),
        "/api/v1/fetch": _post(
            "Bring images into the store now.",
            _answer(
                "Lines of JSON: now and then how `far` it is, and last the `images` and what came of each.",
                _TEXT,
                "application/x-ndjson",
            ),
            _asked("image", _list(_TEXT), "Labels or aliases; without: all that documents name."),
        ),
    }


@cache
def described() -> dict[str, Any]:
    """The whole description."""
    from importlib.metadata import version

    status = _object(
        agent=_OPEN,
        items=_list(_ITEM),
        held=_list(_PROBLEM),
        errors=_list(_PROBLEM),
        waiting=_list(_UNREADY),
        advice=_list(_PROBLEM),
    )
    nobody = _answer("There is no such name, or it has no such log.", _ERROR)
    unread = _answer("The log cannot be read.", _ERROR)
    unready = _object(ok={"type": "boolean"}, unready=_list(_UNREADY))
    lives = _object(ok={"type": "boolean"}, why=_TEXT)
    return {
        "openapi": "3.0.3",
        "info": {
            "title": "holdfast",
            "version": version("holdfast"),
            "description": "What an agent knows of its VMs and jobs, and what can be asked of it.",
        },
        "components": {
            "securitySchemes": {
                "token": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "What lies in the state directory as `token`.",
                }
            }
        },
        "paths": {
            **_changes(),
            "/api/v1/status": _get(
                "Every name, as `holdfast status -o json` tells it.",
                _answer("The status.", status),
            ),
            "/api/v1/events": _get(
                "What happened, the oldest first.",
                _answer("Events.", _object(events=_list(_EVENT))),
                _asked("after", _ID, "Only events with an id above this."),
                _asked("last", {**_ID, "default": 100}, "At most so many, 1000 at most."),
                _asked("name", _TEXT, "Only events of this name."),
            ),
            "/api/v1/usage": _get(
                "What each VM uses just now, by uid.",
                _answer(
                    "Usage.",
                    _object(usage={"type": "object", "additionalProperties": _SAMPLE}),
                ),
            ),
            "/api/v1/metrics/{name}": _get(
                "What a name has used, as finely as it is still kept so far back.",
                _answer("Samples, the oldest first.", _object(name=_TEXT, samples=_list(_SAMPLE))),
                _NAME,
                _asked("since", {**_DURATION, "default": "1h"}, "How far back."),
            ),
            "/api/v1/logs/{name}": _get(
                "A part of a log: its end, or what was written behind `file` and `offset` of the last answer.",
                _answer("The part.", _object(file=_TEXT, offset=_WHOLE, text=_TEXT)),
                _NAME,
                _asked("log", {"type": "string", "enum": list(LOGS), "default": "log"}, "Which."),
                _asked("file", _TEXT, "From the last answer."),
                _asked("offset", _ID, "From the last answer."),
                s404=nobody,
                s409=unread,
            ),
            "/api/v1/stream": _get(
                "Server-sent events: `status` once, then `change` and `event` as they come.",
                _answer("Events, without an end.", _TEXT, "text/event-stream"),
                _asked("after", _ID, "The id of the last event that is known."),
            ),
            "/healthz": _get(
                "Whether the loop lives.", _answer("It does.", lives), s503=_answer("Not.", lives)
            ),
            "/readyz": _get(
                "Whether the host is as its documents say.",
                _answer("It is.", unready),
                s503=_answer("Not yet, or not any more; with what is amiss.", unready),
            ),
            "/metrics": _get("For Prometheus.", _answer("Its text format.", _TEXT, "text/plain")),
        },
    }
