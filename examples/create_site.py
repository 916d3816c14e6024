"""Three steps in sequence: the smallest workflow worth having.

python examples/create_site.py
everstep run examples/create_site.py:create_site --input '{"user_id": "u1"}'
"""

import asyncio
import json

from everstep import Workflows, run

wf = Workflows()


@wf.workflow
async def create_site(*, user_id):
    profile = await fetch_user_profile(user_id=user_id)
    plan = await generate_site_plan(profile=profile)
    return await build_site(plan=plan)


@wf.step
async def fetch_user_profile(*, user_id):
    await asyncio.sleep(0.2)  # a call to a database
    return {"id": user_id, "name": "Ada", "likes": ["engines", "notes"]}


@wf.step
async def generate_site_plan(*, profile):
    await asyncio.sleep(0.2)  # a call to a model
    return {"title": f"{profile['name']}'s place", "pages": ["home", *profile["likes"]]}


@wf.step
async def build_site(*, plan):
    await asyncio.sleep(0.2)  # a call to a build service
    return {"url": "https://example.com/ada", "title": plan["title"], "pages": len(plan["pages"])}


if __name__ == "__main__":
    print(json.dumps(run(create_site, user_id="u1"), indent=2))
