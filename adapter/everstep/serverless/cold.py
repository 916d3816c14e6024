"""What a function makes once and keeps between invocations: settings, connection, app, engine.

Made at the first use. On Lambda a handler's module asks for it while it is imported, when a function has the most
processor time, and the snapshot of SnapStart (if that is on) holds it. So nothing here may draw a random number or
look at the time: all functions restored from one snapshot would have the same. The engine draws its nonces at first
use, from the system; and the connection is made with random sources that keep no state.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from everstep.app import Workflows
from everstep.assembly import connect, set_default_connection, sqs_deliveries
from everstep.core.operations import Program
from everstep.errors import ConfigurationError
from everstep.runtime.connection import Connection
from everstep.runtime.registry import StepProgram
from everstep.serverless.apps import load_app
from everstep.serverless.deadletter import DeadLetterHandler
from everstep.serverless.deliveries import Deliveries
from everstep.serverless.messages import MessageHandler
from everstep.serverless.observe import Watch
from everstep.settings import Settings, read_settings


@dataclass(frozen=True, slots=True, kw_only=True)
class _NoApp:
    """Stands for an app that cannot be imported. Runs that are parked under its build are tried by any other."""

    workflows: Mapping[str, Program]
    steps: Mapping[str, StepProgram]
    build: str = "no-app"


class Process:
    """One process of a function."""

    @cached_property
    def settings(self) -> Settings:
        settings = read_settings()
        if settings.backend != "aws":
            raise ConfigurationError(
                f"a Lambda function needs EVERSTEP_BACKEND=aws, not {settings.backend!r}: its file system is not kept"
            )
        return settings

    @cached_property
    def watch(self) -> Watch:
        watch = Watch(trace=self.settings.trace)
        watch.adopt_root_logger()
        return watch

    @cached_property
    def connection(self) -> Connection:
        connection = connect(self.settings)
        set_default_connection(connection)  # steps that start runs use it too
        return connection

    @cached_property
    def deliveries(self) -> Deliveries:
        return sqs_deliveries(self.connection)

    @cached_property
    def app(self) -> Workflows:
        return load_app(self.settings.app)

    @cached_property
    def worker(self) -> MessageHandler:
        """The worker function."""
        watch = self.watch  # before the app is imported, so that what it logs then has the same form
        engine = self.connection.engine(self.app, observe=watch.tell)
        return MessageHandler(engine, self.deliveries, watch)

    @cached_property
    def dead_letters(self) -> DeadLetterHandler:
        """The dead-letter function."""
        watch = self.watch
        registry: Workflows | _NoApp
        try:
            registry = self.app
        except Exception:  # the user's code, which may raise anything
            watch.logger.exception("the app cannot be imported; dead letters are dealt with all the same")
            registry = _NoApp(workflows={}, steps={})
        return DeadLetterHandler(self.connection.engine(registry, observe=watch.tell), self.deliveries, watch)
