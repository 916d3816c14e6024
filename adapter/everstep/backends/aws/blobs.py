"""What is too large for an item or a message, as objects in S3.

An item that refers to an object has its reference as text where it would have the bytes themselves::

    s3:<sha256 of the content>:<size>:<key>

The key ends with the digest too. So an object is never overwritten by another content, to store it twice is harmless,
and a writer who loses a race leaves an object that nothing refers to. One PUT costs as much as an 8 KB write of
DynamoDB ($5 per million), one GET as much as 3 RRU.
"""

from __future__ import annotations

import hashlib
import re
from typing import Final, final

from everstep.backends.aws.clients import AwsClients
from everstep.backends.aws.failures import code_behind
from everstep.backends.aws.items import Value
from everstep.errors import ConfigurationError, SerializationError, StoreError

INLINE: Final = 350_000
"""Bytes of a turn or an inbox entry that stay in its item, which may have 409,600 with its keys."""

_REFERENCE: Final = re.compile(r"s3:([0-9a-f]{64}):(\d+):(.+)", re.DOTALL)


@final
class S3Blobs:
    """Objects in the bucket, named by run and content."""

    def __init__(self, clients: AwsClients, bucket: str) -> None:
        self._clients = clients
        self._bucket = bucket

    def put(self, run_id: str, what: str, data: bytes) -> str:
        """Store the bytes; return the reference. One PUT."""
        digest = hashlib.sha256(data).hexdigest()
        key = f"{run_id}/{what}-{digest[:32]}"
        self._clients.call("s3", "PutObject", Bucket=self._bucket, Key=key, Body=data)
        return f"s3:{digest}:{len(data)}:{key}"

    def get(self, reference: str) -> bytes:
        """The bytes of a reference. One GET.

        Raises:
            SerializationError: it is no reference, or the object is missing or is not what was stored.
        """
        match = _REFERENCE.fullmatch(reference)
        if match is None:
            raise SerializationError(
                f"stored reference {reference[:80]!r} is damaged, or a newer version of Everstep wrote it: upgrade "
                f"everstep in this process, or restore the item from a backup"
            )
        digest, _, key = match.groups()
        try:
            data: bytes = self._clients.call("s3", "GetObject", Bucket=self._bucket, Key=key)["Body"]
        except (ConfigurationError, StoreError) as error:
            if code_behind(error) in ("NoSuchKey", "404"):
                raise SerializationError(
                    f"object {key!r} is missing in bucket {self._bucket!r}, and a stored record refers to it: restore "
                    f"it from a backup, and check what deletes objects there"
                ) from error
            raise
        if hashlib.sha256(data).hexdigest() != digest:
            raise SerializationError(
                f"object {key!r} in bucket {self._bucket!r} is damaged: its {len(data):,} bytes are not those "
                f"that were stored. Restore it from a backup"
            )
        return data

    def hold(self, run_id: str, what: str, data: bytes, *, inline: int) -> Value:
        """The attribute value that stands for the bytes: themselves up to `inline` bytes, else a reference."""
        return {"B": data} if len(data) <= inline else {"S": self.put(run_id, what, data)}

    def held(self, value: Value) -> bytes:
        """The bytes that an attribute value stands for."""
        inline: bytes | None = value.get("B")
        return self.get(value["S"]) if inline is None else inline
