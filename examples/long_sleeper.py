"""A run that sleeps for weeks: nothing is running meanwhile, and a restart or a deploy does not matter.

python examples/long_sleeper.py
everstep start examples/long_sleeper.py:trial --input '{"customer": "ada"}'     # two weeks
"""

from datetime import datetime, timedelta

from everstep import Workflows, now, run, sleep

wf = Workflows()


@wf.workflow
async def trial(customer: str, length: str = "14 days", reminder_before: str = "2 days") -> datetime:
    await send_mail(customer, f"Welcome! Your trial runs for {length}.")
    await sleep(await until_reminder(length, reminder_before))
    await send_mail(customer, f"Your trial ends in {reminder_before}.")
    await sleep(reminder_before)
    await send_mail(customer, "Your trial has ended.")
    return now()


@wf.step
def until_reminder(length: str, reminder_before: str) -> timedelta:
    units = {"seconds": 1, "days": 86_400}

    def seconds(text: str) -> float:
        number, unit = text.split()
        return float(number) * units[unit]

    return timedelta(seconds=seconds(length) - seconds(reminder_before))


@wf.step
async def send_mail(customer: str, text: str) -> None:
    print(f"to {customer}: {text}")


if __name__ == "__main__":
    print("ended at", run(trial, "ada", length="2 seconds", reminder_before="1 seconds"))
