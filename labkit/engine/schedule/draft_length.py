"""Decides how many tokens a draft model guesses in the next step, from measured times and the share of guesses that were right.

Speculative decoding (Leviathan, Kalman and Matias 2023, https://arxiv.org/abs/2211.17192): if each guess is right with
probability a, a step that checks k guesses generates (1 - a^(k+1)) / (1 - a) tokens on average (their equation 1). Such a step
saves time only if plain steps would take longer for these tokens. Both times depend on the machine, the two models and the
number of sequences, so they are measured while the engine runs.

This module knows nothing about the models.
"""

from __future__ import annotations

from collections import deque
from statistics import median

MOST_GUESSES = 8
"""The largest number of guesses for one sequence in one step."""

GAIN = 1.03
"""Guessing is used only if it is expected to be faster than plain steps by this factor."""

GRACE = 1.0
"""The time that guessing may cost before it has saved any time. The unit is the time of a plain step (without guesses)."""

SHARE = 0.015
"""The share of the decoding time that may be lost to guessing later on."""

PLAIN_SAMPLES = 3
"""How many plain steps are measured before the first guess."""

REMEASURE = 64
"""After this many steps with guesses, a plain step is measured again."""

PROBE = 24
"""While guessing saves no time, one guess is tried after this many plain steps, if the time lost so far is within the limit."""

REST = 8
"""The number of plain steps between a decision not to guess and the next decision, because deciding takes time, too."""

KEPT = 9
"""How many measurements of each kind are kept; their median is used."""

FORGET = 0.02
"""The weight of the newest guess in the running estimate of the share of right guesses."""

SPREAD = 32
"""The time in which a draft reads a text is counted as lost in equal parts, spread over about this many new tokens."""


class DraftLength:
    """Chooses the number of guesses for each sequence. `prior`: the share of right guesses to expect before the first guess.

    `cost`: an estimate of the draft's time to read a token of a prompt, divided by the target's time, such as the ratio of the
    numbers of parameters. This estimate is used until both times have been measured.
    """

    def __init__(self, cost: float, prior: float = 0.7) -> None:
        self.right_share = prior
        self.judged_count = 0
        self._cost = cost
        # seconds of a step, by the number of sequences and the number of guesses for each sequence
        self._steps: dict[tuple[int, int], deque[float]] = {}
        self._passes: dict[int, deque[float]] = {}  # seconds of a pass of the draft, by the number of sequences
        self._reading: deque[float] = deque(maxlen=KEPT)  # seconds in which the draft reads one token of a text
        self._target_reading: deque[float] = deque(maxlen=KEPT)  # seconds in which the target reads one token of a prompt
        self._rest: dict[int, int] = {}  # plain steps before the next decision, by the number of sequences
        self._since_plain = self._since_guess = 0
        self._total = self._lost = self._owed = 0.0

    def choose(self, sequences: int) -> int:
        """The number of tokens to guess for each of `sequences` sequences that decode in the next step; 0 for a plain step."""
        if self._rest.get(sequences) or len(self._steps.get((sequences, 0), ())) < PLAIN_SAMPLES:
            return 0
        if self._since_plain >= REMEASURE:
            self._forget_few(sequences)
            return 0
        best = self._best(sequences)
        if best and self._lost <= self._limit(sequences):
            return best
        probe = self._seconds(sequences, 1) - self._seconds(sequences, 0)
        if self._since_guess >= PROBE and self._lost + self._owed + probe <= SHARE * self._total:
            return 1
        self.pause(sequences)
        return 0

    def pause(self, sequences: int) -> None:
        """Make the next steps plain steps, for example because the draft could not guess."""
        self._rest[sequences] = REST

    def may_read(self, tokens: int, left: int, sequences: int) -> bool:
        """Whether the draft should read `tokens` tokens of a text to which at most `left` more tokens will be added.

        The draft should read if this takes no more than the time that may still be lost. Once guessing has proved useful, it
        should also read if this takes at most half of the time that the guesses are expected to save.
        """
        plain = median(self._steps[sequences, 0])
        needed = tokens * (median(self._reading) if self._reading else self._cost * self._target_pace(plain))
        if needed <= self._limit(sequences) - self._lost - self._owed:
            return True
        best = self._best(sequences)
        if not best or self.judged_count < MOST_GUESSES:
            return False
        saved = plain / sequences - self._seconds(sequences, best) / (sequences * expected_tokens(self.right_share, best))
        return needed <= 0.5 * saved * left

    def judged(self, right: int, guessed: int) -> None:
        """Record that `right` of the guesses for a sequence were right. Guesses after the first wrong guess are not counted."""
        for was_right in (1.0,) * right + (0.0,) * (right < guessed):
            self.right_share += (was_right - self.right_share) * max(FORGET, 1 / (self.judged_count + 3))
            self.judged_count += 1

    def stepped(self, sequences: int, guessed: int, made: int, seconds: float, reading: float = 0.0) -> None:
        """Record that a step of `sequences` sequences generated `made` tokens, with `guessed` guesses in total.

        `reading` is the part of the step's `seconds` in which the draft read texts.
        """
        if not guessed and (rest := self._rest.get(sequences)):
            self._rest[sequences] = rest - 1
            self._since_plain, self._since_guess = 0, self._since_guess + 1
            self._total += seconds
            return
        each, uneven = divmod(guessed, sequences)
        usable = not uneven and not reading
        if usable:
            self._steps.setdefault((sequences, each), deque(maxlen=KEPT)).append(seconds)
        self._since_plain, self._since_guess = (self._since_plain + 1, 0) if guessed else (0, self._since_guess + 1)
        if not (plain := self._steps.get((sequences, 0))):
            return
        usual = median(plain) * made / sequences
        self._total += usual
        self._owed += reading
        due = self._owed * min(1.0, made / (sequences * SPREAD))
        self._owed -= due
        if guessed:
            taken = self._seconds(sequences, each) if usable else seconds - reading
            due += min(taken, self._most(sequences, -(-guessed // sequences))) - usual
        self._lost = max(0.0, self._lost + due)

    def passed(self, sequences: int, seconds: float) -> None:
        """Record that a pass of the draft with one token from each of `sequences` sequences took `seconds`."""
        self._passes.setdefault(sequences, deque(maxlen=KEPT)).append(seconds)

    def read(self, tokens: int, seconds: float) -> None:
        """Record that the draft read `tokens` tokens of texts in `seconds`."""
        self._reading.append(seconds / tokens)

    def target_read(self, tokens: int, seconds: float) -> None:
        """Record that the target read `tokens` tokens of prompts in `seconds`, in a step without decoding."""
        self._target_reading.append(seconds / tokens)

    def _forget_few(self, sequences: int) -> None:
        """Forget step times with too few measurements. Otherwise one slow step could rule out a number of guesses for ever."""
        few = [key for key, known in self._steps.items() if key[0] == sequences and key[1] and len(known) < PLAIN_SAMPLES]
        for key in few:
            del self._steps[key]

    def _best(self, sequences: int) -> int:
        """The number of guesses at which a token takes the least time; 0 if guessing is not expected to save time."""
        plain = median(self._steps[sequences, 0])
        known = max(each for count, each in self._steps if count == sequences)
        choices = range(1, min(2 * known + 1, MOST_GUESSES) + 1)
        paces = {each: self._seconds(sequences, each) / expected_tokens(self.right_share, each) for each in choices}
        best = min(paces, key=paces.__getitem__)
        return best if paces[best] * GAIN <= plain else 0

    def _seconds(self, sequences: int, each: int) -> float:
        """The time of a step with `each` guesses for each sequence: the measured time, or an optimistic estimate.

        A few measurements are not trusted, because all of them can be too large if other programs were running.
        """
        known = self._steps.get((sequences, each), ())
        if len(known) >= PLAIN_SAMPLES or not each:
            return median(known)
        if known:
            return min(*known, self._most(sequences, each))
        return self._seconds(sequences, each - 1) + self._pass(sequences)

    def _most(self, sequences: int, each: int) -> float:
        """The longest time that a step should take: a plain step, and for each guess another plain step and draft pass."""
        return median(self._steps[sequences, 0]) * (1 + each) + self._pass(sequences) * each

    def _pass(self, sequences: int) -> float:
        passes = self._passes.get(sequences)
        return median(passes) if passes else 0.0

    def _limit(self, sequences: int) -> float:
        return SHARE * self._total + GRACE * median(self._steps[sequences, 0])

    def _target_pace(self, plain: float) -> float:
        return median(self._target_reading) if self._target_reading else plain


def expected_tokens(right_share: float, guesses: int) -> float:
    """The number of tokens that a step generates on average if each guess is right with probability `right_share`."""
    return sum(right_share**place for place in range(guesses + 1))
