"""The clients of AWS's services, and the one way to call them.

They are botocore's low-level ones: importing boto3 as well costs 35 to 60 ms of each cold start and gives nothing that
is used here. Measured on the project's machine (botocore 1.44): import 130 ms, the first client (DynamoDB) 55 ms, each
further one 3 ms, S3 20 ms. So each is made when it is first used, or when the assembly asks for it: a worker whose
payloads are small and whose timers are short makes two.
"""

from __future__ import annotations

import threading
from typing import Any, Final, Literal, TypeAlias, final

import botocore.session
from botocore import xform_name
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from everstep.backends.aws.failures import CONDITION_FAILED, FOREIGN, RefusedError, code_of, translated
from everstep.backends.aws.resources import AwsResources
from everstep.errors import ConfigurationError

Service: TypeAlias = Literal["dynamodb", "sqs", "s3", "scheduler"]
Answer: TypeAlias = dict[str, Any]

CONNECT_TIMEOUT: Final = 1.0
"""Seconds. A connection within a region takes milliseconds: when it does not, another attempt is quicker."""
READ_TIMEOUT: Final[dict[Service, float]] = {"dynamodb": 3.0, "sqs": 5.0, "scheduler": 5.0, "s3": 20.0}
"""Seconds without a byte. DynamoDB answers in 3 to 6 ms; an object may have 64 MB."""
ATTEMPTS: Final = 3
"""The first one included; the standard mode waits up to 1 s and 2 s between them, with jitter. What fails all the same
is a `StoreBusyError`, and the message that caused it comes again."""
CONNECTIONS: Final = 50
"""Kept alive for each service: more than the threads of one process that call it at once."""


@final
class AwsClients:
    """Clients made once, when first used. Thread-safe.

    Args:
        session: where the clients get their credentials and the services' models from; a new one by default.
    """

    def __init__(self, resources: AwsResources, session: botocore.session.Session | None = None) -> None:
        self._resources = resources
        self._session = session or botocore.session.Session()
        self._clients: dict[Service, Any] = {}
        self._making = threading.Lock()
        self._names: Final[dict[Service, str]] = {
            "dynamodb": resources.table,
            "sqs": resources.queue_url.rpartition("/")[2],
            "s3": resources.bucket,
            "scheduler": resources.schedule_group,
        }

    def client(self, service: Service) -> Any:
        """The client of a service; for those who watch its events, too."""
        made = self._clients.get(service)
        if made is not None:
            return made
        with self._making:  # a session is not thread-safe, its clients are
            if service not in self._clients:
                self._clients[service] = self._make(service)
            return self._clients[service]

    def call(self, service: Service, operation: str, **parameters: Any) -> Answer:
        """Call an operation by its name in AWS's reference, such as ``PutItem``.

        A ``Body`` in the answer is bytes: all of the stream that the SDK makes of it.

        Raises:
            RefusedError: the condition of a write does not hold.
            EverstepError: anything else, as `failures.translated` says.
        """
        method = getattr(self.client(service), xform_name(operation))
        try:
            answer: Answer = method(**parameters)
            if "Body" in answer:  # read here, because it may break off
                answer["Body"] = answer["Body"].read()
        except FOREIGN as error:
            if isinstance(error, ClientError) and code_of(error) == CONDITION_FAILED:
                response: Answer = dict(error.response)
                repeated = response.get("ResponseMetadata", {}).get("RetryAttempts", 0) > 0
                raise RefusedError(response.get("Item"), repeated=repeated) from error
            resource = self._names[service]
            raise translated(error, service=service, operation=operation, resource=resource) from error
        return answer

    def close(self) -> None:
        """Close the connections. The next call opens new ones."""
        with self._making:
            clients, self._clients = self._clients, {}
        for client in clients.values():
            client.close()

    def _make(self, service: Service) -> Any:
        endpoint = self._resources.endpoint_url
        config = Config(
            connect_timeout=CONNECT_TIMEOUT,
            read_timeout=READ_TIMEOUT[service],
            retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
            max_pool_connections=CONNECTIONS,
            tcp_keepalive=True,
            s3=None if endpoint is None else {"addressing_style": "path"},
        )
        region = self._resources.region
        try:
            return self._session.create_client(service, region_name=region, endpoint_url=endpoint, config=config)
        except (BotoCoreError, ValueError) as error:  # a profile, a region or an endpoint that is none
            raise ConfigurationError(f"AWS settings: {error}") from error
