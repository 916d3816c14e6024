"""A parent with 50 children: runs of their own, at most 10 at a time, of which some fail.

python examples/parent.py
everstep inspect runs --attribute batch=monday
"""

import asyncio
from dataclasses import dataclass, field

from everstep import FatalError, Workflows, publish, run

wf = Workflows()


@dataclass
class Report:
    imported: int = 0
    failed: dict[str, str] = field(default_factory=dict)


@wf.workflow
async def import_all(count: int = 50, at_once: int = 10) -> Report:
    gate = asyncio.Semaphore(at_once)
    report = Report()
    child = import_one.with_options(attributes={"batch": "monday"})

    async def one(file: str) -> None:
        async with gate:
            try:
                await child(file)  # a run with a history of its own; its error arrives in its own class
                report.imported += 1
            except FatalError as error:
                report.failed[file] = str(error)
        publish("progress", {"done": report.imported + len(report.failed), "of": count})

    await asyncio.gather(*(one(f"file-{number}.csv") for number in range(1, count + 1)))
    return report


@wf.workflow
async def import_one(file: str) -> int:
    rows = await read(file)
    await store(file, rows)
    return rows


@wf.step
async def read(file: str) -> int:
    if file.endswith("0.csv"):
        raise FatalError("it is empty")
    return len(file) * 100


@wf.step
async def store(file: str, rows: int) -> None:
    await asyncio.sleep(0.01)  # the work


if __name__ == "__main__":
    result = run(import_all)
    print(f"{result.imported} imported, {len(result.failed)} failed:")
    for name, reason in result.failed.items():
        print(f"  {name}: {reason}")
