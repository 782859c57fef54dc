"""Makes requests from a caller's prompts and parameters, and refuses requests that the engine cannot run."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from labkit.checkpoints import Tokenizer
from labkit.config import GPTJConfig
from labkit.engine.argument_forms import shown
from labkit.engine.bad_text_automaton import BadTextAutomaton
from labkit.engine.bad_text_rows import AutomatonCache
from labkit.engine.outputs import TokenEvent
from labkit.engine.prompt_arguments import Params, Prompts, one_prompt, params_list, prompt_list
from labkit.engine.sampling_params import SamplingParams
from labkit.engine.schedule.sequence import Sequence
from labkit.errors import InvalidRequest
from labkit.plurals import counted

NO_TOKENIZER = (
    "this model has no tokenizer (synthetic weights have none; a directory needs tokenizer.json, or vocab.json and merges.txt)"
)
"""The reason given in every error message about a text that cannot be used because there is no tokenizer."""


@dataclass(frozen=True)
class Prompt:
    """A prompt as text (None if it was given as tokens) and as tokens."""

    text: str | None
    token_ids: list[int]


class Inbox(Protocol):
    """Receives the events of a request."""

    def append(self, event: TokenEvent, /) -> None:
        """Take the next event. This method is called in the thread that runs the step, and must not raise."""


@dataclass(eq=False)
class Request:
    """A prompt and the sequences that continue it, one for each sample. The sequences' events go to `inbox`."""

    request_id: int
    prompt: Prompt
    sequences: list[Sequence]
    inbox: Inbox
    unfinished: int = field(init=False)

    def __post_init__(self) -> None:
        self.unfinished = len(self.sequences)


MOST_WORD_TOKENS = 2**17
"""The limit on the bad words of one request: the number of words, times the number of tokens of the longest word.

The sampler keeps this many token ids for every row.
"""


class RequestIntake:
    """Makes requests for a model. The intake does not know which requests are running.

    check: raises `InvalidRequest` for a sequence that the engine cannot run.
    """

    def __init__(
        self, config: GPTJConfig, tokenizer: Tokenizer | None, max_batch_size: int, check: Callable[[Sequence], None]
    ) -> None:
        self._config = config
        self._tokenizer = tokenizer
        self._text_bans = AutomatonCache(tokenizer, config.vocab_size) if tokenizer else None
        self._max_batch_size = max_batch_size
        self._check = check
        self._ids = itertools.count()

    def requests(self, prompts: Prompts, params: Params, inbox: Inbox, *, number: bool = True) -> list[Request]:
        """Make one request for each prompt.

        number: if true, events carry the position of their prompt in this call; if false, they carry the id of their request.
        If the engine cannot run one of the requests, this method raises `InvalidRequest` and makes no request at all.
        """
        asked = prompt_list(prompts)
        chosen_params = params_list(params, len(asked))
        made = []
        for index, (given, chosen) in enumerate(zip(map(self._prompt, asked), chosen_params, strict=True)):
            request_id = next(self._ids)
            prompt = self._started(given, chosen)
            sequences = self._samples(index if number else request_id, prompt.token_ids, chosen)
            made.append(Request(request_id, prompt, sequences, inbox))
        return made

    def _prompt(self, prompt: str | list[int]) -> Prompt:
        return Prompt(prompt, self._need_tokenizer().encode(prompt)) if isinstance(prompt, str) else Prompt(None, prompt)

    def token_ids(self, tokens: Any) -> list[int]:
        """The token ids of one text, given as any collection of numbers. Raises `InvalidRequest` for anything else."""
        given = one_prompt(tokens)
        if isinstance(given, str):
            raise InvalidRequest(f"token_ids is {shown(tokens)}; a list of token ids is accepted")
        self.check_tokens(given)
        return given

    def check_tokens(self, tokens: list[int]) -> None:
        """Raise `InvalidRequest` unless there is at least one token, and all tokens fit the context and the vocabulary."""
        if not tokens:
            raise InvalidRequest(
                "a prompt is empty; give at least one token (a space or '<|endoftext|>' will do) or a start_token_id"
            )
        if len(tokens) > self._config.context_length:
            raise InvalidRequest(
                f"a prompt has {counted(len(tokens), 'token')}, but the model's context holds "
                f"only {self._config.context_length} tokens; shorten the prompt"
            )
        for token in tokens:
            if not isinstance(token, int) or isinstance(token, bool) or not 0 <= token < self._config.vocab_size:
                raise InvalidRequest(
                    f"a prompt holds {shown(token)}; this model's token ids are 0 to {self._config.vocab_size - 1}"
                )

    def _started(self, prompt: Prompt, params: SamplingParams) -> Prompt:
        """Return the prompt, or the start token if the prompt is empty.

        Raises `InvalidRequest` if the model cannot use the prompt.
        """
        if not prompt.token_ids and params.start_token_id is not None:
            prompt = Prompt(prompt.text, [params.start_token_id])
        self.check_tokens(prompt.token_ids)
        return prompt

    def _need_tokenizer(self) -> Tokenizer:
        if self._tokenizer is None:
            raise InvalidRequest(f"{NO_TOKENIZER}; give prompts as token ids")
        return self._tokenizer

    def _samples(self, number: int, tokens: list[int], params: SamplingParams) -> list[Sequence]:
        """Make one sequence for each sample of a prompt."""
        limit = params.fit(self._config, len(tokens))
        name = "num_beams" if params.num_beams > 1 else "num_samples"
        if (width := getattr(params, name)) > self._max_batch_size:
            raise InvalidRequest(
                f"{name} is {width}; this engine runs at most {counted(self._max_batch_size, 'sequence')} at a time"
            )
        if params.needs_tokenizer:
            self._need_tokenizer()
        seed = int.from_bytes(os.urandom(8), "little") if params.seed is None else params.seed
        bad_words = list(dict.fromkeys(tuple(word) for word in params.bad_words if not isinstance(word, str)))
        _check_size(bad_words)
        banned_texts = self.banned_texts(params)
        tokenizer = self._tokenizer
        samples = [
            Sequence(
                request=number,
                sample=sample,
                prompt=tokens,
                params=params,
                max_new_tokens=limit,
                eos_token_id=self._config.eos_token_id,
                bad_words=bad_words,
                seed=seed,
                token_bytes=tokenizer.token_bytes if tokenizer else lambda token: b"",
                special_tokens=tokenizer.special_tokens if tokenizer else {},
                banned_texts=banned_texts,
            )
            for sample in range(params.num_samples)
        ]
        self._check(samples[0])
        return samples

    def banned_texts(self, params: SamplingParams) -> tuple[BadTextAutomaton, ...]:
        """Return automata that ban the bad words given as text.

        The automata are kept for later requests with the same words.
        """
        texts = [word for word in params.bad_words if isinstance(word, str)]
        return self._text_bans.of(texts) if texts and self._text_bans else ()


def _check_size(bad_words: list[tuple[int, ...]]) -> None:
    longest = max(map(len, bad_words), default=0)
    if longest > 1 and longest * len(bad_words) > MOST_WORD_TOKENS:
        raise InvalidRequest(
            f"bad_words holds {counted(len(bad_words), 'word')} of up to {counted(longest, 'token')}; the number of words, "
            f"multiplied by the number of tokens of the longest word, may be at most {MOST_WORD_TOKENS}: give fewer or "
            "shorter words"
        )
