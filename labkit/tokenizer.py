"""Text to token ids and back, by the `tokenizer.json` of a byte-level BPE (GPT-2's form, which GPT-J uses)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from labkit.errors import CheckpointError, InvalidRequest


class Tokenizer:
    """Wraps the `tokenizers` library around one `tokenizer.json`, at `path`.

    content: the text of a `tokenizer.json`, where it was made of other files, of which `path` is one. Raises
    `CheckpointError` when it cannot be read.
    """

    def __init__(self, path: str | Path, content: str | None = None) -> None:
        from tokenizers import Tokenizer as Backend

        self.path = Path(path)
        try:
            self._backend = Backend.from_file(str(path)) if content is None else Backend.from_str(content)
        except Exception as error:  # the library raises bare Exception
            raise CheckpointError(f"cannot read the tokenizer {path}: {error}") from error
        self._bytes: dict[int, bytes] = {}
        self._special = {token for token, added in self._backend.get_added_tokens_decoder().items() if added.special}

    @property
    def vocab_size(self) -> int:
        """Number of tokens, added ones included."""
        return int(self._backend.get_vocab_size())

    @property
    def highest_ids(self) -> tuple[int, int]:
        """The highest token id without the added tokens, and with them; -1 where there is none."""
        plain, all_tokens = (self._backend.get_vocab(with_added_tokens=added).values() for added in (False, True))
        return max(plain, default=-1), max(all_tokens, default=-1)

    def save(self, path: str | Path) -> None:
        """Write it as a `tokenizer.json`."""
        self._backend.save(str(path))

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`; raises `InvalidRequest` for anything but a string that UTF-8 can write."""
        if not isinstance(text, str):
            raise InvalidRequest(f"text to tokenize is {text!r}; a string is accepted")
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise InvalidRequest(f"the text holds {text[error.start]!r}, half a character that UTF-8 cannot write") from None
        ids: list[int] = self._backend.encode(text, add_special_tokens=False).ids
        return ids

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of token ids; special tokens and ids without an entry give none."""
        return b"".join(map(self.token_bytes, token_ids)).decode("utf-8", "replace")

    def token_bytes(self, token_id: int) -> bytes:
        """The UTF-8 bytes one token stands for, possibly part of a character; none for special or unused ids."""
        known = self._bytes.get(token_id)
        if known is None:
            known = self._bytes[token_id] = self._find_bytes(token_id)
        return known

    def _find_bytes(self, token_id: int) -> bytes:
        token = self._backend.id_to_token(token_id)
        if token is None or token_id in self._special:
            return b""
        if any(character not in _BYTE_OF for character in token):
            return str(token).encode("utf-8")  # an added token is written as it is
        return bytes(_BYTE_OF[character] for character in token)


def _byte_alphabet() -> dict[str, int]:
    """GPT-2's printable stand-in for each byte: itself where it is printable, else 256, 257, ... in order."""
    printable = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    stand_ins = iter(range(256, 512))
    return {chr(byte if byte in printable else next(stand_ins)): byte for byte in range(256)}


_BYTE_OF = _byte_alphabet()
