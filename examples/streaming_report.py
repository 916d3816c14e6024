"""A report that is read while it is written. A step that fails half-way writes its part anew, and readers are told.

python examples/streaming_report.py
"""

import asyncio
import threading
import uuid

from everstep import (
    Reset,
    RetryPolicy,
    Run,
    Workflows,
    Writable,
    get_step_metadata,
    get_writable,
    run,
    start_sync,
)

wf = Workflows()


@wf.workflow
async def write_report(topic: str, sections: int = 3) -> int:
    out = get_writable(type=str, namespace="text", on_retry="discard")  # here a handle, to pass on
    words = sum([await write_section(out, topic, number) for number in range(1, sections + 1)])
    await sign(out)
    return words


@wf.step(retry=RetryPolicy(first_delay="50ms"))
async def write_section(out: Writable[str], topic: str, number: int) -> int:
    words = f"Section {number} says what there is to say about {topic}.".split()
    for position, word in enumerate(words):
        if number == 2 and position == 5 and get_step_metadata().attempt == 1:
            raise ConnectionError("the model hung up")
        await out.write(word)
        await asyncio.sleep(0.01)  # the model thinks
    return len(words)


@wf.step
async def sign(out: Writable[str]) -> None:
    async with out:  # which closes the stream
        await out.write("(end)")


async def show(report: Run[int]) -> None:
    """Print the words as they come. When some are discarded, say so and go on with what replaces them."""
    text: list[str] = []
    async for item in report.chunks(type=str, namespace="text"):
        if isinstance(item, Reset):
            print(f"\n[forget the last {len(text) - item.index} words]", flush=True)
            del text[item.index :]
        else:
            text.append(item.value)
            print(item.value, end=" ", flush=True)
    print("\n\nThe report:", " ".join(text))


if __name__ == "__main__":
    report = write_report.with_options(idempotency_key=f"report-{uuid.uuid4()}")
    reader = threading.Thread(target=lambda: asyncio.run(show(start_sync(report, "rivers"))))
    reader.start()
    words = run(report, "rivers")  # the same run, because the key is the same
    reader.join()
    print(f"{words} words")
