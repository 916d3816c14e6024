"""What requests say and answers hold, as pydantic models: from these the OpenAPI document is made.

The names of the fields are a promise; new ones may be added to answers. Times are in UTC. Payloads have the form in
which they are stored (docs/reference/payloads.md); one that is too large to be shown is ``{"$omitted": bytes}``.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field

from everstep.core.run import RunStatus
from everstep.core.timeline import ChildState, HookState, StepState, TimerState

RunId: TypeAlias = Annotated[str, Field(examples=["wrun_01M81EPQ5BXQE1SNKS666FDPR3"])]
Payload: TypeAlias = Annotated[Any, Field(description="A payload in its stored form.")]


class Asked(BaseModel):
    """Base of request bodies: nothing that is not known, nothing that must be guessed."""

    model_config = ConfigDict(extra="forbid", strict=True)


# --- requests ----------------------------------------------------------------------------------------


class StartRun(Asked):
    """Which workflow to start, and how."""

    workflow: str = Field(description="The registered name.", examples=["create_site"])
    input: dict[str, Any] | list[Any] = Field(
        default_factory=dict, description="The arguments: an object by name, an array by position."
    )
    attributes: dict[str, str] = Field(default_factory=dict, description="Plain text to find the run by.")
    start_at: str | float | None = Field(
        default=None,
        description="When the run may begin: a moment with its offset from UTC, or how long from now.",
        examples=["2h", "2030-01-31T12:00:00Z"],
    )


class Ending(Asked):
    """Why a run is to end."""

    reason: str | None = Field(default=None, description="Up to 512 characters.", max_length=512)


class Rerun(Asked):
    """Where the new run is to begin."""

    from_step: int | str | None = Field(
        default=None,
        description=(
            "Keep what happened before this step: the number of its operation, or its name for the first call of it. "
            "Only of a run that has ended. Without it the new run begins from the start."
        ),
    )


# --- runs --------------------------------------------------------------------------------------------


class Problem(BaseModel):
    """What is wrong, as RFC 9457 has it."""

    type: str = Field(description="A page about this kind of problem, or `about:blank`.")
    title: str
    status: int
    detail: str
    run_id: RunId | None = Field(default=None, description="The run that the problem is about, if it names one.")
    errors: list[dict[str, str]] | None = Field(
        default=None, description="What does not fit, part by part: `at` and `message`."
    )


class Error(BaseModel):
    """What a workflow or a step raised, without its stack trace."""

    type: str = Field(examples=["ValueError"])
    message: str


class Parked(BaseModel):
    """Why a run is parked."""

    code: str
    message: str
    turn: int | None = Field(description="The turn that could not be made or replayed.")
    build: str = Field(description="The build that parked it. Another one tries it again by itself.")
    at: datetime


class Run(BaseModel):
    """A run, without its payloads."""

    run_id: RunId
    root_id: RunId = Field(description="The first run of its family.")
    parent_run_id: RunId | None = Field(description="The run that started it as a child.")
    workflow: str
    status: RunStatus
    attributes: dict[str, str]
    created_at: datetime
    start_at: datetime = Field(description="When its first turn may run.")
    started_at: datetime | None
    completed_at: datetime | None
    paused_at: datetime | None
    reason: str | None = Field(description="Why it was cancelled, if somebody said so.")
    error: Error | None
    problem: Parked | None
    continued_from: RunId | None
    continued_to: RunId | None


class RunList(BaseModel):
    """A page of a list, newest first."""

    runs: list[Run]
    cursor: str | None = Field(description="To be given for the next page. None on the last.")


class Input(BaseModel):
    """What a run was started with."""

    run_id: RunId
    input: Payload


class Outcome(BaseModel):
    """What became of a run, or how it stands."""

    run_id: RunId
    status: RunStatus
    result: Payload = None
    error: Error | None = Field(default=None, description="Of a run that failed.")
    reason: str | None = Field(default=None, description="Of a run that was cancelled, if somebody said why.")
    problem: Parked | None = Field(default=None, description="Of a run that is parked.")


class Published(BaseModel):
    """The newest values that a workflow has published, by name."""

    run_id: RunId
    values: dict[str, Any]


# --- what happened in a run --------------------------------------------------------------------------


class Attempt(BaseModel):
    """An attempt that failed and was followed by another."""

    attempt: int
    started_at: datetime
    ended_at: datetime
    retry_at: datetime
    error: Error


class _Operation(BaseModel):
    op: int = Field(description="Its number: operations are numbered in the order in which the body asked.")
    turn: int = Field(description="The turn that asked for it.")
    asked_at: datetime
    ended_at: datetime | None


class StepCall(_Operation):
    """A call of a step."""

    kind: Literal["step"] = "step"
    name: str
    state: StepState
    attempt: int = Field(description="The attempt that ended it, or the latest one.")
    failed_attempts: list[Attempt]
    retry_at: datetime | None = Field(description="When the next attempt may run.")
    input: Payload
    result: Payload
    error: Error | None


class Timer(_Operation):
    """A sleep or a deadline."""

    kind: Literal["timer"] = "timer"
    state: TimerState
    due: datetime
    sleep: bool = Field(description="Whether it is a sleep, which can be ended early, and not a deadline.")


class OpenedHook(_Operation):
    """A hook or a webhook."""

    kind: Literal["hook", "webhook"]
    state: HookState
    token: str
    url: str | None = Field(description="Of a webhook: where requests are sent.")
    payload: str | None = Field(description="The name of the payload's class.")
    metadata: Payload
    received: int = Field(description="How many payloads have come.")
    held_by: RunId | None = Field(description="The run that has the token, where it is *conflicted*.")


class ChildRun(_Operation):
    """A run that this one started."""

    kind: Literal["child"] = "child"
    workflow: str
    run_id: RunId
    state: ChildState
    input: Payload
    result: Payload
    error: Error | None


Operation: TypeAlias = StepCall | Timer | OpenedHook | ChildRun


class OperationList(BaseModel):
    """A page of a run's operations, in order."""

    run_id: RunId
    status: RunStatus
    operations: list[Operation]
    next: int | None = Field(description="To be given as `first` for the next page. None on the last.")


# --- hooks and streams -------------------------------------------------------------------------------


class Hook(BaseModel):
    """An open hook."""

    token: str
    run_id: RunId
    workflow: str
    payload: str | None = Field(description="The name of the payload's class.")
    payload_schema: dict[str, Any] | None = Field(
        description="The JSON schema of that class, where this process has it."
    )
    webhook: bool
    url: str | None = Field(description="Of a webhook: where requests are sent.")
    metadata: Payload
    opened_at: datetime


class Resumed(BaseModel):
    """A payload that is stored and will not be lost."""

    run_id: RunId
    resume_id: str = Field(description="Of several payloads with the same one the run sees the first.")


class StreamList(BaseModel):
    """The streams that a run's steps have written to."""

    run_id: RunId
    streams: list[str]


class StreamInfo(BaseModel):
    """How a stream stands."""

    name: str
    tail_index: int = Field(description="The index of the last chunk; -1 when there is none.")
    closed: bool = Field(description="Nothing more will come: it was closed, or its run has ended.")


# --- the service -------------------------------------------------------------------------------------


class Health(BaseModel):
    """The function answers."""

    status: Literal["ok"] = "ok"


class QueueHealth(Health):
    """A worker has handled a message."""

    seconds: float = Field(description="From sending the message until its effect was seen.")


class WorkflowView(BaseModel):
    """A workflow of the app."""

    name: str
    module: str
    description: str
    signature: str
    input_schema: dict[str, Any] = Field(description="JSON schema of the arguments by name.")
    result_schema: dict[str, Any]


class StepView(BaseModel):
    """A step of the app."""

    name: str
    module: str
    description: str
    signature: str
    max_retries: int
    timeout: float | None = Field(description="Seconds that an attempt may take.")
    at_most_once: bool
    cancellable: bool


class Manifest(BaseModel):
    """What the app has."""

    version: str = Field(description="Of Everstep.")
    build: str = Field(description="Changes with the code of the app.")
    workflows: list[WorkflowView]
    steps: list[StepView]
