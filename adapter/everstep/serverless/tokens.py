"""The API's tokens, from AWS Secrets Manager. Only the API function imports this."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from aws_lambda_powertools.utilities.parameters import GetParameterError, SecretsProvider

from everstep.errors import ConfigurationError, StoreError

KEPT_SECONDS: Final = 300
"""How long a secret is used before it is read again: so long a token that was withdrawn may still work."""


def secret_tokens(name: str | None, provider: SecretsProvider | None = None) -> Callable[[], Sequence[str]]:
    """Reads the tokens: the words of the secret's text. With two of them one can be replaced without a gap.

    Without a name there are none, and the API lets nobody in.

    The function that is returned raises `StoreError` when the secret cannot be read.
    """
    if name is None:
        return lambda: ()
    secrets = provider or SecretsProvider()

    def tokens() -> Sequence[str]:
        try:
            value = secrets.get(name, max_age=KEPT_SECONDS)
        except GetParameterError as error:
            raise StoreError(f"secret {name!r} cannot be read: {error}") from error
        if not isinstance(value, str) or not value.split():
            raise ConfigurationError(f"secret {name!r} holds no text")
        return value.split()

    return tokens
