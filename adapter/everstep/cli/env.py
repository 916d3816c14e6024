"""``everstep env``: a stack's settings as variables, for programs that use the client API."""

from __future__ import annotations

import json
import shlex
import sys

import click

from everstep.cli.console import write_data
from everstep.cli.options import json_option
from everstep.cli.store import named_stack, settings_of, stack_option


@click.command()
@stack_option
@json_option
def env(stack: str | None, as_json: bool) -> None:
    """Print a stack's settings as a shell reads them. With these, programs start runs on AWS, and look at them.

    \b
      eval "$(everstep env --stack shop)" && python sell.py
    """
    from everstep.cli.cloud import Cloud

    name = named_stack(stack)
    cloud = Cloud()
    found = {"EVERSTEP_BACKEND": "aws", "AWS_REGION": cloud.region, **settings_of(name, cloud)}
    if as_json:
        write_data(sys.stdout, json.dumps(found))
        return
    write_data(sys.stdout, "\n".join(f"export {name}={shlex.quote(value)}" for name, value in found.items()))
