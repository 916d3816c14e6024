"""The next release of the app: it has one workflow more."""

from e2e_app import hail, wf  # type: ignore[import-not-found]  # beside it in the project


@wf.workflow
async def newcomer(*, name: str) -> str:
    greeting: str = await hail(name)
    return greeting
