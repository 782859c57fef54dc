"""Finds the position of each value in protobuf's text format. This module does not check whether fields and values are legal.

The format is described at https://protobuf.dev/reference/protobuf/textformat-spec/
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field

TOKEN = re.compile(
    r"""(?:\s|\#[^\n]*)*                                    # blanks and comments
    (?: (?P<string> "(?:\\.|[^"\\\n])*" | '(?:\\.|[^'\\\n])*' )
      | (?P<word> -?\s*[\w.+]+(?:-\d+)? )
      | (?P<sign> [\[\]{}<>:,;] )
      | (?P<end> \Z )
      | (?P<other> . ) )""",
    re.VERBOSE,
)
CLOSES = {"{": "}", "<": ">", "[": "]"}


class Malformed(Exception):
    """The text ends too early, or has a character in the wrong place; `line` says where."""

    def __init__(self, line: int, what: str) -> None:
        super().__init__(what)
        self.line = line


@dataclass
class Block:
    """A message: the text between two braces, or the whole file.

    line: the line of the opening brace. start, end: offsets in the text, including the braces.
    refused: names of fields that were removed because they are not legal.
    """

    line: int
    start: int = 0
    end: int = 0
    fields: list[Field] = field(default_factory=list)
    refused: set[str] = field(default_factory=set)


@dataclass
class Field:
    """A name and one value; `dims: [ 1, 2 ]` becomes two fields.

    value: a block, or the scalar as it is written. line: the line of the value, or of the name if a block follows it.
    start, end: offsets of the statement in the text; the elements of a list share these offsets.
    """

    name: str
    value: Block | str
    line: int
    start: int
    end: int = 0


@dataclass(frozen=True)
class Token:
    """A string, a word or a punctuation mark; `start` and `end` are offsets in the text."""

    kind: str
    text: str
    start: int
    end: int


class Lines:
    """Converts offsets in a text to line numbers, counted from 1, and back."""

    def __init__(self, text: str) -> None:
        self._starts = [0, *(match.end() for match in re.finditer("\n", text))]

    def of(self, offset: int) -> int:
        """The line number of an offset."""
        return bisect_right(self._starts, offset)

    def offset(self, line: int, column: int) -> int:
        """The offset of a line and column, both counted from 1."""
        return self._starts[min(line, len(self._starts)) - 1] + column - 1


def parse(text: str) -> Block:
    """Parse a text into a tree. Raises `Malformed` if that is impossible."""
    return _Parser(text).whole()


def path_to(block: Block, offset: int) -> list[tuple[Block, Field]]:
    """The statements around an offset, the outermost first, each with the block that holds it; empty if there is none."""
    for statement in block.fields:
        if isinstance(statement.value, Block) and statement.value.start <= offset < statement.value.end:
            return [(block, statement), *path_to(statement.value, offset)]
    return [(block, statement) for statement in block.fields if statement.start <= offset < statement.end][:1]


class _Parser:
    def __init__(self, text: str) -> None:
        self._lines = Lines(text)
        self._tokens = list(_tokens(text))
        self._next = 0

    def whole(self) -> Block:
        block = Block(1)
        self._fill(block, "")
        return block

    def _peek(self) -> Token:
        return self._tokens[self._next]

    def _take(self) -> Token:
        token = self._peek()
        self._next += token.kind != "end"
        return token

    def _took(self, *signs: str) -> bool:
        if self._peek().text not in signs or self._peek().kind != "sign":
            return False
        self._take()
        return True

    def _fill(self, block: Block, closing: str) -> None:
        while (token := self._take()).text != closing or token.kind not in ("sign", "end"):
            if token.kind != "word":
                raise self._unexpected(token, f"a field's name{f' or the {closing} of line {block.line}' if closing else ''}")
            fields = self._statement(token)
            for statement in fields:
                statement.end = self._tokens[self._next - 1].end
            block.fields += fields
            self._took(",", ";")

    def _statement(self, name: Token) -> list[Field]:
        colon = self._took(":")
        line = self._lines.of(name.start)
        if self._peek().text in ("{", "<"):
            return [Field(name.text, self._block(), line, name.start)]
        if self._peek().text == "[":
            return list(self._list(name))
        if not colon:
            raise self._unexpected(self._peek(), f"a colon or brace after {name.text}")
        return [self._scalar(name, name.start)]

    def _block(self) -> Block:
        opening = self._take()
        block = Block(self._lines.of(opening.start), opening.start)
        self._fill(block, CLOSES[opening.text])
        block.end = self._tokens[self._next - 1].end
        return block

    def _list(self, name: Token) -> Iterator[Field]:
        opening = self._lines.of(self._take().start)
        while not self._took("]"):
            token = self._peek()
            if token.text in ("{", "<"):
                yield Field(name.text, self._block(), self._lines.of(token.start), name.start)
            else:
                yield self._scalar(name, name.start)
            self._separator(name, opening)

    def _separator(self, name: Token, opening: int) -> None:
        comma = self._peek()
        if self._took(",") and self._peek().text == "]":
            raise Malformed(self._lines.of(comma.start), f"a comma follows the last value of {name.text}")
        if comma.text not in (",", "]"):
            raise self._unexpected(comma, f"a comma or the ] of {name.text}, line {opening},")

    def _scalar(self, name: Token, start: int) -> Field:
        token = self._take()
        if token.kind not in ("word", "string"):
            raise self._unexpected(token, f"a value of {name.text}")
        written = [token.text]
        while token.kind == "string" and self._peek().kind == "string":
            written.append(self._take().text)
        return Field(name.text, " ".join(written), self._lines.of(token.start), start)

    def _unexpected(self, token: Token, wanted: str) -> Malformed:
        given = {"end": "the end of the file", "other": f"{token.text}, perhaps from a string that is not closed in its line,"}
        return Malformed(
            self._lines.of(token.start), f"{given.get(token.kind, token.text)} is found where {wanted} is expected"
        )


def _tokens(text: str) -> Iterator[Token]:
    for match in TOKEN.finditer(text):
        kind = str(match.lastgroup)
        yield Token(kind, match[kind], match.start(kind), match.end(kind))
        if kind == "end":
            return
