"""Converts text to token ids and back with the `tokenizer.json` of a byte-level BPE (the kind that GPT-2 and GPT-J use).

The ids are the same as the ids from transformers' `tokenizer(text)`: the file's normalizer, added tokens and post-processor
(which may put special tokens around a text) are applied. Three settings that the file may contain are not applied: truncation,
padding, and dropout, which is for training and splits the same text differently each time. `tokenizer_config.json` is not read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from labkit.errors import CheckpointError, InvalidRequest


class Tokenizer:
    """The tokenizer of the `tokenizer.json` at `path`; wraps the `tokenizers` library.

    content: the text of a `tokenizer.json` that was made from other files; `path` is then the path of one of these files.
    Raises `CheckpointError` when the tokenizer cannot be read.
    """

    def __init__(self, path: str | Path, content: str | None = None) -> None:
        from tokenizers import Tokenizer as Backend

        self.path = Path(path)
        try:
            self._backend = Backend.from_file(str(path)) if content is None else Backend.from_str(content)
        except Exception as error:  # the library raises bare Exception
            raise CheckpointError(f"cannot read the tokenizer {path}: {error}") from error
        self._backend.no_truncation()
        self._backend.no_padding()
        if getattr(self._backend.model, "dropout", None) is not None:
            self._backend.model.dropout = None
        self._bytes: dict[int, bytes] = {}
        added = self._backend.get_added_tokens_decoder()
        self._special = {token: str(one.content) for token, one in added.items() if one.special}

    @property
    def vocab_size(self) -> int:
        """The number of tokens, including added tokens."""
        return int(self._backend.get_vocab_size())

    @property
    def highest_ids(self) -> tuple[int, int]:
        """Two numbers: the highest id of the tokens that are not added tokens, and the highest id of all tokens.

        The first number is -1 if all tokens are added tokens; both numbers are -1 if there are no tokens.
        """
        plain, all_tokens = (self._backend.get_vocab(with_added_tokens=added).values() for added in (False, True))
        return max(plain, default=-1), max(all_tokens, default=-1)

    def save(self, path: str | Path) -> None:
        """Write a `tokenizer.json` to `path`."""
        self._backend.save(str(path))

    @property
    def special_tokens(self) -> Mapping[int, str]:
        """The names of special tokens, such as `<|endoftext|>`, by token id; `decode` leaves them out."""
        return self._special

    def encode(self, text: str, *, whole: bool = True) -> list[int]:
        """The token ids of `text`. Raises `InvalidRequest` unless `text` is a string that UTF-8 can encode.

        If `whole` is True, the special tokens that `tokenizer.json` puts around a text are added. Use `whole=False` for a part
        of a text.
        """
        if not isinstance(text, str):
            raise InvalidRequest(f"text to tokenize is {text!r}; a string is accepted")
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise InvalidRequest(f"the text holds {text[error.start]!r}, half a character, which UTF-8 cannot encode") from None
        ids: list[int] = self._backend.encode(text, add_special_tokens=whole).ids
        return ids

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of token ids; special tokens and unknown ids are skipped."""
        return b"".join(map(self.token_bytes, token_ids)).decode("utf-8", "replace")

    def token_bytes(self, token_id: int) -> bytes:
        """The UTF-8 bytes of one token, which may be a part of a character. Special tokens and unused ids have no bytes."""
        known = self._bytes.get(token_id)
        if known is None:
            known = self._bytes[token_id] = self._find_bytes(token_id)
        return known

    def _find_bytes(self, token_id: int) -> bytes:
        token = self._backend.id_to_token(token_id)
        if token is None or token_id in self._special:
            return b""
        if any(character not in _BYTE_OF for character in token):
            return str(token).encode("utf-8")  # an added token is stored as plain text
        return bytes(_BYTE_OF[character] for character in token)


def _byte_alphabet() -> dict[str, int]:
    """Return the byte for each printable character with which GPT-2 writes bytes.

    A printable byte is written as itself. The bytes that are not printable are written as the characters 256, 257, ... in
    order.
    """
    printable = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    stand_ins = iter(range(256, 512))
    return {chr(byte if byte in printable else next(stand_ins)): byte for byte in range(256)}


_BYTE_OF = _byte_alphabet()
