"""Sends random requests to an engine in which other requests run: `python -m tests.engine.fuzz --cases 10000 --seed 1`.

Every request runs or is refused with a `LabkitError`. No step raises an error, and the tokens of the other requests do not
change. The last line of the output is one JSON object with the counts.
"""

from __future__ import annotations

import argparse
import collections
import json
import sys
import time
import warnings
from typing import Any

import torch
from hypothesis import HealthCheck, Phase, given, seed, settings

from labkit.checkpoints import open_checkpoint
from labkit.engine import Engine, SamplingParams
from labkit.errors import LabkitError
from tests.engine import strategies
from tests.models import engine_of, random_peer

SHAPE = (64, 2, 2, 16, 256, 8192)
"""The shape of a random model that is so small that a step takes a millisecond. The model uses the tokenizer of gptj-tiny."""
STEPS = 30
"""The most steps that a random request runs before it is cancelled."""
BYSTANDERS = [
    ("In the beginning", {"max_new_tokens": 60, "ignore_eos": True}),
    ("Call me", {"max_new_tokens": 50, "temperature": 0.9, "top_p": 0.9, "seed": 7, "ignore_eos": True}),
    ("It was the best", {"max_new_tokens": 40, "temperature": 1.2, "top_k": 30, "seed": 8, "bad_words": ["the", "of the"],
                         "repetition_penalty": 1.2, "speculate": 3, "min_new_tokens": 9, "logprobs": 2}),
]  # fmt: skip


class Batch:
    """An engine with bystanders, which are requests that run all the time: when a bystander ends, it starts again."""

    def __init__(self, counts: collections.Counter[str]) -> None:
        tokenizer = open_checkpoint("gptj-tiny").tokenizer()
        options: dict[str, Any] = {"max_batch_size": 8, "num_slots": 1200, "max_step_tokens": 160, "tokenizer": tokenizer}
        peer = random_peer(SHAPE, 5)
        self.engine: Engine = engine_of(peer, **options)
        params = [SamplingParams(**given) for _, given in BYSTANDERS]
        texts = [text for text, _ in BYSTANDERS]
        alone = [engine_of(peer, **options).generate(text, chosen) for text, chosen in zip(texts, params, strict=True)]
        self.expected = [outputs[0].token_ids for outputs in alone]
        self.params = params
        self.made: dict[int, tuple[int, list[int]]] = {}  # for each request: the bystander's number, and its tokens so far
        self.counts = counts
        for number in range(len(BYSTANDERS)):
            self._begin(number)

    def try_request(self, prompt: Any, given: dict[str, Any]) -> None:
        """Run one random request together with the bystanders."""
        self.counts["cases"] += 1
        request = -1
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                request = self.engine.add_request(prompt, SamplingParams(**given))
        except LabkitError as error:
            refusal = str(error)
        else:
            refusal = None
        if refusal is not None:
            assert len(refusal) < 2000, f"a refusal of {len(refusal)} characters"
            assert "\n" not in refusal
            self.counts["refused"] += 1
            self._step()
            return
        for _ in range(STEPS):
            if (end := self._step().get(request)) is not None:
                if end.error is not None:
                    # A cause that is not a LabkitError is a bug: the request should have been refused.
                    assert isinstance(end.error.__cause__, LabkitError), repr(end.error.__cause__)
                    self.counts["failed"] += 1
                else:
                    self.counts["ended"] += 1
                break
        else:
            assert self.engine.cancel(request)
            self.counts["cancelled"] += 1
        assert self.engine.stats.running + self.engine.stats.waiting == len(BYSTANDERS)

    def _step(self) -> dict[int, Any]:
        """Run one step and check the bystanders. Return the last events of the requests that ended in the step."""
        ended = {}
        samples: collections.Counter[int] = collections.Counter()
        for event in self.engine.step():
            if event.request not in self.made:
                samples[event.request] += 1
                if event.finish_reason is not None and event.request not in self.engine._added:
                    ended[event.request] = event
                continue
            assert event.error is None, f"a bystander failed: {event.error}"
            number, tokens = self.made[event.request]
            tokens.append(event.token_id)
            assert tokens == self.expected[number][: len(tokens)], f"bystander {number} was given other tokens"
            if event.finish_reason is not None:
                assert tokens == self.expected[number]
                del self.made[event.request]
                self.counts["bystanders"] += 1
                self._begin(number)
        return ended

    def _begin(self, number: int) -> None:
        self.made[self.engine.add_request(BYSTANDERS[number][0], self.params[number])] = number, []


class Fuzz:
    """Random cases for a `Batch`. After a failure it makes a new `Batch`, so that Hypothesis can shrink the failing case."""

    def __init__(self) -> None:
        self.counts: collections.Counter[str] = collections.Counter()
        self.batch = Batch(self.counts)

    def run(self, cases: int, number: int | None = None) -> collections.Counter[str]:
        """Run `cases` cases, which depend only on the seed `number`. Raise the error of the smallest failing case."""
        config = self.batch.engine.config
        prefix = config.num_layers, config.num_heads, config.head_dim
        asked = strategies.params(config.vocab_size, hidden=config.hidden_size, prefix=prefix)

        @settings(
            max_examples=cases,
            database=None,
            deadline=None,
            derandomize=number is None,
            suppress_health_check=list(HealthCheck),
            phases=[Phase.generate, Phase.shrink],
        )
        @given(prompt=strategies.prompts(config.vocab_size), params=asked)
        def case(prompt: Any, params: dict[str, Any]) -> None:
            if self.counts["cases"] % 500 == 0:
                print(dict(self.counts), file=sys.stderr, flush=True)
            try:
                self.batch.try_request(prompt, params)
            except BaseException:
                self.batch = Batch(self.counts)
                raise

        (case if number is None else seed(number)(case))()
        return self.counts


def main() -> None:
    """Run the cases and print the counts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    began = time.monotonic()
    torch.set_num_threads(1)
    counts = Fuzz().run(arguments.cases, arguments.seed)
    print(f"{time.monotonic() - began:.0f} s", file=sys.stderr)
    print(json.dumps({"seed": arguments.seed, **counts}))


if __name__ == "__main__":
    main()
