"""The bytes of a value must not depend on the seed of the process that wrote them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

PROGRAM = """
import hashlib, uuid
from typing import Any, Optional, Union
from pydantic import BaseModel
from everstep.codec import values
from everstep.codec.typed import SignatureCodec

class Model(BaseModel):
    names: set[str]
    deep: dict[str, frozenset[tuple[str, int]]]
    loose: Any = None
    ids: Union[set[uuid.UUID], list[str], None] = None
    kids: "list[Model]" = []

words = [f"word{n}" for n in range(50)]
def step(
    a: set[str], b: frozenset[frozenset[str]], c: list[Model], d, *, e: Union[set[str], list[str]], f: set
) -> Model: ...

codec = SignatureCodec(step, "step")
model = Model(names=set(words), deep={"x": frozenset((w, 1) for w in words)}, loose={"y": set(words)},
              ids={uuid.UUID(int=n) for n in range(30)}, kids=[Model(names=set(words), deep={})])
out = [
    values.encode({"s": set(words), "f": frozenset((w, len(w)) for w in words), "k": {frozenset(words): 1}}),
    codec.encode_call((set(words), frozenset(frozenset(words[n:n + 9]) for n in range(9)), [model], set(words)),
                      {"e": set(words), "f": set(words) | {1, None}}),
    codec.encode_result(model),
]
print(hashlib.sha256(b"|".join(out)).hexdigest())
"""


def test_bytes_do_not_depend_on_the_hash_seed() -> None:
    import everstep.errors

    source = str(Path(everstep.errors.__file__).parent.parent)
    running = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": source},
            stdout=subprocess.PIPE,
        )
        for seed in ("1", "2", "77")
    ]
    digests = {process.communicate()[0] for process in running}
    assert [process.returncode for process in running] == [0, 0, 0]
    assert len(digests) == 1
